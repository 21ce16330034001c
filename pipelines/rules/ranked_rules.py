"""Rules that compare the rows of a run: the best of it or of each group, caps on domains."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.rules.rule import Rule

Prefer = Literal["highest", "lowest"]


class BestOf(Config):
    """The best rows stay, of the whole run or of each group, among those that passed so far."""

    by: str
    """The column of numbers that decides; null is the worst. Of equal rows the one with the lesser
    key (its first 16 characters), then the first in plan order, is the better."""
    num_images: int | None = Field(default=None, ge=1)
    """So many stay; or give `fraction`."""
    fraction: float | None = Field(default=None, gt=0, le=1)
    """Of the rows (of each group, with `per`) that passed so far, rounded up. Unit: share."""
    per: str | None = None
    """The column that makes a group, such as `prompt_key`; a row where it is null stays."""
    prefer: Prefer = "highest"
    """Which end of the column is the best."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.num_images is None) == (self.fraction is None):
            raise ValueError("best_of needs num_images or fraction, one of them")
        return self


class BestOfRule(Rule):
    """The best rows stay."""

    best_of: BestOf

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in (self.best_of.by, self.best_of.per) if name is not None)


class DomainCap(Config):
    """At most so many rows of one host (`www.` left off) stay."""

    num_images: int = Field(ge=1)
    """So many rows of each host stay."""
    by: str | None = None
    """As in `best_of`; by default the first in plan order stay."""
    prefer: Prefer = "highest"
    """Which end of the column is the best."""


class DomainCapRule(Rule):
    """At most so many rows of a domain stay."""

    domain_cap: DomainCap

    @property
    def columns(self) -> tuple[str, ...]:
        return ("url",) if self.domain_cap.by is None else ("url", self.domain_cap.by)
