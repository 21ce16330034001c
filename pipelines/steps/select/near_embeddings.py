"""Pairs of near embeddings: clusters first, then the pairs within, so that memory is bounded.

As in SemDeDup (Abbas et al. 2023, arXiv:2303.09540), with one difference: each row is in its two
nearest clusters, so that a pair across a border is met too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from pipelines.steps.select.facts import Facts
from pipelines.steps.select.near_hashes import Pairs
from pipelines.steps.select.references import References
from pipelines.steps.select.spill import Spill
from pipelines.steps.select.verdicts import Places, Verdicts

Vectors = npt.NDArray[np.float32]
EmbeddingBatches = Callable[[], Iterator[tuple[Places, Vectors]]]

EXACT_ROWS = 20_000
"""Up to so many rows are compared each with each."""

_ROWS_A_CLUSTER = 4_096
_MAX_CLUSTERS = 4_096
_SAMPLES_A_CLUSTER = 64
_BLOCK_ROWS = 2_048
_PAIRS_AT_ONCE = 1 << 16
_SEED = 0


def near_embeddings(
    batches: EmbeddingBatches, *, num_rows: int, similarity: float, folder: Path
) -> Iterator[Pairs]:
    """Pairs of rows whose cosine is at least `similarity`; a pair may come twice.

    Above `EXACT_ROWS` a pair is missed where its rows share none of their two nearest clusters.

    Args:
        batches: Gives places with normalised vectors; is called twice.
        num_rows: About how many rows there will be.
        similarity: Cosine.
        folder: A local folder, for the vectors (float16) by cluster.
    """
    num_clusters = 1
    if num_rows > EXACT_ROWS:
        num_clusters = min(_MAX_CLUSTERS, num_rows // _ROWS_A_CLUSTER)
    index = _clusters(batches, num_rows=num_rows, num_clusters=num_clusters)
    spill: Spill | None = None
    for places, vectors in batches():
        if not len(places):
            continue
        if spill is None:
            dtype = np.dtype([("place", "<i8"), ("vector", "<f2", (vectors.shape[1],))])
            spill = Spill(folder, name="embeddings", dtype=dtype, num_partitions=num_clusters)
        records = np.empty(len(places), dtype)
        records["place"], records["vector"] = places, vectors
        for numbers in _nearest(index, vectors):
            spill.add(records, numbers)
    if spill is not None:
        for number in range(num_clusters):
            cluster = spill.load(number)
            yield from _within(cluster["place"], cluster["vector"], similarity)
        spill.remove()


def _clusters(batches: EmbeddingBatches, *, num_rows: int, num_clusters: int) -> faiss.Index | None:
    """Centroids, from an even sample; None where there is one cluster."""
    if num_clusters < 2:
        return None
    step = max(1, num_rows // (_SAMPLES_A_CLUSTER * num_clusters))
    sample, seen = [], 0
    for _, vectors in batches():
        sample.append(vectors[(-seen) % step :: step])
        seen += len(vectors)
    points = np.concatenate([part for part in sample if len(part)])
    means = faiss.Kmeans(points.shape[1], num_clusters, niter=10, spherical=True, seed=_SEED)
    means.train(points)
    return means.index


def _nearest(index: faiss.Index | None, vectors: Vectors) -> list[npt.NDArray[np.int64]]:
    if index is None:
        return [np.zeros(len(vectors), np.int64)]
    _, found = index.search(np.ascontiguousarray(vectors), 2)
    return [found[:, 0], found[:, 1]]


def _within(places: Places, vectors: npt.NDArray[np.float16], similarity: float) -> Iterator[Pairs]:
    for low in range(0, len(places), _BLOCK_ROWS):
        block = vectors[low : low + _BLOCK_ROWS].astype(np.float32)
        for other in range(low, len(places), _BLOCK_ROWS):
            cosines = block @ vectors[other : other + _BLOCK_ROWS].astype(np.float32).T
            left, right = np.nonzero(cosines >= similarity)
            if other == low:
                left, right = left[left < right], right[left < right]
            if len(left):
                yield Pairs(left=places[low + left], right=places[other + right])


@dataclass(frozen=True, kw_only=True)
class RowEmbeddings:
    """Of the rows that passed so far, and of reference rows where they are asked for."""

    facts: Facts
    verdicts: Verdicts
    references: References | None
    folder: Path

    def batches(self) -> Iterator[tuple[Places, npt.NDArray[np.float32]]]:
        """Places with their vectors of length 1."""
        for shard_id in range(self.facts.num_shards):
            at = self.verdicts.shard(shard_id)
            rows = np.flatnonzero(self.verdicts.codes[at] == 0)
            if len(rows):
                found = self.facts.read_embeddings(shard_id, rows)
                yield found.rows + at.start, found.vectors
        for number, found in self.references.embeddings() if self.references else ():
            yield -1 - (number + found.rows), found.vectors

    def cosines(self, left: Places, right: Places) -> npt.NDArray[np.float32]:
        """Of each pair; NaN where one of the two has no embedding. Vectors are spilled to disk."""
        wanted = np.unique(np.concatenate([left, right]))
        vectors: npt.NDArray[np.float16] | None = None
        for places, batch in self.batches():
            chosen = np.isin(places, wanted)
            if vectors is None and chosen.any():
                shape = (len(wanted), batch.shape[1])
                vectors = np.memmap(self.folder / "pairs", np.float16, mode="w+", shape=shape)
                vectors[:] = np.nan
            if vectors is not None and chosen.any():
                vectors[np.searchsorted(wanted, places[chosen])] = batch[chosen]
        cosines = np.full(len(left), np.nan, np.float32)
        if vectors is None:
            return cosines
        for low in range(0, len(left), _PAIRS_AT_ONCE):
            part = slice(low, low + _PAIRS_AT_ONCE)
            one = vectors[np.searchsorted(wanted, left[part])].astype(np.float32)
            other = vectors[np.searchsorted(wanted, right[part])].astype(np.float32)
            cosines[part] = np.einsum("ij,ij->i", one, other)
        return cosines
