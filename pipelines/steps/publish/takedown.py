"""A published shard without the rows that are taken down."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.crops import KEPT_FOLDER
from pipelines.run.manifest import Manifest
from pipelines.run.shard_inputs import publish_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.left_rows import copy_members, spool, spool_table
from pipelines.steps.publish.step import KEPT_METADATA
from pipelines.steps.rewrite import ShardTakedown


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
            files += [spool(tar, KEPT_FOLDER, kept)] if kept else []
        metadata = shard.table(KEPT_METADATA)
        if metadata is not None and kept:
            gone = pc.is_in(metadata["image_key"], value_set=pa.array(sorted(run.masked)))
            left = metadata.filter(pc.invert(gone)).combine_chunks()
            files.append(spool_table(left, scratch, KEPT_METADATA))
        inputs = publish_inputs(run.new[run.origin], run.new["select"], shard=shard_id)
        return shard.commit(files, kept=kept, dropped={}, inputs=inputs)
