"""Select: facts in, verdicts out; no images and no GPU."""

from pipelines.stages.select.config import SelectConfig
from pipelines.stages.select.duplicates_config import DuplicatesConfig, ReferenceConfig
from pipelines.stages.select.plan import check_select, input_digests
from pipelines.stages.select.rule_config import BestOf, Threshold
from pipelines.stages.select.step import Select

__all__ = [
    "BestOf",
    "DuplicatesConfig",
    "ReferenceConfig",
    "Select",
    "SelectConfig",
    "Threshold",
    "check_select",
    "input_digests",
]
