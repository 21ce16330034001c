"""What the page asks for: which rows, in which order."""

from typing import Literal

from pydantic import Field, model_validator

from pipelines.config import Config

Bound = Literal["min", "above", "max", "below"]
Change = Literal["gained", "lost"]


class Where(Config):
    """A test on one column."""

    column: str
    """Of the ledger."""
    op: Literal["least", "most", "is", "contains", "missing", "there"]
    """`least` and `most` are inclusive; `contains` is for texts, upper and lower case alike."""
    value: float | str | None = None
    """What it is held against. Unit: the column's."""

    @model_validator(mode="after")
    def _fits(self) -> "Where":
        wants_number, wants_text = self.op in ("least", "most"), self.op in ("is", "contains")
        if wants_number and not isinstance(self.value, float):
            raise ValueError(f"{self.op} needs a number")
        if wants_text and not isinstance(self.value, str):
            raise ValueError(f"{self.op} needs a text")
        return self


class Moved(Config):
    """A threshold that a cut might have instead of the run's."""

    column: str
    """Of numbers."""
    bound: Bound
    """Which one is moved."""
    value: float = Field(allow_inf_nan=False)
    """Where to. Unit: the column's."""


class View(Config):
    """Which rows are shown, and in which order; by default all, as the list has them."""

    text: str = Field(default="", max_length=2_000)
    """Is in the caption or the URL, or begins the key."""
    show: Literal["all", "kept", "dropped"] = "all"
    """By the verdict."""
    step: str | None = None
    """That dropped the row."""
    reason: str | None = None
    """Why."""
    rule: str | None = None
    """By which rule, without the row that a copy copies."""
    where: tuple[Where, ...] = Field(default=(), max_length=20)
    """All of them hold."""
    sort: str | None = None
    """A column; rows without a value come last."""
    descending: bool = False
    """The greatest first."""
    moved: Moved | None = None
    """With `change`: rows whose verdict another threshold would change."""
    against: str | None = None
    """With `change`: rows whose verdict another cut, by its fingerprint, had otherwise."""
    change: Change | None = None
    """`gained`: kept by the other cut and not by this one; `lost`: the other way round."""

    @model_validator(mode="after")
    def _one_change(self) -> "View":
        given = (self.moved is not None) + (self.against is not None)
        if given != (self.change is not None):
            raise ValueError("a change goes with moved or against, one of them")
        return self

    @property
    def moved_column(self) -> str:
        """The column of the threshold that is moved, or nothing."""
        return "" if self.moved is None else self.moved.column
