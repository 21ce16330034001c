"""Near pairs: every pair of hashes within the distance; embeddings in clusters as good as all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.steps.select import near_embeddings as embeddings
from pipelines.steps.select.near_embeddings import near_embeddings
from pipelines.steps.select.near_hashes import HASHED, Pairs, near_pairs
from pipelines.steps.select.spill import SpilledRecords


def pairs_of(found: Iterator[Pairs]) -> set[tuple[int, int]]:
    return {
        (min(pair), max(pair))
        for pairs in found
        for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
    }


def crowded_hashes(count: int, *, seed: int) -> np.ndarray:
    """Hashes of which many differ in few bits, of any band."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count // 10, dtype=np.uint64)[
        random.integers(0, count // 10, count)
    ]
    for _ in range(12):
        flip = random.random(count) < 0.5
        hashes[flip] ^= np.uint64(1) << random.integers(0, 64, flip.sum()).astype(np.uint64)
    return hashes


@pytest.mark.parametrize("distance", [0, 3, 4, 9, 11])
@pytest.mark.parametrize("rows_at_once", [10**6, 150])
def test_every_pair_within_the_distance_is_found(
    tmp_path: Path, distance: int, rows_at_once: int
) -> None:
    hashes = crowded_hashes(600, seed=distance)
    records = np.zeros(600, HASHED)
    records["hash"], records["place"] = hashes, np.arange(600)

    def pieces() -> Iterator[SpilledRecords]:
        yield from np.array_split(records, 7)

    pairs = list(
        near_pairs(
            pieces,
            num_records=600,
            distance=distance,
            folder=tmp_path,
            rows_at_once=rows_at_once,
        )
    )
    found = pairs_of(iter(pairs))
    assert sum(len(some.left) for some in pairs) == len(found)
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= distance
    expected = set(zip(*np.nonzero(np.triu(near, 1)), strict=True))
    assert found == expected
    assert distance == 0 or expected


def crowded_vectors(count: int, *, seed: int) -> np.ndarray:
    """Vectors in loose kinds; a tenth lies close to an earlier one."""
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(30, 32))
    vectors = kinds[random.integers(0, 30, count)] + 0.6 * random.normal(size=(count, 32))
    copies = np.flatnonzero(random.random(count) < 0.1)[1:]
    vectors[copies] = vectors[copies // 2] + 0.05 * random.normal(size=(len(copies), 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@pytest.mark.parametrize("exact_rows", [10**6, 100])
def test_pairs_of_near_embeddings_are_found(
    tmp_path: Path, exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "EXACT_ROWS", exact_rows)
    monkeypatch.setattr(embeddings, "_ROWS_A_CLUSTER", 200)
    monkeypatch.setattr(embeddings, "_BLOCK_ROWS", 64)
    vectors = crowded_vectors(3000, seed=0)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for low in range(0, 3000, 500):
            yield np.arange(low, low + 500) * 10, vectors[low : low + 500]
        yield np.empty(0, np.int64), np.empty((0, 0), np.float32)

    found = pairs_of(near_embeddings(batches, num_rows=3000, similarity=0.97, folder=tmp_path))
    near = np.triu(vectors.astype(np.float16).astype(np.float32) @ vectors.T >= 0.97, 1)
    expected = {(10 * a, 10 * b) for a, b in zip(*np.nonzero(near), strict=True)}
    missed = len(expected - found) / len(expected)
    assert len(expected) > 250
    assert len(found - expected) < 0.01 * len(expected)  # float16 at the very border
    assert missed < (0.01 if exact_rows == 10**6 else 0.03)
