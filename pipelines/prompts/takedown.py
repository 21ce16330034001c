"""What was taken down leaves the plan of prompts: rows, texts and settings."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.prompts.record import (
    PROMPT_SHARD_FIELDS,
    PromptPlan,
    expand_rows,
    image_content,
    load_prompt_plan,
    prompts_file,
    read_prompts,
    shards_path_of,
    store_prompt_plan,
)
from pipelines.rules.tombstones import TAKEN_DOWN, Tombstones, mask_rows
from pipelines.run.on_threads import in_order
from pipelines.run.store import RunStore
from pipelines.run.tables import with_column

_LEFT = ("image_indices", "content", "digest")  # that the rows keep their numbers, and stay known


def read_images(plan: PromptPlan, store: RunStore, shard_id: int) -> pa.Table:
    """As `expand_rows`, with the `content` of each image."""
    return _images_of(read_prompts(plan, store, shard_id), shard_id)


def read_left_rows(
    plan: PromptPlan, store: RunStore, shard_id: int, tombstones: Tombstones
) -> pa.Table:
    """The rows of a shard, as `expand_rows`; of those that were taken down only the numbers."""
    images = read_images(plan, store, shard_id)
    return mask_rows(images, tombstones.hides(images))


def mask_plan(store: RunStore, tombstones: Tombstones) -> None:
    """Take the prompts out of the plan of which every image is taken down.

    Files of earlier plans stay until a clean-up.
    """
    plan = load_prompt_plan(store)

    def mask(shard: dict[str, object]) -> dict[str, object]:
        shard_id = int(str(shard["shard_id"]))
        prompts = read_prompts(plan, store, shard_id)
        hidden = _wholly_hidden(prompts, tombstones.hides(_images_of(prompts, shard_id)))
        if not hidden.any():
            return shard
        prompts = mask_rows(prompts, hidden, key="prompt_key", left=_LEFT)
        path, content, digest = prompts_file(prompts, shard_id)
        store.replace(path, content)
        return {**shard, "path": path, "sha256": digest}

    shards = plan.shards.to_pylist()
    masked = list(in_order(mask, shards, num_threads=store.num_threads))
    if masked != shards:
        table = pa.Table.from_pylist(masked, schema=PROMPT_SHARD_FIELDS)
        store_prompt_plan(replace(plan, shards=table, shards_path=shards_path_of(table)), store)


def _images_of(prompts: pa.Table, shard_id: int) -> pa.Table:
    """With the content of each image but of those that are taken down already."""
    images = expand_rows(prompts, shard_id=shard_id)
    names = ("content", "image_index", "reason")
    contents = [
        None if row["reason"] == TAKEN_DOWN else image_content(row["content"], row["image_index"])
        for row in images.select(names).to_pylist()
    ]
    return with_column(images, "content", pa.array(contents, pa.string()))


def _wholly_hidden(prompts: pa.Table, hidden: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The prompts that were not taken down before, and of which no image is left."""
    parents = np.asarray(pc.list_parent_indices(prompts["image_indices"].combine_chunks()))
    num_images = np.bincount(parents, minlength=prompts.num_rows)
    num_hidden = np.bincount(parents[hidden], minlength=prompts.num_rows)
    reasons = prompts["reason"].to_pylist()
    was_down = np.array([reason == TAKEN_DOWN for reason in reasons], np.bool_)
    return np.asarray((num_images == num_hidden) & (num_images > 0) & ~was_down, np.bool_)
