"""Select: facts in, verdicts out; no images and no GPU."""

from pipelines.stages.select.config import SelectConfig, Threshold
from pipelines.stages.select.step import Select
from pipelines.stages.select.verdict import check_thresholds

__all__ = ["Select", "SelectConfig", "Threshold", "check_thresholds"]
