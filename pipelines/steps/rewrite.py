"""A shard once more, without some of its rows; no model runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.ledger import QUARANTINED
from pipelines.rules.tombstones import Tombstones, mask_rows, masked_key
from pipelines.run.cache_files import LATENTS_FOLDER, read_recorded
from pipelines.run.checked import read_checked
from pipelines.run.committed import Committed
from pipelines.run.crops import images_file
from pipelines.run.manifest import FileEntry, Manifest, SpooledFile, commit_shard, create_manifest
from pipelines.run.shard_inputs import encode_inputs, gives_of, grouped_shards, score_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.steps.left_rows import (
    copy_latents,
    copy_members,
    left_rejects,
    names_any,
    rename_copies,
    spool_table,
)

_ERROR_REMOVED = "given up before a takedown, which removed the error's text"

Hidden = npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class RunTakedown:
    """What is taken out of a run, from its old revision to a new one, and what was found of it.

    Its shards are rewritten on threads, each step after the one before it.

    Attributes:
        old: What each step committed, by name.
        new: The same of the new revision.
        options: `StepIdentity.options_digest` of each step there.
        stones: What goes.
        origin: The step that made the images.
        num_shards: Of images.
        group: How many of them a latent shard has.
        hidden: By shard of images with facts, which of its rows go; only where there are any.
        masked: What stands for the key of each of these rows.
    """

    old: Mapping[str, Committed]
    new: Mapping[str, Committed]
    options: Mapping[str, str]
    stones: Tombstones
    origin: str
    num_shards: int
    group: int
    hidden: dict[int, Hidden] = field(default_factory=dict)
    masked: dict[str, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Taken down so far."""
        return sum(int(rows.sum()) for rows in self.hidden.values())

    def hide(self, shard_id: int, rows: pa.Table) -> Hidden:
        """Which rows of a shard's table go, which are remembered."""
        hidden = self.stones.hides(rows)
        if hidden.any():
            self.hidden[shard_id] = hidden
            keys = rows.filter(pa.array(hidden))["key"].to_pylist()
            self.masked.update({key: masked_key(key) for key in keys})
        return hidden


@dataclass(frozen=True, kw_only=True)
class ShardTakedown:
    """One shard of one step, to be taken over or rewritten; earlier steps have been."""

    run: RunTakedown
    manifest: Manifest

    @property
    def store(self) -> RunStore:
        """The run."""
        return self.run.old[self.manifest.step].store

    def table(self, folder: str, *, columns: Sequence[str] | None = None) -> pa.Table | None:
        """This shard's table in a folder; None where it has none."""
        entry = self.manifest.file(folder)
        return None if entry is None else read_checked(self.store, entry, columns)

    def take_over(self) -> Manifest:
        """Commit the shard as it is."""
        return self._create(self.manifest)

    def take_over_given_up(self, *, num_rows: int) -> Manifest:
        """Commit a shard that was given up, which comes to so many rows now."""
        dropped = {QUARANTINED: num_rows} if num_rows else {}
        return self._create(replace(self.manifest, rows_in=num_rows, dropped=dropped))

    def _create(self, manifest: Manifest) -> Manifest:
        fingerprint = self.run.new[manifest.step].fingerprint
        error = None if manifest.quarantined is None else _ERROR_REMOVED
        manifest = replace(manifest, fingerprint=fingerprint, quarantined=error)
        return create_manifest(self.store, manifest)

    def commit(
        self,
        files: Sequence[SpooledFile],
        *,
        kept: int,
        dropped: Mapping[str, int],
        inputs: str | None = None,
        gives: Mapping[str, str] | None = None,
        taken: Sequence[FileEntry] = (),
    ) -> Manifest:
        """Commit other files in its place; arguments are those of `commit_shard`."""
        return commit_shard(
            self.store,
            step=self.manifest.step,
            fingerprint=self.run.new[self.manifest.step].fingerprint,
            shard_id=self.manifest.shard_id,
            files=files,
            rows_in=kept + sum(dropped.values()),
            kept=kept,
            dropped=dropped,
            inputs=inputs,
            gives=gives,
            taken=taken,
        )


def rewrite_download(shard: ShardTakedown) -> Manifest:
    """Images and facts without the hidden rows, which keep their numbers and a reason."""
    return _rewrite_images(shard, "facts/download")


def rewrite_generated(shard: ShardTakedown) -> Manifest:
    """The same of generated images, with how they were made and their latents."""
    return _rewrite_images(shard, "facts/generate")


def _rewrite_images(shard: ShardTakedown, folder: str) -> Manifest:
    facts = shard.table(folder)
    if facts is None or not (hidden := shard.run.hide(shard.manifest.shard_id, facts)).any():
        return shard.take_over()
    facts = mask_rows(facts, hidden)
    stored = frozenset(facts.filter(facts["reason"].is_null())["key"].to_pylist())
    with spool_folder() as scratch:
        files, taken = [], []
        images = shard.manifest.file("images")
        if images is not None and stored and images_file(shard.store, images) != images:
            taken.append(replace(images, num_rows=len(stored)))  # removed by a clean-up
        elif images is not None and stored:
            tar = scratch / "images.tar"
            copy_members(shard.store, images, tar, keys=stored)
            files.append(SpooledFile(folder="images", path=tar, num_rows=len(stored)))
        files.append(spool_table(facts, scratch, folder))
        metadata = shard.table("metadata")
        if metadata is not None and stored:
            is_left = pc.is_in(metadata["image_key"], value_set=pa.array(sorted(stored)))
            files.append(spool_table(metadata.filter(is_left), scratch, "metadata"))
        if (entry := shard.manifest.file(LATENTS_FOLDER)) is not None:
            spec, _ = read_recorded(shard.run.old[shard.manifest.step])
            files += copy_latents(shard.store, entry, spec, scratch, without=shard.run.masked)
        return shard.commit(files, kept=len(stored), dropped=_reasons(facts), taken=taken)


def rewrite_scores(shard: ShardTakedown) -> Manifest:
    """The scores and their rejects without the hidden rows."""
    run, shard_id = shard.run, shard.manifest.shard_id
    if shard.manifest.quarantined is not None and shard_id in run.hidden:
        return shard.take_over_given_up(num_rows=run.new[run.origin].manifest(shard_id).kept)
    scores = shard.table("facts/score") if shard_id in run.hidden else None
    if scores is None:
        return shard.take_over()
    rows = pa.array(np.flatnonzero(run.hidden[shard_id]), scores["row"].type)
    scores = scores.filter(pc.invert(pc.is_in(scores["row"], value_set=rows))).combine_chunks()
    rejects = left_rejects(shard.table("facts/score/rejects"), without=run.masked)
    with spool_folder() as folder:
        files = [spool_table(scores, folder, "facts/score")]
        if rejects.num_rows:
            files.append(spool_table(rejects, folder, "facts/score/rejects"))
        return shard.commit(
            files,
            kept=scores.num_rows - rejects.num_rows,
            dropped=_reasons(rejects),
            inputs=score_inputs(run.new[run.origin], options=run.options["score"], shard=shard_id),
        )


def rewrite_ledger(shard: ShardTakedown) -> Manifest:
    """The ledger with the hidden rows masked, also where a copy names one of them."""
    run, shard_id = shard.run, shard.manifest.shard_id
    given_up = run.old[run.origin].manifest(shard_id).quarantined is not None
    if not given_up and shard_id not in run.hidden:
        copies = shard.table("ledger", columns=["duplicate_of", "rule"])
        if copies is None or not names_any(copies, run.masked):
            return shard.take_over()
    rows = shard.table("ledger")
    hidden = np.zeros(0, np.bool_) if rows is None else run.hide(shard_id, rows)
    if rows is None or not (hidden.any() or names_any(rows, run.masked)):
        return shard.take_over()
    rows = rename_copies(mask_rows(rows, hidden), run.masked)
    with spool_folder() as folder:
        files = [spool_table(rows, folder, "ledger")]
        kept = int(rows["reason"].null_count)
        return shard.commit(files, kept=kept, dropped=_reasons(rows), gives=gives_of(rows))


def rewrite_latents(shard: ShardTakedown) -> Manifest:
    """A latent shard and its rejects without the keys that are gone."""
    run, manifest = shard.run, shard.manifest
    parts = grouped_shards(manifest.shard_id, group=run.group, num_shards=run.num_shards)
    if run.hidden.keys().isdisjoint(parts):
        return shard.take_over()
    if manifest.quarantined is not None:
        kept = sum(run.new["select"].manifest(part).kept for part in parts)
        return shard.take_over_given_up(num_rows=kept)
    inputs = None
    if manifest.inputs is not None:
        new = run.new[run.origin], run.new["select"]
        inputs = encode_inputs(*new, options=run.options["encode"], shards=parts)
    rejects = left_rejects(shard.table("latents/rejects"), without=run.masked)
    with spool_folder() as folder:
        files = []
        if (entry := manifest.file("latents")) is not None:
            spec, _ = read_recorded(run.old["encode"])
            files += copy_latents(shard.store, entry, spec, folder, without=run.masked)
        kept = sum(file.num_rows for file in files)
        if rejects.num_rows:
            files.append(spool_table(rejects, folder, "latents/rejects"))
        return shard.commit(files, kept=kept, dropped=_reasons(rejects), inputs=inputs)


def rewrite_members(shard: ShardTakedown, folder: str) -> Manifest:
    """A tar of `folder`, whose members are named by the rows' keys, without the hidden rows."""
    run, entry = shard.run, shard.manifest.file(folder)
    if entry is None or shard.manifest.shard_id not in run.hidden:
        return shard.take_over()
    with spool_folder() as scratch:
        tar = scratch / "members.tar"
        kept = copy_members(shard.store, entry, tar, without=run.masked)
        files = [SpooledFile(folder=folder, path=tar, num_rows=kept)] if kept else []
        return shard.commit(files, kept=kept, dropped=shard.manifest.dropped)


def _reasons(rows: pa.Table) -> Counter[str]:
    return Counter(rows["reason"].drop_null().to_pylist())
