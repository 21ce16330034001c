"""Embeddings of rows by place, of the run and of its reference sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.steps.select.facts import Facts
from pipelines.steps.select.references import References
from pipelines.steps.select.verdicts import Places, Verdicts

_PAIRS_AT_ONCE = 1 << 16


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
