"""`--plan`: what a curation or a generation would do and take; nothing is written anywhere."""

from collections.abc import Collection, Sequence
from typing import Unpack

from pipelines.plan import Plan
from pipelines.prompts import PromptPlan
from pipelines.report.outlook import (
    Owed,
    check_may_write,
    disk_lines,
    estimate,
    find_past,
    model_lines,
)
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.draft_store import DraftStore
from pipelines.run.store import RunStore
from pipelines.workflows.asked_job import Asked
from pipelines.workflows.curate import Curation
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.generate import Generation
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.run_steps import RunSteps
from sd_core.model.download import nothing_fetched
from sd_core.model.weights_here import look_for_weights
from sd_core.say import Say


def preview_job(
    config: CurateConfig | GenerateJobConfig, *, say: Say, **asked: Unpack[Asked]
) -> list[str]:
    """What the job would do, in lines; raises what the job would be refused for."""
    store = RunStore(config.output, config.storage_options)
    draft = DraftStore.over(store)
    with nothing_fetched():
        models = look_for_weights(config.weight_needs())
        job: Curation | Generation = (
            Curation(config, draft, **asked, say=say)
            if isinstance(config, CurateConfig)
            else Generation(config, draft, **asked, say=say)
        )
        if is_unfinished(store):
            say("a takedown was interrupted: the job finishes it first")
        is_here = all(model.num_bytes is not None for model in models)
        made = (job.check() or job.begin()) if is_here else None
        plan = job.plan_unchecked() if made is None else made.plan
        chains = _owed(job.asked, made, plan, models=config.model_sections())
    check_may_write(store)
    past = find_past(store, job=job.name, origin=config.origin)
    gpus = config.engine.gpus
    told = estimate(chains, past, gpus=gpus if isinstance(gpus, int) else None, job=job.name)
    return [
        f"rows: {plan.num_rows:,} in {plan.num_shards:,} shards",
        f"steps: {', '.join(job.asked)}",
        *model_lines(models),
        *disk_lines(store, needed=told.num_bytes),
        *told.lines,
        "nothing was written",
    ]


def _owed(
    asked: Sequence[str],
    made: RunSteps | None,
    plan: Plan | PromptPlan,
    *,
    models: Collection[str],
) -> list[list[Owed]]:
    """What each step still has to do; all of it where models are to be fetched first.

    Args:
        models: Steps that load some.
    """
    if made is not None:
        made.adopt(made.origin)
    return [
        [
            Owed(
                step=step,
                rows=round(plan.num_rows * (1 - _share_done(made, step))),
                loads_models=step in models,
            )
            for step in chain
        ]
        for chain in ([[step] for step in asked] if made is None else made.chains(asked))
    ]


def _share_done(made: RunSteps | None, step: str) -> float:
    if made is None:
        return 0.0
    return len(made.committed(step).shards()) / max(1, made.num_shards(step))
