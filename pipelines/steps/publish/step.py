"""The publish step: of a shard's stored images the kept ones, as readers are to find them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Config
from pipelines.rows.ledger import ORIGIN_FACTS
from pipelines.run.crops import KEPT_FOLDER, open_images
from pipelines.run.images import damaged
from pipelines.run.manifest import Manifest, ShardError, SpooledFile
from pipelines.run.shard_inputs import is_of_the_same, kept_facts, publish_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.kind import StepContext
from pipelines.steps.left_rows import copy_members, spool_table
from pipelines.steps.rewrite import ShardTakedown
from pipelines.steps.step import CommittedStep
from sd_core.tar_members import SampleTarWriter, iterate_tar_samples

KEPT_METADATA: Final = f"{KEPT_FOLDER}/metadata"


class PublishConfig(Config):
    """The step's section under `steps:`, which is there by default; null leaves it out, and with
    it the second copy of every kept image."""


class PublishStep(CommittedStep):
    """Makes and commits shards of kept images, in the order of the list; a row without an image is
    a `ShardError`, never left out."""

    name = "publish"

    def __init__(self, context: StepContext) -> None:
        super().__init__(
            context.store, fingerprint=context.fingerprint, resources=context.resources
        )
        self._images = context.images
        self._verdicts = context.committed["select"]

    def rows_in(self, shard_id: int) -> int:
        return self._verdicts.manifest(shard_id).kept

    def run(self, shard_id: int) -> Manifest:
        """The kept images of a shard, and of a generated one how each is made again."""
        rows = kept_facts(self._verdicts, shard_id).to_pylist()
        kept = {row["key"]: row for row in rows}
        with spool_folder() as scratch:
            files = []
            if kept:
                tar = scratch / "kept.tar"
                self._write(shard_id, kept, tar)
                files.append(SpooledFile(folder=KEPT_FOLDER, path=tar, num_rows=len(kept)))
            metadata = self._images.table(shard_id, "metadata") if kept else None
            if metadata is not None:
                rows = pc.is_in(metadata["image_key"], value_set=pa.array(list(kept), pa.string()))
                files.append(spool_table(metadata.filter(rows), scratch, KEPT_METADATA))
            inputs = publish_inputs(self._images, self._verdicts, shard=shard_id)
            return self.commit_shard(shard_id, files, kept=len(kept), inputs=inputs)

    def _write(self, shard_id: int, kept: Mapping[str, dict[str, Any]], path: Path) -> None:
        left = set(kept)
        is_named_freely = self._images.step == "generate"
        known = {field.name for field in ORIGIN_FACTS[self._images.step]} | {"parameters_are_cut"}
        with SampleTarWriter(path, extended=is_named_freely) as tar:
            for key, files in self._stored(shard_id):
                if key in left:
                    left.discard(key)
                    told = json.loads(files["json"])  # perhaps as another cut left it
                    facts = {n: value for n, value in told.items() if n in known} | kept[key]
                    shown = {name: value for name, value in facts.items() if value is not None}
                    tar.write(key, {**files, "json": json.dumps(shown).encode()})
        if left:
            raise ShardError(
                f"{self._images.step} shard {shard_id}: no image of {min(left)}, which is kept"
            )

    def _stored(self, shard_id: int) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        with open_images(self.store, self._images.file(shard_id, "images")) as found:
            if found is not None:
                entry, stream = found
                for sample in iterate_tar_samples(stream, fault=damaged(entry.path)):
                    yield sample.key, sample.files


def inputs_of(context: StepContext, shard_id: int) -> str | None:
    """What a shard would be made from; None where that is not known yet."""
    return publish_inputs(context.images, context.committed["select"], shard=shard_id)


def is_of_the_same_inputs(context: StepContext, manifest: Manifest, inputs: str) -> bool:
    """Whether a shard of an earlier revision was made from these."""
    return is_of_the_same(manifest, inputs, context.images, context.committed["select"])


def rewrite_kept(shard: ShardTakedown) -> Manifest:
    """The kept images, and how they are made again, without the hidden rows."""
    run, shard_id = shard.run, shard.manifest.shard_id
    if shard_id not in run.hidden:
        return shard.take_over()
    if shard.manifest.quarantined is not None:
        return shard.take_over_given_up(num_rows=run.new["select"].manifest(shard_id).kept)
    with spool_folder() as scratch:
        files, kept = [], 0
        if (entry := shard.manifest.file(KEPT_FOLDER)) is not None:
            tar = scratch / "kept.tar"
            kept = copy_members(shard.store, entry, tar, without=run.masked)
            files += [SpooledFile(folder=KEPT_FOLDER, path=tar, num_rows=kept)] if kept else []
        metadata = shard.table(KEPT_METADATA)
        if metadata is not None and kept:
            gone = pc.is_in(metadata["image_key"], value_set=pa.array(sorted(run.masked)))
            left = metadata.filter(pc.invert(gone)).combine_chunks()
            files.append(spool_table(left, scratch, KEPT_METADATA))
        inputs = publish_inputs(run.new[run.origin], run.new["select"], shard=shard_id)
        return shard.commit(files, kept=kept, dropped={}, inputs=inputs)
