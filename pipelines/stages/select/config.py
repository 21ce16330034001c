"""The rules that decide which stored images are kept."""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.ledger import LEDGER, SCORES

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


class BestOf(Config):
    """The best images of each group stay, among the rows that passed the thresholds."""

    by: str
    """The score that decides; of equal ones the first in plan order, and null is the worst."""
    num_images: int = Field(default=1, ge=1)
    per: Literal["prompt_key"] = "prompt_key"
    """The column that makes a group; with `best_of` the plan keeps a prompt's images in a shard."""

    @model_validator(mode="after")
    def _by_is_a_score(self) -> Self:
        if self.by not in SCORES:
            raise ValueError(f"by {self.by!r}: allowed: {', '.join(SCORES)}")
        return self


class SelectConfig(Config):
    """Thresholds in order, the best of each group, then duplicates among the rows that passed."""

    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """Column of the ledger (or `source_<name>`) to bounds; the first that fails is the reason."""
    best_of: BestOf | None = None
    """For generated images: how many of a prompt's stay."""
    duplicates: Literal["sha256", "off"] = "sha256"
    """Exact copies: the first in plan order stays, the others say whose copy they are."""

    def identity(self) -> dict[str, Any]:
        """The options that change a verdict, as plain JSON; the thresholds' order is one."""
        options = {**self.model_dump(mode="json"), "order": list(self.thresholds)}
        if self.best_of is None:
            del options["best_of"]  # runs from before there was one keep their fingerprint
        return options

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        for name in self.thresholds:
            if name not in NUMERIC_COLUMNS and not name.startswith("source_"):
                raise ValueError(
                    f"thresholds.{name}: not a numeric column of the ledger; allowed: "
                    f"{', '.join(NUMERIC_COLUMNS)} and source_<column of the list>"
                )
        return self
