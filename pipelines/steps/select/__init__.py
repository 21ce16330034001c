"""Select: facts in, verdicts out; no images and no GPU."""

from pipelines.rules.column_rule import Threshold
from pipelines.rules.ranked_rules import BestOf
from pipelines.steps.select.config import DuplicatesConfig, ReferenceConfig, SelectConfig
from pipelines.steps.select.plan import check_select, input_digests
from pipelines.steps.select.step import Select

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
