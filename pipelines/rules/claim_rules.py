"""Rules on what a list claims of its images, and on captions as they stand.

A claim may be wrong, and what is measured later is judged again by select. A row that makes no
claim (null, NaN or no number) passes, unless `missing: drop`; a rule whose column the list does
not have is a configuration error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from pipelines.config import ConfigError
from pipelines.rows.caption_facts import count_words
from pipelines.rows.claims import claimed_numbers
from pipelines.rules.columns import array_of
from pipelines.rules.rule import Breaks, Missing, RowRule, RuleOutcome

CLAIM_COLUMNS: Final = {
    "width": ("source_width", "source_original_width"),
    "height": ("source_height", "source_original_height"),
    "similarity": ("source_similarity",),
    "punsafe": ("source_punsafe",),
    "pwatermark": ("source_pwatermark",),
}
"""Where each claim is looked for, LAION's names first; `WIDTH` of a list is `source_width`."""

_SIDES = ("width", "height")


@dataclass(frozen=True, kw_only=True)
class ClaimBound:
    """The one bound that a claim takes (from `least` to `most`), and the reason it gives."""

    bound: Literal["min", "max"]
    reason: str
    least: float
    most: float = float("inf")
    noun: str
    claims: tuple[str, ...]


def _size(noun: str, *claims: str) -> ClaimBound:
    reason = "claimed_size_below_min"
    return ClaimBound(bound="min", reason=reason, least=1, noun=noun, claims=claims)


def _probability(name: str) -> ClaimBound:
    reason = f"claimed_{name}_above_max"
    return ClaimBound(bound="max", reason=reason, least=0, most=1, noun=name, claims=(name,))


_CLAIMS: Final = {
    "width": _size("width", "width"),
    "height": _size("height", "height"),
    "side": _size("shorter side", *_SIDES),
    "aspect": ClaimBound(
        bound="max", reason="claimed_aspect_above_max", least=1, noun="aspect", claims=_SIDES
    ),
    "similarity": ClaimBound(
        bound="min",
        reason="claimed_similarity_below_min",
        least=-1,
        most=1,
        noun="similarity",
        claims=("similarity",),
    ),
    "punsafe": _probability("punsafe"),
    "pwatermark": _probability("pwatermark"),
}


class ClaimedRule(RowRule):
    """A bound on what the list claims, in whatever type its column has."""

    claimed: Literal["width", "height", "side", "aspect", "similarity", "punsafe", "pwatermark"]
    """`side` is the shorter one, `aspect` the longer over the shorter; LAION's own cut of
    similarity is 0.28 (ViT-B/32, English)."""
    min: float | None = None
    """Inclusive; of width, height, side (pixels) and similarity. Unit: the claim's."""
    max: float | None = None
    """Inclusive; of aspect, punsafe and pwatermark. Unit: the claim's."""
    missing: Missing = "keep"
    """What becomes of a row that makes no claim."""

    @model_validator(mode="after")
    def _takes_its_bound(self) -> Self:
        spec = _CLAIMS[self.claimed]
        given = {"min": self.min, "max": self.max}
        value = given.pop(spec.bound)
        if value is None or set(given.values()) != {None}:
            raise ValueError(f"claimed {self.claimed} takes {spec.bound}, and no other bound")
        if not spec.least <= value <= spec.most:
            raise ValueError(f"{spec.bound} must be from {spec.least:g} to {spec.most:g}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        claims = _CLAIMS[self.claimed].claims
        return tuple(name for claim in claims for name in CLAIM_COLUMNS[claim])

    @property
    def outcomes(self) -> tuple[RuleOutcome, ...]:
        spec = _CLAIMS[self.claimed]
        text = f"claimed {spec.noun} {_sign(spec.bound)} {self._bound:g}"
        return (RuleOutcome(reason=spec.reason, rule=self.name or text),)

    @property
    def _bound(self) -> float:
        bound = self.max if self.min is None else self.min
        assert bound is not None  # by the validator
        return bound

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        names = [name for name in types if name.startswith("source_")]
        for claim in _CLAIMS[self.claimed].claims:
            if not set(names) & set(CLAIM_COLUMNS[claim]):
                others = ", ".join(name.removeprefix("source_") for name in names) or "none"
                raise ConfigError(
                    f"{self.where}: the list has no {claim!r} column; its other columns are: "
                    f"{others}"
                )

    def broken(self, rows: pa.Table) -> Breaks:
        spec = _CLAIMS[self.claimed]
        there = [
            next(name for name in CLAIM_COLUMNS[claim] if name in rows.column_names)
            for claim in spec.claims
        ]
        values = _measured(self.claimed, [claimed_numbers(array_of(rows, name)) for name in there])
        compare = pc.less if spec.bound == "min" else pc.greater
        broken = pc.fill_null(compare(values, pa.scalar(self._bound)), self.missing == "drop")
        return np.asarray(broken).astype(np.int16)


class CaptionRule(RowRule):
    """Bounds on the length of a caption, as the list has it; a missing caption has none."""

    caption: Literal["characters", "words"]
    """Words are between white space."""
    min: int | None = None
    """The fewest that pass; a missing caption has none. Unit: `caption`'s."""
    max: int | None = None
    """The most that pass. Unit: `caption`'s."""

    @model_validator(mode="after")
    def _has_bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a rule on captions needs min or max")
        if (self.min or 0) < 0 or (self.max is not None and self.max < max(1, self.min or 1)):
            raise ValueError("min must be 0 or more, max 1 or more and not below min")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return ("caption",)

    @property
    def outcomes(self) -> tuple[RuleOutcome, ...]:
        stem = f"caption {self.caption}"
        return (
            RuleOutcome(
                reason="caption_too_short", rule=self.name or f"{stem} >= {self.min or 0:g}"
            ),
            RuleOutcome(
                reason="caption_too_long", rule=self.name or f"{stem} <= {self.max or 0:g}"
            ),
        )

    def broken(self, rows: pa.Table) -> Breaks:
        captions = pc.fill_null(array_of(rows, "caption"), "")
        count = pc.utf8_length if self.caption == "characters" else count_words
        lengths = np.asarray(count(captions))
        breaks = np.zeros(rows.num_rows, np.int16)
        if self.max is not None:
            breaks[lengths > self.max] = 2
        if self.min is not None:
            breaks[lengths < self.min] = 1
        return breaks


def _sign(bound: str) -> str:
    return ">=" if bound == "min" else "<="


def _measured(claimed: str, claims: list[pa.Array]) -> pa.Array:
    if len(claims) == 1:
        return claims[0]
    shorter = pc.min_element_wise(*claims, skip_nulls=False)
    if claimed == "side":
        return shorter
    longer = pc.max_element_wise(*claims, skip_nulls=False)
    return pc.divide(longer, shorter)  # a claimed side of 0 is an endless aspect
