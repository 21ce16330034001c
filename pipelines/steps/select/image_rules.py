"""Rules of select's own, which no configuration names: finite scores, images that encode takes."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.ledger import SCORES
from pipelines.rules.columns import array_of
from pipelines.rules.rule import Breaks, RuleOutcome


class FiniteScores:
    """No score is NaN or infinite, whatever the configuration says."""

    def __init__(self, further: Iterable[pa.Field] = ()) -> None:
        floating = (f.name for f in further if pa.types.is_floating(f.type))
        self.columns = (*SCORES, *floating)
        self.outcomes = tuple(RuleOutcome(reason="score_not_finite", rule=n) for n in self.columns)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """The scores are columns of every run."""

    def broken(self, rows: pa.Table) -> Breaks:
        breaks = np.zeros(rows.num_rows, np.int16)
        for number, name in reversed(list(enumerate(self.columns, start=1))):
            finite = pc.fill_null(pc.is_finite(array_of(rows, name)), True)
            breaks[~np.asarray(finite)] = number
        return breaks


class CacheSize:
    """The latent cache holds images of one size, and encode is given no others."""

    columns = ("width", "height")

    def __init__(self, size: int) -> None:
        self._size = size
        text = f"the latent cache holds {size}x{size} px"
        self.outcomes = (RuleOutcome(reason="image_of_another_size", rule=text),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Every run has the sizes of its images."""

    def broken(self, rows: pa.Table) -> Breaks:
        fits = [pc.equal(array_of(rows, name), self._size) for name in self.columns]
        return (~np.asarray(pc.fill_null(pc.and_(*fits), False), bool)).astype(np.int16)
