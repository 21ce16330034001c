"""Which jobs used the rows that are taken down: trainings that saw them, images made from them."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.run.committed import Committed
from pipelines.run.manifest import committed_shards
from pipelines.run.on_threads import in_order
from pipelines.run.record import NotARunError, StepIdentity, read_run
from pipelines.run.store import RunStore
from pipelines.run.used_by import Use, UsedBy, read_used_by, root_of
from pipelines.steps.rewrite import RunTakedown
from sd_core.redact import redact_url


def list_uses(store: RunStore, takedown: RunTakedown) -> list[str]:
    """A line for each revision that a job used and that held some of the rows.

    A row was seen where select kept it in that revision; of revisions that are cleaned away it
    cannot be told, and the job is listed.
    """
    kept: dict[str | None, int | None] = {}
    lines = []
    for path, word in read_used_by(store):
        if word is None:
            lines.append(f"{path}: damaged: which job used this run cannot be told")
            continue
        for use in word.uses:
            if use.select not in kept:
                kept[use.select] = _count_kept(store, use.select, takedown)
            if kept[use.select] != 0:
                lines.append(_line(store, word, use, kept[use.select]))
    return lines


def list_earlier_uses(store: RunStore, *, select: StepIdentity | None) -> list[str]:
    """A line for each use of a revision before the present one, where all is taken down already."""
    present = None if select is None else select.fingerprint
    return [
        _line(store, word, use, None)
        for _, word in read_used_by(store)
        if word is not None
        for use in word.uses
        if use.select != present
    ]


def find_trainings(store: RunStore, path: str | None) -> Iterator[str]:
    """A line for each training on the run, whose output is `path` or a folder in it, and that left
    no word in the run.

    Raises:
        NotARunError: there is no training.
    """
    if path is None:
        return
    folder = store.other(path)
    outputs = [path, *(f"{path.rstrip('/')}/{name}" for name in folder.list_folders(""))]
    trees = {output: read_run(store.other(output)) for output in outputs}
    trainings = {output: tree for output, tree in trees.items() if tree.get("job") == "train"}
    if not trainings:
        raise NotARunError(f"--trainings {redact_url(path)}: no output of a training is there")
    known = {word.output.rstrip("/") for _, word in read_used_by(store) if word is not None}
    for output, tree in trainings.items():
        data = [root_of(str(one.get("path"))) for one in tree.get("config", {}).get("data", ())]
        if redact_url(store.root).rstrip("/") in data and redact_url(output) not in known:
            steps = _steps_of(store.other(output))
            yield f"training {redact_url(output)} (steps 0 to {steps}) may have seen such rows"


def _count_kept(store: RunStore, select: str | None, takedown: RunTakedown) -> int | None:
    """How many of the rows a cut kept; None where its ledgers are gone."""
    if select is None or not committed_shards(store, "select", select):
        return None
    count = partial(_kept_of_shard, Committed(store, "select", select), takedown)
    return sum(in_order(count, sorted(takedown.hidden), num_threads=store.num_threads))


def _kept_of_shard(verdicts: Committed, takedown: RunTakedown, shard_id: int) -> int:
    if verdicts.find(shard_id) is None:  # of a run that has grown since
        return 0
    ledger = verdicts.table(shard_id, "ledger", columns=["key", "kept"])
    if ledger is None:
        return 0
    keys = ledger.filter(ledger["kept"].cast(pa.bool_()))["key"].to_pylist()
    return sum(key in takedown.masked for key in keys)


def _line(store: RunStore, word: UsedBy, use: Use, count: int | None) -> str:
    rows = "may have" if count is None else "has"
    which = "such rows" if count is None else f"{count:,} of these rows"
    if word.job == "generate":
        return (
            f"generation {word.output} (revision {use.revision}) {rows} started from {which}: "
            f"latent-foundry takedown {word.output} --taken-down-in {redact_url(store.root)}"
        )
    return (
        f"training {word.output} (revision {use.revision}, steps {use.first_step or 0} to "
        f"{use.last_step or 0}) {rows} seen {which}"
    )


def _steps_of(training: RunStore) -> int:
    """How far a training came: to its end, or to its newest checkpoint."""
    try:
        return int(json.loads(training.read_bytes("result.json"))["step"])
    except FileNotFoundError:
        pass
    try:
        tree: dict[str, Any] = json.loads(training.read_bytes("checkpoints/current.json"))
        return max((int(one["step"]) for one in tree["checkpoints"]), default=0)
    except FileNotFoundError:
        return 0
