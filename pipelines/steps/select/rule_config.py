"""The forms a rule of `select.rules` can have; which one it is, its keys say."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipelines.config import Config

Missing = Literal["drop", "keep"]
Prefer = Literal["highest", "lowest"]


class Threshold(Config):
    """Bounds on one column: `min` and `max` inclusive, `above` and `below` exclusive."""

    min: float | None = None
    """The least value that passes. Unit: the column's."""
    max: float | None = None
    """The greatest value that passes. Unit: the column's."""
    above: float | None = None
    """Only greater values pass. Unit: the column's."""
    below: float | None = None
    """Only lesser values pass. Unit: the column's."""
    missing: Missing = "drop"
    """What becomes of a row whose value is null."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Self:
        bounds = {name: getattr(self, name) for name in ("min", "max", "above", "below")}
        for name, bound in bounds.items():
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{name} must be a finite number")
        if all(bound is None for bound in bounds.values()) and not self._has_other_test():
            raise ValueError("a threshold needs min, max, above or below")
        for low in ("min", "above"):
            for high in ("max", "below"):
                if None not in (bounds[low], bounds[high]) and bounds[low] > bounds[high]:
                    raise ValueError(f"{low} {bounds[low]} is above {high} {bounds[high]}")
        return self

    def _has_other_test(self) -> bool:
        return False


class ColumnRule(Threshold):
    """Bounds on a column of numbers, or the values that a column of text may have."""

    column: str
    """Of the ledger, or `source_<column of the list>`."""
    one_of: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The texts that pass, of a column of text; not together with bounds."""
    name: str | None = None
    """What the ledger's `rule` says of the rows that it dropped; null: the rule as it is
    written."""

    def _has_other_test(self) -> bool:
        return self.one_of is not None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if self.one_of is not None and (self.min, self.max, self.above, self.below) != (None,) * 4:
            raise ValueError("a rule has one_of or bounds, not both")
        return self


class SqlRule(Config):
    """A DuckDB condition on the ledger's columns; a row for which it is null is dropped too."""

    sql: str = Field(min_length=1)
    """The condition, such as `original_width * original_height >= 262144`."""
    name: str | None = None
    """As of a column rule."""


class PresetRule(Config):
    """Published cuts by name, each as a rule of its own."""

    preset: str
    """`laion_aesthetic_v1`, `laion_art`, `laion_aesthetic_v2_` with 4.5, 4.75, 5, 6, 6.25 or 6.5,
    `laion_similarity`, `stable_diffusion_1`, `stable_diffusion_2` or `datacomp_basic`."""
    missing: Missing = "drop"
    """What becomes of a row in which a column of the preset is null."""


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


class BestOfRule(Config):
    """Of the whole run or of each group only the best rows stay."""

    best_of: BestOf
    name: str | None = None
    """As of a column rule."""


class DomainCap(Config):
    """At most so many rows of one host (`www.` left off) stay."""

    num_images: int = Field(ge=1)
    """So many rows of each host stay."""
    by: str | None = None
    """As in `best_of`; by default the first in plan order stay."""
    prefer: Prefer = "highest"
    """Which end of the column is the best."""


class DomainCapRule(Config):
    """Of each host only so many rows stay."""

    domain_cap: DomainCap
    name: str | None = None
    """As of a column rule."""


class BlockKeysRule(Config):
    """Rows whose key is on a list: one a line (`#` starts a comment), or one Parquet column."""

    block_keys: str = Field(min_length=1)
    """The list: an absolute path or an fsspec URL."""
    name: str | None = None
    """As of a column rule."""


class BlockWordsRule(Config):
    """Rows whose text holds a word or phrase of a list, whole and in any case."""

    block_words: str = Field(min_length=1)
    """The list, a word or phrase a line: an absolute path or an fsspec URL."""
    column: str = "caption"
    """The column of text that is searched."""
    name: str | None = None
    """As of a column rule."""


_FORMS = {
    "sql": "SQL rule",
    "preset": "preset rule",
    "best_of": "best-of rule",
    "domain_cap": "domain rule",
    "block_keys": "key rule",
    "block_words": "word rule",
    "column": "column rule",  # last: a word rule has a column too
}
_NAMES: dict[type[Any], str] = {
    SqlRule: "SQL rule",
    PresetRule: "preset rule",
    BestOfRule: "best-of rule",
    DomainCapRule: "domain rule",
    BlockKeysRule: "key rule",
    BlockWordsRule: "word rule",
    ColumnRule: "column rule",
}


def _form(rule: Any) -> str | None:
    if isinstance(rule, dict):
        return next((form for key, form in _FORMS.items() if key in rule), None)
    return _NAMES.get(type(rule))


Rule = Annotated[
    Annotated[SqlRule, Tag("SQL rule")]
    | Annotated[PresetRule, Tag("preset rule")]
    | Annotated[BestOfRule, Tag("best-of rule")]
    | Annotated[DomainCapRule, Tag("domain rule")]
    | Annotated[BlockKeysRule, Tag("key rule")]
    | Annotated[BlockWordsRule, Tag("word rule")]
    | Annotated[ColumnRule, Tag("column rule")],
    Discriminator(
        _form,
        custom_error_type="rule_form",
        custom_error_message=f"a rule has one of the keys {', '.join(_FORMS)}",
    ),
]
