"""The rules that decide which stored images are kept."""

from collections.abc import Iterator
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipelines.config import Config
from pipelines.rows.ledger import LEDGER, SCORES
from pipelines.steps.select.duplicates_config import DuplicatesConfig
from pipelines.steps.select.presets import expand_preset
from pipelines.steps.select.rule_config import (
    BestOf,
    BestOfRule,
    BlockKeysRule,
    BlockWordsRule,
    ColumnRule,
    DomainCapRule,
    PresetRule,
    Rule,
    SqlRule,
    Threshold,
)

PlainRule = ColumnRule | SqlRule | BestOfRule | DomainCapRule | BlockKeysRule | BlockWordsRule

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
    """Thresholds, then rules, each in order; then duplicates among the rows that passed."""

    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """Column of the ledger (or `source_<name>`) to bounds; the first that fails is the reason."""
    best_of: BestOf | None = None
    """The same as a first rule of this form, by default one image of each `prompt_key`."""
    rules: tuple[Rule, ...] = ()
    """Rules of any form, in order; the first that fails drops the row and is its reason."""
    duplicates: Literal["sha256", "off"] | DuplicatesConfig = "sha256"
    """`sha256` (exact copies), `off`, or a section."""

    @property
    def copies(self) -> DuplicatesConfig:
        """What counts as a duplicate, whichever form it was written in."""
        if isinstance(self.duplicates, DuplicatesConfig):
            return self.duplicates
        return DuplicatesConfig(by=("sha256",) if self.duplicates == "sha256" else ())

    def ordered_rules(self) -> list[tuple[str, PlainRule]]:
        """Every rule in order with the key that it is configured by; presets as their parts."""
        ordered: list[tuple[str, PlainRule]] = [
            (f"thresholds.{column}", ColumnRule(column=column, **threshold.model_dump()))
            for column, threshold in self.thresholds.items()
        ]
        if self.best_of is not None:
            ordered.append(("best_of", BestOfRule(best_of=self.best_of)))
        for at, rule in enumerate(self.rules):
            parts = expand_preset(rule) if isinstance(rule, PresetRule) else (rule,)
            ordered += [(f"rules.{at}", part) for part in parts]
        return ordered

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
            "rules": [rule.model_dump(mode="json") for _, rule in self.ordered_rules()],
            "duplicates": self.copies.model_dump(mode="json"),
        }

    def scores_used(self) -> Iterator[tuple[str, str]]:
        """The key and name of each score that a rule needs to say anything."""
        for where, rule in self.ordered_rules():
            if isinstance(rule, ColumnRule) and rule.missing == "drop":
                columns = [rule.column]
            elif isinstance(rule, BestOfRule):
                columns = [rule.best_of.by]
            elif isinstance(rule, DomainCapRule):
                columns = [rule.domain_cap.by or ""]
            else:
                columns = []
            yield from ((where, column) for column in columns if column in SCORES)
        if self.copies.keep in SCORES:
            yield "duplicates.keep", self.copies.keep

    @field_validator("best_of", mode="before")
    @classmethod
    def _one_of_a_prompt(cls, best_of: Any) -> Any:
        if not isinstance(best_of, dict):
            return best_of
        size = {} if best_of.get("fraction") is not None else {"num_images": 1}
        return {**size, "per": "prompt_key", **best_of}

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        for name in self.thresholds:
            if name not in NUMERIC_COLUMNS and not name.startswith("source_"):
                raise ValueError(
                    f"thresholds.{name}: not a numeric column of the ledger; allowed: "
                    f"{', '.join(NUMERIC_COLUMNS)} and source_<column of the list>"
                )
        for at, rule in enumerate(self.rules):
            if isinstance(rule, PresetRule):
                try:
                    expand_preset(rule)
                except ValueError as error:
                    raise ValueError(f"rules.{at}: {error}") from None
        return self
