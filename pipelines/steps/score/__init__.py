"""Score: every scorer that the configuration names; one CLIP forward per image feeds them."""

from pipelines.steps.score.config import ScoreConfig, all_score_columns
from pipelines.steps.score.heads import HeadConfig
from pipelines.steps.score.step import ScoreStep

__all__ = ["HeadConfig", "ScoreConfig", "ScoreStep", "all_score_columns"]
