"""Take rows out of a curated run: a new revision without them, and tombstones that keep them out.

Of a row only its number is left, with the reason `taken_down` and a digest in place of its key.
Rows whose originals have the same bytes go with it.
Shards without such rows are taken over as they are. The old revision's files stay until a
clean-up, so that nobody's training loses its files in the middle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import ConfigError
from pipelines.plan import load_plan
from pipelines.revisions.adopt import adopt_download, copy_records
from pipelines.revisions.copies import with_their_copies
from pipelines.revisions.identities import recorded_steps, with_edition
from pipelines.revisions.rewrite import (
    Target,
    names_any,
    rewrite_download,
    rewrite_latents,
    rewrite_ledger,
    rewrite_scores,
)
from pipelines.revisions.tombstones import (
    Tombstones,
    masked_key,
    read_tombstones,
    write_tombstones,
)
from pipelines.run.cache_files import publish_cache, read_recorded
from pipelines.run.edition import Edition, read_edition, write_edition
from pipelines.run.manifest import Manifest, committed_shards, create_manifest, read_manifest
from pipelines.run.record import (
    CURATE_FOLDERS,
    StepIdentity,
    StepSummary,
    complete_step,
    read_revision,
    read_run,
    withdraw_step,
    write_run,
)
from pipelines.run.shard_inputs import encode_inputs, grouped_shards, score_inputs
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table

_ERROR_REMOVED = "given up before a takedown, which removed the error's text"
_REPORT_FILE = "report/index.html"  # its thumbnails and texts are of rows


@dataclass(kw_only=True)
class Takedown:
    """What was done.

    Attributes:
        rows: Taken down by this call.
        shards: Downloaded shards that held them.
        masked: What stands for the key of each of the rows.
    """

    rows: int = 0
    shards: int = 0
    masked: dict[str, str] = field(default_factory=dict)


def take_down(store: RunStore, asked: Tombstones, *, say: Callable[[str], None]) -> Takedown:
    """Make a revision without the rows that are asked for; finishes one that was interrupted.

    The caller holds the run's lease.

    Raises:
        ConfigError: it is not a curated run.
        ShardError: a shard is damaged.
    """
    run, edition = read_run(store), read_edition(store)
    old = recorded_steps(store, run)
    _take_over_begun(store, edition, old)
    stones = with_their_copies(store, old["download"], asked | read_tombstones(store))
    if not stones:
        raise ConfigError("nothing to take down: the lists are empty")
    edition = replace(edition, tombstones=stones.digest, before=(), fetches_again=False)
    new = with_edition(old, edition)
    if new == old:
        say("nothing to do: all of it is taken down already")
        return Takedown()
    write_tombstones(store, stones)
    write_edition(store, edition)
    work = _Work(
        store=store,
        old=old,
        new=new,
        stones=stones,
        run=run,
        complete_before=read_revision(store).steps,
    )
    done = work.run_all()
    for step in new.values():
        work.complete(step)
    store.delete(_REPORT_FILE)
    steps = {
        name: {"fingerprint": step.fingerprint, "options": step.options}
        for name, step in new.items()
    }
    # The last of all: until then the same command, or the job, does it again from the old ones.
    write_run(store, {**run, "steps": {**run["steps"], **steps}})
    return done


def is_unfinished(store: RunStore) -> bool:
    """Whether a takedown was killed before its end."""
    recorded = read_run(store).get("steps", {}).get("download", {}).get("options", {})
    tombstones = read_tombstones(store).digest
    return bool(recorded) and recorded.get("edition", {}).get("tombstones") != tombstones


def finish_takedown(store: RunStore, *, say: Callable[[str], None]) -> None:
    """Finish a takedown that was killed; the caller holds the run's lease."""
    if is_unfinished(store):
        say("finishing a takedown that was interrupted")
        take_down(store, Tombstones(), say=say)


def _take_over_begun(store: RunStore, edition: Edition, old: Mapping[str, StepIdentity]) -> None:
    """Of a retry or growth that has begun, finish the part that makes nothing new."""
    adopt_download(
        store,
        edition=replace(edition, fetches_again=False),
        fingerprint=old["download"].fingerprint,
        num_shards=load_plan(store).num_shards,
    )


@dataclass(kw_only=True)
class _Work:
    """Every shard of every step, from the old identities to the new ones."""

    store: RunStore
    old: Mapping[str, StepIdentity]
    new: Mapping[str, StepIdentity]
    stones: Tombstones
    run: Mapping[str, Any]
    complete_before: Mapping[str, StepSummary]
    done: Takedown = field(default_factory=Takedown)

    def run_all(self) -> Takedown:
        for name, step in self.old.items():
            copy_records(self.store, name, step.fingerprint, self.new[name].fingerprint)
        for shard_id in self._shards("download"):
            self._download(shard_id)
        for name, rewrite in (("select", self._select), ("encode", self._encode)):
            for shard_id in self._shards(name):
                rewrite(shard_id)
        return self.done

    def _shards(self, step: str) -> list[int]:
        if step not in self.old:
            return []
        return sorted(committed_shards(self.store, step, self.old[step].fingerprint))

    def _read(self, step: str, shard_id: int) -> Manifest | None:
        if step not in self.old:
            return None
        return read_manifest(self.store, step, self.old[step].fingerprint, shard_id)

    def _take_over(self, manifest: Manifest) -> None:
        fingerprint = self.new[manifest.step].fingerprint
        error = None if manifest.quarantined is None else _ERROR_REMOVED
        create_manifest(self.store, replace(manifest, fingerprint=fingerprint, quarantined=error))

    def _target(self, step: str, inputs: str | None = None) -> Target:
        fingerprint = self.new[step].fingerprint
        return Target(store=self.store, fingerprint=fingerprint, inputs=inputs)

    def _download(self, shard_id: int) -> None:
        manifest, score = self._read("download", shard_id), self._read("score", shard_id)
        assert manifest is not None
        entry = manifest.file("facts/download")
        facts = read_table(self.store, entry.path) if entry is not None else None
        hidden = self.stones.hides(facts) if facts is not None else np.zeros(0, np.bool_)
        if facts is not None:
            self._count(facts, hidden)
        if facts is None or not hidden.any():
            self._take_over(manifest)
        else:
            rewrite_download(self._target("download"), manifest, facts, hidden)
        if score is None:
            return
        if facts is None or not hidden.any() or score.quarantined is not None:
            self._take_over(score)
            return
        inputs = score_inputs(
            self.store,
            options=self.new["score"].options_digest,
            origin="download",
            images=self.new["download"].fingerprint,
            shard=shard_id,
        )
        rows = np.asarray(facts["row"])[hidden]
        target = self._target("score", inputs)
        rewrite_scores(target, score, rows, gone=self.done.masked)

    def _count(self, facts: pa.Table, hidden: np.ndarray) -> None:
        for key in facts.filter(pa.array(hidden))["key"].to_pylist():
            self.done.masked[key] = masked_key(key)
        self.done.rows += int(hidden.sum())
        self.done.shards += bool(hidden.any())

    def _select(self, shard_id: int) -> None:
        manifest = self._read("select", shard_id)
        assert manifest is not None
        entry = manifest.file("ledger")
        if entry is None:
            self._take_over(manifest)
            return
        ledger = read_table(self.store, entry.path)
        hidden = self.stones.hides(ledger)
        if hidden.any() or names_any(ledger, self.done.masked):
            target = self._target("select")
            rewrite_ledger(target, manifest, ledger, hidden, masked=self.done.masked)
        else:
            self._take_over(manifest)

    def _encode(self, shard_id: int) -> None:
        manifest = self._read("encode", shard_id)
        assert manifest is not None
        inputs = encode_inputs(
            self.store,
            options=self.new["encode"].options_digest,
            download=self.new["download"].fingerprint,
            select=self.new["select"].fingerprint,
            shards=grouped_shards(
                shard_id,
                group=self._group,
                num_shards=len(self._shards("download")),
            ),
        )
        if manifest.quarantined is not None or inputs == manifest.inputs:
            self._take_over(manifest)
            return
        encode = self.old["encode"].fingerprint
        spec, _ = read_recorded(self.store, step="encode", fingerprint=encode)
        target = self._target("encode", inputs)
        rewrite_latents(target, manifest, spec, gone=self.done.masked)

    def complete(self, step: StepIdentity) -> None:
        """Make a step current if every shard of it is there; else withdraw what readers see of it.

        The job completes it when it is run again.
        """
        folders = CURATE_FOLDERS[step.step]
        num_shards = self._num_shards(step.step)
        if len(committed_shards(self.store, step.step, step.fingerprint)) < num_shards:
            withdraw_step(self.store, step.step, folders=folders)
            return
        is_encode = step.step == "encode"
        complete_step(
            self.store,
            step,
            num_shards=num_shards,
            folders=folders,
            publish=lambda: (
                publish_cache(self.store, fingerprint=step.fingerprint) if is_encode else None
            ),
        )

    def _num_shards(self, step: str) -> int:
        before = self.complete_before.get(step)
        if before is not None and before.fingerprint == self.old[step].fingerprint:
            return before.num_shards
        num_shards = load_plan(self.store).num_shards
        return -(-num_shards // self._group) if step == "encode" else num_shards

    @property
    def _group(self) -> int:
        return int(self.run["config"]["encode"]["download_shards_per_file"])
