"""The rules that decide which stored images are kept."""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.ledger import LEDGER

NUMERIC_COLUMNS = tuple(
    field.name
    for field in LEDGER
    if field.name not in ("shard_id", "row") and str(field.type) in ("int32", "float")
)


class Threshold(Config):
    """Bounds on one column, both inclusive."""

    min: float | None = None
    max: float | None = None
    missing: Literal["drop", "keep"] = "drop"
    """What becomes of a row whose value is null."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Self:
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{name} must be a finite number")
        if self.min is None and self.max is None:
            raise ValueError("a threshold needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class SelectConfig(Config):
    """Thresholds in order, then duplicates among the rows that passed."""

    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """Column of the ledger (or `source_<name>`) to bounds; the first that fails is the reason."""
    duplicates: Literal["sha256", "off"] = "sha256"
    """Exact copies: the first in plan order stays, the others say whose copy they are."""

    def identity(self) -> dict[str, Any]:
        """The options that change a verdict, as plain JSON; the thresholds' order is one."""
        return {**self.model_dump(mode="json"), "order": list(self.thresholds)}

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        for name in self.thresholds:
            if name not in NUMERIC_COLUMNS and not name.startswith("source_"):
                raise ValueError(
                    f"thresholds.{name}: not a numeric column of the ledger; allowed: "
                    f"{', '.join(NUMERIC_COLUMNS)} and source_<column of the list>"
                )
        return self
