"""Exact duplicates: the first in plan order stays, whatever the order they are met in."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipelines.stages.select.duplicates import DuplicateIndex


def add(index: DuplicateIndex, shard_id: int, contents: dict[int, str]) -> None:
    """Rows of a shard, by row number, with what their bytes are."""
    index.add(
        shard_id,
        rows=np.array(list(contents), np.int32),
        keys=[f"{shard_id:08x}{row:08x}" for row in contents],
        sha256=[hashlib.sha256(text.encode()).hexdigest() for text in contents.values()],
    )


def copies(index: DuplicateIndex, num_shards: int) -> dict[tuple[int, int], str]:
    """(shard, row) of each copy to the key of its first."""
    index.settle()
    return {
        (shard_id, int(copy["row"])): copy["key"].decode()
        for shard_id, found in enumerate(index.copies(num_shards))
        for copy in found
    }


def test_first_in_plan_order_stays_across_shards(tmp_path: Path) -> None:
    index = DuplicateIndex(tmp_path)
    add(index, 2, {0: "a", 1: "b"})
    add(index, 0, {3: "a", 5: "c", 7: "a"})
    add(index, 1, {0: "c", 1: "d"})
    first_a, first_c = "0000000000000003", "0000000000000005"
    assert copies(index, 3) == {(0, 7): first_a, (2, 0): first_a, (1, 0): first_c}


def test_no_rows_and_no_copies(tmp_path: Path) -> None:
    index = DuplicateIndex(tmp_path)
    add(index, 0, {0: "a"})
    assert copies(index, 2) == {}


def test_copies_come_for_every_shard_beyond_one_bucket(tmp_path: Path) -> None:
    index = DuplicateIndex(tmp_path)
    for shard_id in (0, 255, 256, 600):
        add(index, shard_id, {1: "same"})
    found = copies(index, 700)
    assert found.keys() == {(255, 1), (256, 1), (600, 1)}
    assert set(found.values()) == {"0000000000000001"}


def test_many_rows_agree_with_a_dictionary(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    index, first, expected = DuplicateIndex(tmp_path), {}, {}
    for shard_id in range(20):
        texts = generator.integers(0, 3000, 200).astype(str).tolist()
        add(index, shard_id, dict(enumerate(texts)))
        for row, text in enumerate(texts):
            if text in first:
                expected[shard_id, row] = first[text]
            first.setdefault(text, f"{shard_id:08x}{row:08x}")
    assert copies(index, 20) == expected


def test_copies_before_settle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="settle"):
        next(DuplicateIndex(tmp_path).copies(1))
