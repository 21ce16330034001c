"""A run's two records: run.json says what was asked for, revision.json what is complete."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.run.amendments import OPTION
from pipelines.run.committed import Committed
from pipelines.run.index import Index, index_files, recorded_digests, write_index
from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record, read_json, write_json
from sd_core.errors import InputError

RUN_FILE = "run.json"
REVISION_FILE = "revision.json"


class NotARunError(InputError):
    """A folder holds none of a run's records, or what it holds is no run of this kind."""


class RunMismatchError(InputError):
    """The run was made with other options; the message names each one that differs."""


@dataclass(frozen=True, kw_only=True)
class StepIdentity:
    """What decides a step's result: its options (models included) and its parents.

    `options` is plain JSON without secrets; two steps with equal fingerprints make equal files.
    """

    step: str
    options: Mapping[str, Any]
    parents: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hex digits over step, options and the parents' fingerprints."""
        text = json.dumps([self.step, self.options, self.parents], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def options_digest(self) -> str:
        """As `fingerprint`, of step and options alone, however often it was made again."""
        options = {name: value for name, value in self.options.items() if name != OPTION}
        text = json.dumps([self.step, options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class StepSummary:
    """A completed step: rows_in = kept + sum of `dropped`, over all its shards.

    Attributes:
        digests: sha256 of what readers start from, by path: its lists and indexes, what workers
            recorded, and under the manifests' folder of all of them. Empty of steps that were
            completed before there were digests.
    """

    fingerprint: str
    num_shards: int
    rows_in: int
    kept: int
    dropped: Mapping[str, int]
    quarantined: tuple[int, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The current fingerprint and counts of each completed step."""

    number: int = 0
    steps: Mapping[str, StepSummary] = field(default_factory=dict)


def read_revision(store: RunStore) -> Revision:
    """The current revision; revision 0 with no steps where none has completed yet.

    Raises:
        DamagedRecordError: revision.json is none.
    """
    try:
        tree = read_json(store, REVISION_FILE)
        steps = {
            name: StepSummary(**{**summary, "quarantined": tuple(summary["quarantined"])})
            for name, summary in tree["steps"].items()
        }
        return Revision(number=tree["revision"], steps=steps)
    except FileNotFoundError:
        return Revision()
    except (TypeError, KeyError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise damaged_record(store, REVISION_FILE, found) from error


def complete_step(
    store: RunStore,
    identity: StepIdentity,
    *,
    num_shards: int,
    folders: Iterable[str],
    later: Collection[str],
    publish: Callable[[], None] | None = None,
    made: Committed | None = None,
) -> StepSummary:
    """Write the step's `shards.txt` and `index.parquet`, then make it current.

    Steps that were made from another fingerprint of this one leave the revision, and so does this
    step's own, before the files that readers find beside it are overwritten: a crash in between
    leaves a step that is not complete, never a complete one with another's files.

    Args:
        store: The run.
        identity: The step, with its present options.
        num_shards: How many shards it has.
        folders: Those that it writes.
        later: Steps that are made from it.
        publish: Writes what else readers find in them.
        made: The step's shards, where some of the manifests are in memory.

    Raises:
        ShardError: a shard has no manifest; nothing is changed then.
    """
    revision = read_revision(store)
    old = revision.steps.get(identity.step)
    same = (identity.fingerprint, num_shards)  # a plan that grew has more shards of the same
    if old is not None and (old.fingerprint, old.num_shards) == same:
        return old
    index: Index = {folder: [] for folder in folders}
    made = made or Committed(store, identity.step, identity.fingerprint)
    summary = _summarise(made, num_shards=num_shards, index=index)
    kept = {
        name: step
        for name, step in revision.steps.items()
        if name != identity.step and name not in later
    }
    if old is not None:
        write_revision(store, revision.number, kept)
    digests = {**summary.digests, **write_index(store, index)}
    if publish is not None:
        publish()
    summary = replace(summary, digests=digests)
    write_revision(store, revision.number + 1, {**kept, identity.step: summary})
    return summary


def withdraw_step(
    store: RunStore, step: str, *, folders: Iterable[str], later: Collection[str]
) -> None:
    """Take a step and those made from it out of the revision, and its files from readers' lists."""
    revision = read_revision(store)
    left = {n: s for n, s in revision.steps.items() if n != step and n not in later}
    if len(left) < len(revision.steps):
        write_revision(store, revision.number + 1, left)
    write_index(store, {folder: [] for folder in folders if store.exists(f"{folder}/shards.txt")})


def write_revision(store: RunStore, number: int, steps: Mapping[str, StepSummary]) -> None:
    """Replace revision.json."""
    tree = {
        "revision": number,
        "steps": {name: _summary_tree(step) for name, step in steps.items()},
    }
    write_json(store, REVISION_FILE, tree)


def _summary_tree(step: StepSummary) -> dict[str, Any]:
    return {
        "fingerprint": step.fingerprint,
        "num_shards": step.num_shards,
        "rows_in": step.rows_in,
        "kept": step.kept,
        "dropped": dict(sorted(step.dropped.items())),
        "quarantined": list(step.quarantined),
        "digests": dict(step.digests),
    }


def _summarise(made: Committed, *, num_shards: int, index: Index) -> StepSummary:
    """The step's counts and its records' digests; its files are added to `index`, and what the log
    lacks is written."""
    manifests = hashlib.sha256()
    dropped: dict[str, int] = {}
    rows_in = kept = 0
    quarantined = []
    for manifest in made.manifests(num_shards, mends=True):
        manifests.update(manifest.digest.encode())
        rows_in += manifest.rows_in
        kept += manifest.kept
        for reason, count in manifest.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        if manifest.quarantined is not None:
            quarantined.append(manifest.shard_id)
        index_files(index, manifest)
    return StepSummary(
        fingerprint=made.fingerprint,
        num_shards=num_shards,
        rows_in=rows_in,
        kept=kept,
        dropped=dropped,
        quarantined=tuple(quarantined),
        digests={
            **recorded_digests(made.store, made.folder, known=made.log.digests),
            made.folder: manifests.hexdigest(),
        },
    )


def write_run(store: RunStore, tree: Mapping[str, Any]) -> None:
    """Replace run.json."""
    write_json(store, RUN_FILE, tree)


def read_run(store: RunStore) -> dict[str, Any]:
    """run.json as a tree; empty where the run has not begun.

    Raises:
        DamagedRecordError: it is none.
    """
    try:
        tree = read_json(store, RUN_FILE)
    except FileNotFoundError:
        return {}
    if not isinstance(tree.get("steps", {}), dict):
        raise damaged_record(store, RUN_FILE, "no mapping with `steps`")
    return tree
