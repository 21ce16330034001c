"""A run's recorded options against those that a job has: the same, or refused by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from pipelines.run.amendments import LIFTED
from pipelines.run.option_changes import describe_changes
from pipelines.run.record import (
    REVISION_FILE,
    RunMismatchError,
    StepIdentity,
    read_run,
    write_revision,
    write_run,
)
from pipelines.run.store import RunStore


class MayChange(TypedDict):
    """What may differ from the options that a run records.

    Attributes:
        recut: Steps asked for by name, whose options may change as a new revision.
        revised: Options of the first step that a retry or a growth has changed.
    """

    recut: frozenset[str]
    revised: Sequence[str]


def check_or_record(
    store: RunStore,
    identities: Iterable[StepIdentity],
    *,
    job: Mapping[str, Any],
    recut: frozenset[str] = frozenset(),
    revised: Sequence[str] = (),
    begin: Callable[[], None] | None = None,
) -> None:
    """Refuse a run whose recorded options differ, as `check_recorded` does; else write run.json.

    Args:
        job: What else run.json keeps: the resolved configuration (no secrets), versions, models.
        begin: Writes what has to be there before it.
    """
    now = {identity.step: identity for identity in identities}
    recorded = check_recorded(store, now.values(), recut=recut, revised=revised)
    if begin is not None:
        begin()
    steps = {
        step: {"fingerprint": identity.fingerprint, "options": identity.options}
        for step, identity in now.items()
    }
    if job.get("job") != "train" and not store.exists(REVISION_FILE):
        write_revision(store, 0, {})  # so that one that is lost later is missed
    write_run(store, {**job, "steps": {**recorded, **steps}})


def check_recorded(
    store: RunStore,
    identities: Iterable[StepIdentity],
    *,
    recut: frozenset[str] = frozenset(),
    revised: Sequence[str] = (),
) -> dict[str, Any]:
    """Refuse a run whose recorded options differ; returns the recorded steps.

    Args:
        store: The run.
        identities: Every step of the job, with its present options.
        recut, revised: Of `MayChange`.

    Raises:
        RunMismatchError: naming each step and option that differs, and what to do.
    """
    now = {identity.step: identity for identity in identities}
    recorded: dict[str, Any] = read_run(store).get("steps", {})
    differences = _describe_differences(recorded, now, recut=recut, revised=revised)
    if differences:
        raise RunMismatchError(
            f"{store.root}: this run was made with other options:\n" + "\n".join(differences) + "\n"
            "Give the same options to resume it, another `output` for a new run, or ask by name "
            "for a re-cut of the last steps: --steps select,encode"
        )
    return recorded


def _describe_differences(
    recorded: Mapping[str, Any],
    now: Mapping[str, StepIdentity],
    *,
    recut: frozenset[str],
    revised: Sequence[str],
) -> list[str]:
    differences: list[str] = []
    first = next(iter(now), None)
    is_explained = False  # by an earlier step that differs, which changes this one's fingerprint
    for step, identity in now.items():
        before = recorded.get(step)
        if before is None or before["fingerprint"] == identity.fingerprint:
            continue
        if step not in recut:
            free = (LIFTED, *revised) if step == first else (LIFTED,)
            every = describe_changes(before["options"], identity.options)
            lines = [line for line in every if not line.startswith(free)]
            is_explained |= (step == first and bool(revised)) or lines != every
            if not lines and not is_explained:
                differences.append(f"  - {step}: a step that it is made from was added or left out")
            differences += [f"  - {step}.{line}" for line in lines]
        is_explained = True
    return differences
