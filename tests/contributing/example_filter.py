"""A form of rule: the caption has to end with some text."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.rules.columns import array_of
from pipelines.rules.rule import Breaks, RowRule


class EndsWithRule(RowRule):
    """Rows whose caption ends with some text stay."""

    caption_ends_with: str = Field(min_length=1)
    """The text, in the case that the caption has it."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("caption",)

    def broken(self, rows: pa.Table) -> Breaks:
        ends = pc.ends_with(array_of(rows, "caption"), self.caption_ends_with)
        return np.asarray(pc.invert(pc.fill_null(ends, False))).astype(np.int16)
