"""Prompts: a list of them, read, checked and cut into shards that a run keeps."""

from pipelines.prompts.config import PromptPlanConfig, PromptsConfig
from pipelines.prompts.plan import PromptGrowth, PromptPlanner
from pipelines.prompts.record import (
    PromptPlan,
    expand_rows,
    is_prompt_plan,
    keys_in_two_shards,
    load_prompt_plan,
    read_prompts,
)
from pipelines.prompts.takedown import mask_plan, read_images, read_left_rows

__all__ = [
    "PromptGrowth",
    "PromptPlan",
    "PromptPlanConfig",
    "PromptPlanner",
    "PromptsConfig",
    "expand_rows",
    "is_prompt_plan",
    "keys_in_two_shards",
    "load_prompt_plan",
    "mask_plan",
    "read_images",
    "read_left_rows",
    "read_prompts",
]
