"""A training's output: what it records of its files, and its small files by themselves."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.run.record import RUN_FILE
from pipelines.run.store import RunStore
from pipelines.run.stored_json import DamagedRecordError, read_json
from pipelines.verify.fault import Fault, Note, limit
from pipelines.verify.files import check_digest
from sd_core.sealed import is_sealed, unseal

# As pipelines/training writes them, which is above this in the tree.
_RESULT, _MODEL = "result.json", "model"
_CHECKPOINTS, _CURRENT = "checkpoints", "checkpoints/current.json"
_METRICS = "metrics.jsonl"
_CARD = "README.md"  # of the model: its owner's to change


def is_training(store: RunStore, run: Mapping[str, Any] | None) -> bool:
    """Whether a folder is a training's, also where its run.json does not say so any more."""
    return (run or {}).get("job") == "train" or store.exists(_CURRENT) or store.exists(_RESULT)


def verify_training(store: RunStore, *, deep: bool) -> Iterator[Fault | Note]:
    """Every file that the training records is there, and whole.

    Args:
        deep: Also hash weights, checkpoints and pictures; else they must only be there.
    """
    has_digests = store.exists(RUN_FILE) and is_sealed(store.read_bytes(RUN_FILE))
    if not store.exists(RUN_FILE):
        yield Fault(RUN_FILE, "missing", "the options of a training")
    elif not has_digests:
        yield Note(RUN_FILE, "made before its records had digests: they are not held against any")
    for name in store.list_files("processors"):
        yield from _read(store, f"processors/{name}")[1]
    current, faults = _read(store, _CURRENT)
    yield from faults
    result, faults = _read(store, _RESULT)
    yield from faults
    if result is None and not faults:
        published = (current or {}).get("published_step")
        yield (
            Note(_RESULT, "the training is not complete")
            if published is None
            else Fault(_RESULT, "missing", f"the result of step {published}")
        )
    if current is None and result is not None:
        yield Fault(_CURRENT, "missing or damaged", "the checkpoints of a complete training")
    try:
        files, last_step = _recorded(store, current or {}, result or {})
    except (KeyError, TypeError, AttributeError) as error:
        yield Fault(_RESULT, f"{type(error).__name__}: {error}", "the records of a training")
        return
    yield from _checkpoints(store, current or {}, has_digests=has_digests)
    last_line, faults = _read_metrics(store)
    yield from limit(faults, _METRICS)
    if last_line > last_step:
        files.pop(_METRICS, None)  # it has grown since
    for path, sha256 in files.items():
        if deep:
            yield from check_digest(store, path, sha256)
        elif not store.exists(path):
            yield Fault(path, "missing", f"sha256 {sha256}")


def _checkpoints(
    store: RunStore, current: Mapping[str, Any], *, has_digests: bool
) -> Iterator[Fault]:
    """What each says of itself; before there were digests, none had to."""
    listed = [one["name"] for one in current.get("checkpoints", ())]
    for folder in sorted({*store.list_folders(_CHECKPOINTS), *listed}):
        path = f"{_CHECKPOINTS}/{folder}/files.json"
        entries, faults = _read(store, path)
        yield from faults
        if has_digests and folder in listed and not (entries or faults):
            yield Fault(path, "missing", "what belongs to the checkpoint")


def _recorded(
    store: RunStore, current: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[dict[str, str], int]:
    """Every recorded file's sha256 by path, and the step that the result is of."""
    files: dict[str, str] = {}
    for checkpoint in current.get("checkpoints", ()):
        folder = f"{_CHECKPOINTS}/{checkpoint['name']}"
        files |= {f"{folder}/{name}": digest for name, digest in checkpoint["files"].items()}
    model = result.get("files", {}).items()
    files |= {f"{_MODEL}/{name}": digest for name, digest in model if name != _CARD}
    records = {path: sha256 for path, sha256 in result.get("records", {}).items() if sha256}
    return {**files, **records}, int(result.get("step", 0))


def _read(store: RunStore, path: str) -> tuple[dict[str, Any] | None, list[Fault]]:
    try:
        return read_json(store, path), []
    except FileNotFoundError:
        return None, []
    except DamagedRecordError as error:
        return None, [Fault(path, error.found, "a record of the training")]


def _read_metrics(store: RunStore) -> tuple[int, list[Fault]]:
    """The last line's step, and the lines that are damaged; a torn last one is a kill's."""
    last, faults = 0, []
    try:
        *lines, _ = store.read_bytes(_METRICS).split(b"\n")
    except FileNotFoundError:
        return 0, []
    for number, line in enumerate(lines, start=1):
        try:
            last = int(unseal(line + b"\n")["step"])
        except (ValueError, TypeError, KeyError) as error:
            faults.append(Fault(f"{_METRICS}: line {number}", str(error), "a step's figures"))
    return last, faults
