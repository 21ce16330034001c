"""A curated run's steps as run.json records them: amending a run needs no configuration."""

from collections.abc import Mapping
from typing import Any

from pipelines.config import ConfigError
from pipelines.run.amendments import Amendments
from pipelines.run.record import StepIdentity
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS, kinds_of


def recorded_steps(store: RunStore, run: Mapping[str, Any]) -> dict[str, StepIdentity]:
    """The steps that run.json records, by name in order; raises `ConfigError` for other runs."""
    if run.get("job") != "curate":
        raise ConfigError(
            f"{store.root}: a takedown is for curated runs, and this is "
            f"{run.get('job', 'none')!r}; leave the prompts out and generate a new run instead"
        )
    found: dict[str, StepIdentity] = {}
    for kind in kinds_of("download"):
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
        if name == "download":
            options = {k: v for k, v in options.items() if k != "edition"} | amendments.identity()
        parents = tuple(new[p].fingerprint for p in STEP_KINDS[name].parents if p in new)
        new[name] = StepIdentity(step=name, options=options, parents=parents)
    return new
