"""The plan of a run: fixed shards of the source's rows, and what is settled before any download."""

from pipelines.plan.grow import Growth, grow_plan
from pipelines.plan.inputs import check_plan_inputs
from pipelines.plan.limit import allows_more, go_on, is_to_go_on, refuse_growth
from pipelines.plan.make import PlanConfig, make_plan
from pipelines.plan.record import Plan, PlanError, load_plan, read_rows, read_settled

__all__ = [
    "Growth",
    "Plan",
    "PlanConfig",
    "PlanError",
    "allows_more",
    "check_plan_inputs",
    "go_on",
    "grow_plan",
    "is_to_go_on",
    "load_plan",
    "make_plan",
    "read_rows",
    "read_settled",
    "refuse_growth",
]
