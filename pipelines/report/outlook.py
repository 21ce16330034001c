"""What a job would take: models to fetch, free disk, and estimates from the rates of a run before.

Nothing is written. What no earlier run tells is said to be unknown.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.run.committed import Committed
from pipelines.run.processors import is_gpu, noted_processors
from pipelines.run.rates import read_rates
from pipelines.run.record import read_revision, read_run
from pipelines.run.store import RunStore, StorageError
from sd_core.model.weights_here import WeightsHere
from sd_core.redact import redact_url
from sd_core.say import duration, size

_MOST_SIBLINGS = 200
_SAMPLED_SHARDS = 40


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What a step still has to do.

    Attributes:
        rows: Rows of the list whose shards it has not committed.
    """

    step: str
    rows: int
    loads_models: bool


@dataclass(frozen=True, kw_only=True)
class StepPast:
    """What a step of an earlier run took.

    Attributes:
        row_s: Seconds for a row of the list.
        row_bytes: That it wrote for one.
        processors: Types that its models ran on.
    """

    row_s: float
    row_bytes: float
    processors: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Past:
    """An earlier run, whose rates tell how long another takes."""

    path: str
    steps: dict[str, StepPast]


def find_past(store: RunStore, *, job: str, origin: str) -> Past | None:
    """The run itself where it has rates, else the one beside it that has most; None where none has.

    Args:
        job: Of which it must be, as run.json has it.
        origin: The step that makes the run's images.
    """
    mine = _past(store, job, origin)
    if mine is not None:
        return mine[1]
    found = [past for each in beside(store) if (past := _past(each, job, origin)) is not None]
    return max(found, key=lambda each: each[0], default=(0, None))[1]


def beside(store: RunStore) -> Iterator[RunStore]:
    """The folders that lie where the output does, some hundred at most."""
    root, _, name = store.root.rstrip("/").rpartition("/")
    if not root or root.endswith(":/"):
        return
    for other in store.other(root).list_folders("")[:_MOST_SIBLINGS]:
        if other != name:
            yield store.other(f"{root}/{other}")


def _past(store: RunStore, job: str, origin: str) -> tuple[int, Past] | None:
    """With the rows that its rates are of."""
    each = [rates for rates_of_job in read_rates(store) for rates in rates_of_job]
    run = read_run(store) if each else {}
    recorded = run.get("steps", {})
    if run.get("job") != job or origin not in recorded:
        return None
    done = read_revision(store).steps
    steps, rows = {}, Counter[str]()
    for rates in each:
        rows[rates.step] += sum(rates.rows)
    for name in [name for name in rows if name in recorded]:
        seconds = sum(rates.width_s * len(rates.rows) for rates in each if rates.step == name)
        # Of 100 rows of the list, score may see 60.
        is_known = name in done and origin in done and done[origin].rows_in
        share = done[name].rows_in / done[origin].rows_in if is_known else 1.0
        made = Committed(store, name, recorded[name]["fingerprint"])
        steps[name] = StepPast(
            row_s=seconds / rows[name] * share,
            row_bytes=_row_bytes(made) * share,
            processors=noted_processors(store, made.folder),
        )
    return rows[origin], Past(path=redact_url(store.root), steps=steps)


def _row_bytes(made: Committed) -> float:
    """What a step wrote for a row that it took in, by some of its shards."""
    shards = sorted(made.shards())
    manifests = [made.manifest(at) for at in shards[:: len(shards) // _SAMPLED_SHARDS + 1]]
    num_bytes = sum(file.num_bytes for manifest in manifests for file in manifest.files)
    return num_bytes / max(1, sum(manifest.rows_in for manifest in manifests))


def model_lines(models: Sequence[WeightsHere]) -> Iterator[str]:
    if not models:
        yield "models: none"
        return
    missing = [model for model in models if model.num_bytes is None]
    told = f"{len(missing)} to fetch, sizes unknown" if missing else "nothing to fetch"
    yield f"models: {told}"
    for model in models:
        is_here = model.num_bytes is not None
        state = f"here, {size(model.num_bytes or 0)}" if is_here else "to fetch, size unknown"
        yield f"  {model.where}: {model.ref}: {state}"


def check_may_write(store: RunStore) -> None:
    """Raise `StorageError` where the job could not write its output: a folder that this user may
    not write. Whether a store takes what is written to it, only the job finds out."""
    folder = _nearest(Path(store.absolute(""))) if store.is_local else None
    if folder is not None and not os.access(folder, os.W_OK):
        raise StorageError(
            f"output {store.root}: cannot be written: {folder} may not be written by this user; "
            "give a folder that it may write"
        )


def disk_lines(store: RunStore, *, needed: float | None) -> Iterator[str]:
    """Free disk where the output lies and where shards are spooled.

    Args:
        needed: Bytes that the job is expected to write; None: unknown.
    """
    free = _free_bytes(Path(store.absolute(""))) if store.is_local else None
    told = "unknown (an object store)" if free is None else f"{size(free)} free"
    yield f"disk: output {redact_url(store.root)}: {told}"
    spool = Path(tempfile.gettempdir())
    yield f"disk: spool {spool}: {size(_free_bytes(spool))} free"
    if free is not None and needed is not None and needed > free:
        yield f"warning: about {size(needed)} are expected, and {size(free)} are free"


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job would take, in words; `num_bytes` None where no rate is known."""

    lines: tuple[str, ...]
    num_bytes: float | None


def estimate(
    chains: Sequence[Sequence[Owed]], past: Past | None, *, gpus: int | None, job: str
) -> Estimate:
    """Time, bytes and GPU-hours of a job, by a run before it.

    Args:
        chains: Steps that run one after another; those of a chain beside each other.
        gpus: How many GPUs the job's models get, where it runs; None: unknown.
        job: For the line that says that there is no such run.
    """
    owed = [step for chain in chains for step in chain if step.rows]
    if not owed:
        return Estimate(lines=("time: nothing is left to do",), num_bytes=0.0)
    if past is None:
        told = f"unknown: no earlier {job} run lies here or beside the output; try --limit first"
        return Estimate(
            lines=(f"time: {told}", "bytes: unknown", "GPU-hours: unknown"), num_bytes=None
        )
    unknown = [step.step for step in owed if step.step not in past.steps]
    known = [step for step in owed if step.step in past.steps]
    took = {step.step: step.rows * past.steps[step.step].row_s for step in known}
    total = sum(max((took.get(step.step, 0.0) for step in chain), default=0.0) for chain in chains)
    num_bytes = sum(step.rows * past.steps[step.step].row_bytes for step in known)
    but = f", {', '.join(unknown)} aside, whose rates are unknown" if unknown else ""
    lines = [f"rates: of {past.path}"]
    for step in known:
        rate = 1 / past.steps[step.step].row_s if past.steps[step.step].row_s else 0.0
        lines.append(
            f"  {step.step}: {step.rows:,} rows, {rate:,.1f} a second: {duration(took[step.step])}"
        )
    lines += [f"time: about {duration(total)}{but}", f"bytes: about {size(num_bytes)}{but}"]
    models = [step.step for step in known if step.loads_models]
    names = [name for step in models for name in past.steps[step].processors]
    held_s = sum(took[step] for step in models)
    lines.append(f"GPU-hours: {gpu_hours(held_s, names, gpus=gpus)}")
    return Estimate(lines=tuple(lines), num_bytes=None if unknown else num_bytes)


def gpu_hours(seconds: float, processors: Iterable[str], *, gpus: int | None) -> str:
    """In words.

    Args:
        seconds: In which models are at work.
        processors: Of which types theirs were in the earlier run.
        gpus: How many work side by side; None: unknown.
    """
    if gpus == 0 or not seconds:
        return "none"
    names = ", ".join(sorted(set(processors)))
    if not any(map(is_gpu, processors)):
        return f"unknown: in that run, models were on {names or 'what it does not record'}"
    hours = seconds / 3600
    if gpus is None:
        return f"about {hours:,.2f} for each GPU ({names})"
    return f"about {hours * gpus:,.2f}, with {gpus} of {names}"
