"""Rules on the list's own columns, applied before anything is fetched.

Claims are taken as they stand: what a list says of an image may be wrong, and what is measured
later is judged again by select. A row that makes no claim (null or NaN) passes, unless
`missing_values: drop`; a rule whose column the list does not have is a configuration error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.config import Config, ConfigError
from pipelines.rows.caption_facts import count_words
from pipelines.rows.claims import claimed_numbers

CLAIM_COLUMNS = {
    "width": ("source_width", "source_original_width"),
    "height": ("source_height", "source_original_height"),
    "similarity": ("source_similarity",),
    "punsafe": ("source_punsafe",),
    "pwatermark": ("source_pwatermark",),
}
"""Where each claim is looked for, LAION's names first; `WIDTH` of a list is `source_width`."""


class RulesConfig(Config):
    """Bounds on what the list claims; null switches a rule off."""

    min_width: int | None = Field(default=None, ge=1)
    """Claimed width in pixels."""
    min_height: int | None = Field(default=None, ge=1)
    """Claimed height in pixels."""
    min_side: int | None = Field(default=None, ge=1)
    """The shorter of the claimed sides."""
    max_aspect: float | None = Field(default=None, ge=1.0)
    """The longer claimed side over the shorter."""
    min_similarity: float | None = Field(default=None, ge=-1.0, le=1.0)
    """Claimed image-text similarity; LAION's own cut is 0.28 (B/32, English)."""
    max_punsafe: float | None = Field(default=None, ge=0.0, le=1.0)
    """Claimed probability that the image is not safe for work. Unit: probability."""
    max_pwatermark: float | None = Field(default=None, ge=0.0, le=1.0)
    """Claimed probability that the image bears a watermark. Unit: probability."""
    min_caption_chars: int | None = Field(default=None, ge=0)
    """A missing caption has none."""
    min_caption_words: int | None = Field(default=None, ge=0)
    """Words between white space."""
    max_caption_chars: int | None = Field(default=None, ge=1)
    """A longer caption drops its row."""
    missing_values: Literal["keep", "drop"] = "keep"
    """A row whose claim is null or NaN passes, or (`drop`) gets the rule's reason."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """One element a row: null, or the first rule broken.

    Attributes:
        reason: From `pipelines.rows.ledger.LIST_REASONS`.
        rule: The rule as the user gave it, e.g. `claimed width >= 256`.
    """

    reason: pa.Array
    rule: pa.Array


@dataclass(frozen=True, kw_only=True)
class _Rule:
    option: str
    bound: float
    reason: str
    text: str
    claims: tuple[str, ...]
    measure: Callable[[list[pa.Array]], pa.Array]
    at_least: bool


def check_rules(column_names: list[str], config: RulesConfig) -> None:
    """Refuse a rule whose column the list does not have.

    Args:
        column_names: The run's `source_` columns.

    Raises:
        ConfigError: names each such rule, and the columns there are.
    """
    found = [name for name in column_names if name.startswith("source_")]
    faults = [
        f"  - rules.{rule.option}: the list has no {claim!r} column"
        for rule in _rules(config)
        for claim in rule.claims
        if _claim_column(found, claim) is None
    ]
    if faults:
        inputs = ", ".join(name.removeprefix("source_") for name in found) or "none"
        raise ConfigError(
            f"rules: {len(faults)} problem(s)\n" + "\n".join(faults) + f"\n  The list's other "
            f"columns are: {inputs}. Remove the rule (or set it to null), or give another list."
        )


def apply_rules(rows: pa.Table, config: RulesConfig) -> Verdicts:
    """Judge rows by their `caption` and `source_` columns; the first broken rule is the verdict.

    Raises:
        ConfigError: as `check_rules`.
    """
    check_rules(rows.column_names, config)
    reason = pa.nulls(rows.num_rows, pa.string())
    text = reason
    for rule in _rules(config):
        broken = pc.and_(_broken(rows, rule, config.missing_values), pc.is_null(reason))
        reason = pc.if_else(broken, rule.reason, reason)
        text = pc.if_else(broken, rule.text, text)
    return Verdicts(reason=reason, rule=text)


def _broken(rows: pa.Table, rule: _Rule, missing_values: str) -> pa.Array:
    if rule.claims:
        names = [_claim_column(rows.column_names, claim) for claim in rule.claims]
        inputs = [claimed_numbers(_array(rows[name])) for name in names]
    else:
        inputs = [_array(rows["caption"])]
    values = rule.measure(inputs)
    compare = pc.less if rule.at_least else pc.greater
    broken = compare(values, pa.scalar(rule.bound, values.type))
    return pc.fill_null(broken, missing_values == "drop")


def _rules(config: RulesConfig) -> list[_Rule]:
    size, aspect = "claimed_size_below_min", "claimed_aspect_above_max"
    sides = ("width", "height")
    listed = [
        _claim(config, "min_width", size, "width", ("width",), _first),
        _claim(config, "min_height", size, "height", ("height",), _first),
        _claim(config, "min_side", size, "shorter side", sides, _shorter_side),
        _claim(config, "max_aspect", aspect, "aspect", sides, _aspect),
        *(
            _claim(config, option, f"claimed_{name}_{bound}", name, (name,), _first)
            for option, name, bound in (
                ("min_similarity", "similarity", "below_min"),
                ("max_punsafe", "punsafe", "above_max"),
                ("max_pwatermark", "pwatermark", "above_max"),
            )
        ),
        _caption(config, "min_caption_chars", "caption_too_short", "characters", _characters),
        _caption(config, "min_caption_words", "caption_too_short", "words", _num_words),
        _caption(config, "max_caption_chars", "caption_too_long", "characters", _characters),
    ]
    return [rule for rule in listed if rule is not None]


def _claim(
    config: RulesConfig,
    option: str,
    reason: str,
    noun: str,
    claims: tuple[str, ...],
    measure: Callable[[list[pa.Array]], pa.Array],
) -> _Rule | None:
    return _rule(config, option, reason, f"claimed {noun}", claims, measure)


def _caption(
    config: RulesConfig,
    option: str,
    reason: str,
    noun: str,
    measure: Callable[[list[pa.Array]], pa.Array],
) -> _Rule | None:
    return _rule(config, option, reason, f"caption {noun}", (), measure)


def _rule(
    config: RulesConfig,
    option: str,
    reason: str,
    noun: str,
    claims: tuple[str, ...],
    measure: Callable[[list[pa.Array]], pa.Array],
) -> _Rule | None:
    bound = getattr(config, option)
    if bound is None:
        return None
    at_least = option.startswith("min_")
    return _Rule(
        option=option,
        bound=float(bound),
        reason=reason,
        text=f"{noun} {'>=' if at_least else '<='} {bound:g}",
        claims=claims,
        measure=measure,
        at_least=at_least,
    )


def _claim_column(names: list[str], claim: str) -> str | None:
    return next((name for name in CLAIM_COLUMNS[claim] if name in names), None)


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return (
            pa.concat_arrays(combined.chunks)
            if combined.num_chunks
            else pa.array([], combined.type)
        )
    return combined


def _first(claims: list[pa.Array]) -> pa.Array:
    return claims[0]


def _shorter_side(claims: list[pa.Array]) -> pa.Array:
    return pc.min_element_wise(*claims, skip_nulls=False)


def _aspect(claims: list[pa.Array]) -> pa.Array:
    longer = pc.max_element_wise(*claims, skip_nulls=False)
    return pc.divide(longer, _shorter_side(claims))  # a claimed side of 0 is an endless aspect


def _characters(caption: list[pa.Array]) -> pa.Array:
    return pc.cast(pc.utf8_length(pc.fill_null(caption[0], "")), pa.float64())


def _num_words(caption: list[pa.Array]) -> pa.Array:
    return pc.cast(count_words(pc.fill_null(caption[0], "")), pa.float64())
