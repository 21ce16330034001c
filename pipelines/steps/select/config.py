"""The rules that decide which stored images are kept."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipelines.config import Config
from pipelines.rows.ledger import LEDGER
from pipelines.rules.column_rule import ColumnRule, Threshold
from pipelines.rules.old_keys import say_instead, threshold_rules
from pipelines.rules.ranked_rules import BestOf, BestOfRule, DomainCapRule, Prefer
from pipelines.rules.rule import Rule
from pipelines.rules.table import AnyRule

Method = Literal["url", "sha256", "phash", "embedding"]
ReferenceMethod = Literal["sha256", "phash", "embedding"]
MAX_PHASH_DISTANCE = 11


class ReferenceConfig(Config):
    """Pictures that must not be in the set again: an evaluation set, or an earlier run."""

    path: str = Field(min_length=1)
    """The folder of a run of ours (its kept rows), or a Parquet file with the columns asked for and
    perhaps `key`."""
    by: tuple[ReferenceMethod, ...] = Field(default=("sha256",), min_length=1)
    """How a picture is known again: by its bytes, its perceptual hash, its embedding."""


class DuplicatesConfig(Config):
    """Looked for among the rows that passed every rule; of each group one stays."""

    by: tuple[Method, ...] = ("sha256",)
    """In this order, each among the rows that the one before left."""
    keep: str | None = None
    """The row that stays is the best by this column of numbers (null is the worst), then the first
    in plan order; by default the first."""
    prefer: Prefer = "highest"
    """Which end of the column `keep` is the best."""
    phash_distance: int = Field(default=4, ge=0, le=MAX_PHASH_DISTANCE)
    """Perceptual hashes that differ in at most so many of their 64 bits are of one picture. Unit:
    bits."""
    phash_needs_similarity: float | None = Field(default=None, ge=-1.0, le=1.0)
    """If set, only where the cosine of the embeddings is at least this too."""
    embedding_similarity: float = Field(default=0.97, gt=0.0, le=1.0)
    """Embeddings of at least this cosine are of one picture."""
    references: tuple[ReferenceConfig, ...] = ()
    """Sets whose pictures are dropped where they are found in this run."""

    @model_validator(mode="after")
    def _no_method_twice(self) -> Self:
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by: {', '.join(self.by)} names one of them twice")
        return self

    @property
    def needs_embeddings(self) -> bool:
        """Whether the run must have its images' embeddings."""
        asked = {*self.by, *(method for reference in self.references for method in reference.by)}
        return "embedding" in asked or (
            "phash" in asked and self.phash_needs_similarity is not None
        )


_EXACT = {"url", "sha256"}
"""Methods that make the same groups whatever rows come later."""
NUMERIC_COLUMNS = tuple(
    field.name
    for field in LEDGER
    if field.name not in ("shard_id", "row")
    and (
        pa.types.is_integer(field.type)
        or pa.types.is_floating(field.type)
        or field.name == "caption_is_cut"
    )
)


class SelectConfig(Config):
    """Rules in order, the first that fails is the reason; then duplicates among what passed."""

    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """An old key: column of the ledger (or `source_<name>`) to bounds, as first rules of `rules`,
    which take them now."""
    best_of: BestOf | None = None
    """The same as a first rule of this form, by default one image of each `prompt_key`."""
    rules: tuple[AnyRule, ...] = ()
    """Rules of any form, in order; the first that fails drops the row and is its reason."""
    duplicates: Literal["sha256", "off"] | DuplicatesConfig = "sha256"
    """`sha256` (exact copies), `off`, or a section."""

    @property
    def copies(self) -> DuplicatesConfig:
        """What counts as a duplicate, whichever form it was written in."""
        if isinstance(self.duplicates, DuplicatesConfig):
            return self.duplicates
        return DuplicatesConfig(by=("sha256",) if self.duplicates == "sha256" else ())

    def ordered_rules(self) -> list[tuple[str, Rule]]:
        """Every rule in order with the key that it is configured by; presets as their parts."""
        ordered = list(threshold_rules(self.thresholds))
        if self.best_of is not None:
            ordered.append(("best_of", BestOfRule(best_of=self.best_of)))
        for at, rule in enumerate(self.rules):
            ordered += [(f"rules.{at}", part) for part in rule.parts()]
        return ordered

    def old_keys(self) -> Iterator[str]:
        """A line where the old key is used: what to write instead."""
        if self.thresholds:
            new = "select.rules, before others" if self.rules else "select.rules"
            yield say_instead("select.thresholds", new, threshold_rules(self.thresholds))

    @property
    def weighs_later_rows(self) -> bool:
        """Whether rows that a run gains may change the verdict on those that it had.

        What goes by plan order does not: the earlier row wins. Nor does the best of a prompt,
        whose images lie in one shard.
        """
        for where, rule in self.ordered_rules():
            if isinstance(rule, BestOfRule):
                if where != "best_of" or rule.best_of.per != "prompt_key":
                    return True
            elif isinstance(rule, DomainCapRule) and rule.domain_cap.by is not None:
                return True
        copies = self.copies
        return bool(copies.by) and (copies.keep is not None or not {*copies.by} <= _EXACT)

    def identity(self) -> dict[str, Any]:
        """The options that change a verdict, as plain JSON; what files hold is not in it."""
        return {
            "rules": [rule.identity() for _, rule in self.ordered_rules()],
            "duplicates": self.copies.model_dump(mode="json"),
        }

    def check_thresholds(self, further: Iterable[str] = ()) -> None:
        """Raise `ValueError` where a threshold is on no column of numbers.

        Args:
            further: Columns of numbers that the scores of this run make beside those of every run.
        """
        numeric = (*NUMERIC_COLUMNS, *further)
        for name in self.thresholds:
            if name not in numeric and not name.startswith("source_"):
                raise ValueError(
                    f"thresholds.{name}: not a numeric column of the ledger; allowed: "
                    f"{', '.join(numeric)} and source_<column of the list>"
                )

    def columns_needed(self) -> Iterator[tuple[str, str]]:
        """The key and column of each rule that says nothing of a row where it is null."""
        for where, rule in self.ordered_rules():
            if isinstance(rule, ColumnRule) and rule.missing == "drop":
                column = rule.column
            elif isinstance(rule, BestOfRule):
                column = rule.best_of.by
            elif isinstance(rule, DomainCapRule) and rule.domain_cap.by is not None:
                column = rule.domain_cap.by
            else:
                continue
            yield where, column
        if self.copies.keep is not None:
            yield "duplicates.keep", self.copies.keep

    @field_validator("best_of", mode="before")
    @classmethod
    def _one_of_a_prompt(cls, best_of: Any) -> Any:
        if not isinstance(best_of, dict):
            return best_of
        size = {} if best_of.get("fraction") is not None else {"num_images": 1}
        return {**size, "per": "prompt_key", **best_of}

    @model_validator(mode="after")
    def _presets_exist(self) -> Self:
        for at, rule in enumerate(self.rules):
            if isinstance(rule, ColumnRule) and rule.column in self.thresholds:
                raise ValueError(
                    f"thresholds.{rule.column} and rules.{at}: bounds on one column under an old "
                    "key and its new one; leave the old one out"
                )
        return self
