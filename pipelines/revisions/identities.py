"""A run's steps as run.json records them: amending a run needs no configuration."""

from collections.abc import Mapping
from typing import Any

from pipelines.config import ConfigError
from pipelines.run.amendments import OPTION, Amendments
from pipelines.run.record import StepIdentity
from pipelines.run.revision_files import origin_of
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS, kinds_of


def recorded_steps(store: RunStore, run: Mapping[str, Any]) -> dict[str, StepIdentity]:
    """The steps that run.json records, by name in order, the one that makes the images first.

    Raises:
        ConfigError: it is no curated or generated run, or has begun no step.
    """
    origin = origin_of(run.get("steps", {}))
    if origin is None:
        raise ConfigError(
            f"{store.root}: a takedown is for curated and generated runs that have begun, and this "
            f"is {run.get('job', 'none')!r}; takedown.py of the run that a training learnt from "
            "lists it"
        )
    found: dict[str, StepIdentity] = {}
    for kind in kinds_of(origin):
        name = kind.name
        if name in run["steps"]:
            chain = tuple(found[parent].fingerprint for parent in kind.parents if parent in found)
            options = run["steps"][name]["options"]
            found[name] = StepIdentity(step=name, options=options, parents=chain)
            if found[name].fingerprint != run["steps"][name]["fingerprint"]:
                raise ConfigError(
                    f"{store.root}: run.json's options of {name} do not give its fingerprint; "
                    "run the job again with its configuration"
                )
    return found


def with_amendments(
    old: Mapping[str, StepIdentity], amendments: Amendments
) -> dict[str, StepIdentity]:
    """The same steps with other amendments."""
    new: dict[str, StepIdentity] = {}
    for name, step in old.items():
        options = dict(step.options)
        if STEP_KINDS[name].makes_images:
            times = options.pop(OPTION, {}).get("lifted", 0)  # what was begun is left to the job
            options |= amendments.identity(name, is_first=True, times=times)
        parents = tuple(new[p].fingerprint for p in STEP_KINDS[name].parents if p in new)
        new[name] = StepIdentity(step=name, options=options, parents=parents)
    return new
