"""Score: one CLIP forward per image feeds every score."""

from pipelines.steps.score.heads import HeadConfig
from pipelines.steps.score.score import ScoreConfig
from pipelines.steps.score.step import ScoreStep

__all__ = ["HeadConfig", "ScoreConfig", "ScoreStep"]
