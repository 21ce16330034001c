"""What becomes of every row of a run, while it is being decided; on local disk, by place.

A row's place is its number in plan order over all shards. Verdicts cost 10 bytes a row of (sparse)
files that are mapped into memory, not memory of the process.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.rules.rule import RuleOutcome

Places = npt.NDArray[np.int64]

BY_FACTS: Final = -1
"""Code of a row that had its reason before select."""


class Verdicts:
    """Codes of all rows, and whose copies they are.

    A code numbers an outcome in the order of the rules, so that of two outcomes the lesser counts;
    0 is a row that passed.

    Args:
        folder: A local folder.
        shard_sizes: Rows of each shard.
    """

    def __init__(self, folder: Path, shard_sizes: Sequence[int]) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(shard_sizes, dtype=np.int64)])
        self.num_rows = int(self.offsets[-1])
        shape = (max(1, self.num_rows),)
        self.codes: npt.NDArray[np.int16] = np.memmap(
            folder / "codes", np.int16, mode="w+", shape=shape
        )
        self.originals: Places = np.memmap(folder / "originals", np.int64, mode="w+", shape=shape)
        """0, or 1 + the place of the row that this one copies, or -1 - the number of a row of the
        reference sets."""
        self.outcomes: list[RuleOutcome] = []
        self.messages: dict[int, str] = {}
        """By place, what went wrong with rows that failed in select."""

    def register(self, outcomes: Iterable[RuleOutcome]) -> int:
        """Number a rule's outcomes, after those of all before it; returns the first code."""
        first = len(self.outcomes) + 1
        self.outcomes += outcomes
        return first

    def shard(self, shard_id: int) -> slice:
        """The places of a shard's rows."""
        return slice(int(self.offsets[shard_id]), int(self.offsets[shard_id + 1]))

    def shards_of(self, places: Places) -> npt.NDArray[np.int64]:
        """The shard of each place."""
        return np.searchsorted(self.offsets, places, side="right") - 1

    def alive(self, places: Places, *, before: int) -> npt.NDArray[np.bool_]:
        """Which rows no outcome of a lesser code dropped."""
        codes = self.codes[places]
        alive: npt.NDArray[np.bool_] = (codes == 0) | (codes >= before)
        return alive

    def drop(self, places: Places, *, code: int, originals: Places | None = None) -> None:
        """Give rows a code; `originals` are the encoded rows that they copy."""
        self.codes[places] = code
        if originals is not None:
            self.originals[places] = originals

    def kept_originals(self, places: Places) -> Places:
        """For copies in the run: the place of the row that stands for each in the end."""
        roots: Places = self.originals[places] - 1
        while True:
            further = self.originals[roots]
            if not (further > 0).any():
                return roots
            roots = np.where(further > 0, further - 1, roots)
