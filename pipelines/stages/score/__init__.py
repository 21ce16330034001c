"""Score: one CLIP forward per image feeds every score."""

from pipelines.stages.score.heads import HeadConfig
from pipelines.stages.score.score import ScoreConfig
from pipelines.stages.score.step import ScoreStep

__all__ = ["HeadConfig", "ScoreConfig", "ScoreStep"]
