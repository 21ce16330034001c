"""A shard's files once more, without some of its rows; no model runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.ledger import REJECTS
from pipelines.rules.tombstones import Tombstones, mask_rows, masked_key
from pipelines.run.cache_files import read_recorded
from pipelines.run.checked import open_checked, read_checked
from pipelines.run.committed import Committed
from pipelines.run.images import damaged
from pipelines.run.manifest import FileEntry, Manifest, SpooledFile, commit_shard, create_manifest
from pipelines.run.shard_inputs import encode_inputs, grouped_shards, score_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from sd_core.cache.shards import iterate_shard, open_shard_writer
from sd_core.cache.spec import CacheSpec
from sd_core.tar_members import SampleTarWriter, iterate_members

_ERROR_REMOVED = "given up before a takedown, which removed the error's text"

Hidden = npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class RunTakedown:
    """What is taken out of a run, from its old revision to a new one, and what was found of it.

    Attributes:
        old: What each step committed, by name.
        new: The same of the new revision.
        options: `StepIdentity.options_digest` of each step there.
        stones: What goes.
        group: How many shards of images a latent shard has.
        num_rows: Taken down so far.
        num_shards: Shards of images that held them.
        masked: What stands for the key of each of these rows.
    """

    old: Mapping[str, Committed]
    new: Mapping[str, Committed]
    options: Mapping[str, str]
    stones: Tombstones
    group: int
    num_rows: int = 0
    num_shards: int = 0
    masked: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShardTakedown:
    """One shard of one step, to be taken over or rewritten; earlier steps have been."""

    run: RunTakedown
    manifest: Manifest

    @property
    def store(self) -> RunStore:
        """The run."""
        return self.run.old[self.manifest.step].store

    def table(self, folder: str) -> pa.Table | None:
        """This shard's table in a folder; None where it has none."""
        entry = self.manifest.file(folder)
        return None if entry is None else read_checked(self.store, entry)

    def take_over(self) -> None:
        """Commit the shard as it is."""
        fingerprint = self.run.new[self.manifest.step].fingerprint
        error = None if self.manifest.quarantined is None else _ERROR_REMOVED
        create_manifest(
            self.store, replace(self.manifest, fingerprint=fingerprint, quarantined=error)
        )

    def commit(
        self,
        files: Sequence[SpooledFile],
        *,
        kept: int,
        dropped: Mapping[str, int],
        inputs: str | None = None,
    ) -> None:
        """Commit other files in its place."""
        commit_shard(
            self.store,
            step=self.manifest.step,
            fingerprint=self.run.new[self.manifest.step].fingerprint,
            shard_id=self.manifest.shard_id,
            files=files,
            rows_in=kept + sum(dropped.values()),
            kept=kept,
            dropped=dropped,
            inputs=inputs,
        )


def rewrite_download(shard: ShardTakedown) -> None:
    """Images and facts without the hidden rows, which keep their numbers and a reason."""
    run, facts = shard.run, shard.table("facts/download")
    hidden = _hidden(run, facts)
    if facts is None or not hidden.any():
        shard.take_over()
        return
    for key in facts.filter(pa.array(hidden))["key"].to_pylist():
        run.masked[key] = masked_key(key)
    run.num_rows += int(hidden.sum())
    run.num_shards += 1
    facts = mask_rows(facts, hidden)
    with spool_folder() as folder:
        files = []
        images = shard.manifest.file("images")
        kept = int(facts["reason"].null_count)
        if images is not None and kept:
            tar = folder / "images.tar"
            stored = facts.filter(facts["reason"].is_null())["key"].to_pylist()
            _copy_members(shard.store, images, tar, keys=frozenset(stored))
            files.append(SpooledFile(folder="images", path=tar, suffix=".tar", num_rows=kept))
        files.append(_table(facts, folder, "facts/download"))
        shard.commit(files, kept=kept, dropped=_reasons(facts))


def rewrite_scores(shard: ShardTakedown) -> None:
    """The scores and their rejects without the hidden rows."""
    run, shard_id = shard.run, shard.manifest.shard_id
    facts = run.old["download"].table(shard_id, "facts/download")
    hidden, scores = _hidden(run, facts), shard.table("facts/score")
    if facts is None or scores is None or not hidden.any():
        shard.take_over()
        return
    rows = pa.array(np.asarray(facts["row"])[hidden], scores["row"].type)
    scores = scores.filter(pc.invert(pc.is_in(scores["row"], value_set=rows))).combine_chunks()
    with spool_folder() as folder:
        rejects = _left_rejects(shard, "facts/score/rejects")
        files = [_table(scores, folder, "facts/score")]
        if rejects.num_rows:
            files.append(_table(rejects, folder, "facts/score/rejects"))
        shard.commit(
            files,
            kept=scores.num_rows - rejects.num_rows,
            dropped=_reasons(rejects),
            inputs=score_inputs(run.new["download"], options=run.options["score"], shard=shard_id),
        )


def rewrite_ledger(shard: ShardTakedown) -> None:
    """The ledger with the hidden rows masked, also where a copy names one of them."""
    rows, masked = shard.table("ledger"), shard.run.masked
    hidden = _hidden(shard.run, rows)
    if rows is None or not (hidden.any() or names_any(rows, masked)):
        shard.take_over()
        return
    rows = _rename(mask_rows(rows, hidden), masked)
    with spool_folder() as folder:
        files = [_table(rows, folder, "ledger")]
        shard.commit(files, kept=int(rows["reason"].null_count), dropped=_reasons(rows))


def rewrite_latents(shard: ShardTakedown) -> None:
    """A latent shard and its rejects without the keys that are gone."""
    run, manifest = shard.run, shard.manifest
    num_images = len(run.old["download"].shards())
    parts = grouped_shards(manifest.shard_id, group=run.group, num_shards=num_images)
    new = run.new["download"], run.new["select"]
    inputs = encode_inputs(*new, options=run.options["encode"], shards=parts)
    if manifest.quarantined is not None or inputs == manifest.inputs:
        shard.take_over()
        return
    spec, _ = read_recorded(run.old["encode"])
    with spool_folder() as folder:
        files, kept = _left_latents(shard, spec, folder)
        rejects = _left_rejects(shard, "latents/rejects")
        if rejects.num_rows:
            files.append(_table(rejects, folder, "latents/rejects"))
        shard.commit(files, kept=kept, dropped=_reasons(rejects), inputs=inputs)


def rewrite_members(shard: ShardTakedown, folder: str) -> None:
    """A tar of `folder`, whose members are named by the rows' keys, without the hidden rows."""
    run, entry = shard.run, shard.manifest.file(folder)
    facts = run.old["download"].table(shard.manifest.shard_id, "facts/download")
    hidden = _hidden(run, facts)
    if facts is None or entry is None or not hidden.any():
        shard.take_over()
        return
    left = frozenset(facts.filter(pa.array(~hidden))["key"].to_pylist())
    with spool_folder() as scratch:
        tar = scratch / "members.tar"
        kept = _copy_members(shard.store, entry, tar, keys=left)
        files = [_spooled(tar, folder, kept)] if kept else []
        shard.commit(files, kept=kept, dropped=shard.manifest.dropped)


def _hidden(run: RunTakedown, rows: pa.Table | None) -> Hidden:
    return np.zeros(0, np.bool_) if rows is None else run.stones.hides(rows)


def _reasons(rows: pa.Table) -> Counter[str]:
    return Counter(rows["reason"].drop_null().to_pylist())


def _left_latents(
    shard: ShardTakedown, spec: CacheSpec, folder: Path
) -> tuple[list[SpooledFile], int]:
    """The samples whose keys are not gone, as a local file where there are any; their number."""
    entry = shard.manifest.file("latents")
    if entry is None:
        return [], 0
    path = folder / f"latents{Path(entry.path).suffix}"
    with open_checked(shard.store, entry) as stream, open_shard_writer(path, spec) as writer:
        for sample in iterate_shard(stream, spec, name=entry.path):
            if sample.key not in shard.run.masked:
                writer.write(sample)
    num_written = writer.num_written
    return [_spooled(path, "latents", num_written)] if num_written else [], num_written


def _left_rejects(shard: ShardTakedown, folder: str) -> pa.Table:
    """A shard's refused rows without the keys that are gone."""
    rejects = shard.table(folder)
    if rejects is None:
        return REJECTS.empty_table()
    left = [key not in shard.run.masked for key in rejects["key"].to_pylist()]
    return rejects.filter(pa.array(left, pa.bool_())).combine_chunks()


def names_any(ledger: pa.Table, masked: Mapping[str, str]) -> bool:
    """Whether a row of a ledger is the copy of a key that is gone."""
    copies = ledger.filter(ledger["duplicate_of"].is_valid())
    named = zip(copies["duplicate_of"].to_pylist(), copies["rule"].to_pylist(), strict=True)
    return any(key in masked or rule.rpartition(" ")[2] in masked for key, rule in named)


def _rename(ledger: pa.Table, masked: Mapping[str, str]) -> pa.Table:
    if not names_any(ledger, masked):
        return ledger
    keys, rules = ledger["duplicate_of"].to_pylist(), ledger["rule"].to_pylist()
    for at, key in enumerate(keys):
        if key is not None:
            text, _, named = rules[at].rpartition(" ")
            keys[at] = masked.get(key, key)
            rules[at] = f"{text} {masked.get(named, named)}"
    for name, values in (("duplicate_of", keys), ("rule", rules)):
        index = ledger.schema.get_field_index(name)
        ledger = ledger.set_column(index, ledger.schema.field(name), pa.array(values, pa.string()))
    return ledger


def _copy_members(store: RunStore, entry: FileEntry, local: Path, *, keys: frozenset[str]) -> int:
    """Copy the members of these keys; how many keys there were."""
    copied = set()
    with open_checked(store, entry) as stream, SampleTarWriter(local) as tar:
        for member in iterate_members(stream, fault=damaged(entry.path)):
            if member.is_file and member.key in keys:
                copied.add(member.key)
                tar.copy(member)
    return len(copied)


def _table(table: pa.Table, folder: Path, target: str) -> SpooledFile:
    path = folder / f"{target.replace('/', '-')}.parquet"
    write_table(table, path)
    return _spooled(path, target, table.num_rows)


def _spooled(path: Path, folder: str, num_rows: int) -> SpooledFile:
    return SpooledFile(folder=folder, path=path, suffix=path.suffix, num_rows=num_rows)
