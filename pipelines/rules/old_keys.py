"""Keys of earlier versions: `rules`, `block` and `select.thresholds`, and what is written now."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from pipelines.config import Config
from pipelines.redact import redact_config
from pipelines.rules.block_lists import BlockConfig
from pipelines.rules.block_rules import BlockRule
from pipelines.rules.claim_rules import CaptionRule, ClaimedRule
from pipelines.rules.column_rule import ColumnRule, Threshold
from pipelines.rules.rule import Rule

Keyed = tuple[tuple[str, Rule], ...]
"""Rules in order, each with the key that it is configured by."""

_CLAIMS = {
    "min_width": "width",
    "min_height": "height",
    "min_side": "side",
    "max_aspect": "aspect",
    "min_similarity": "similarity",
    "max_punsafe": "punsafe",
    "max_pwatermark": "pwatermark",
}
_CAPTIONS: dict[str, Literal["characters", "words"]] = {
    "min_caption_chars": "characters",
    "min_caption_words": "words",
    "max_caption_chars": "characters",
}


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


def old_rules(rules: RulesConfig, block: BlockConfig) -> Keyed:
    """The rules that the old keys `rules` and `block` stand for, in the order they had."""
    found: list[tuple[str, Rule]] = []
    for option in (*_CLAIMS, *_CAPTIONS):
        value = getattr(rules, option)
        if value is None:
            continue
        tree: dict[str, Any] = {option[:3]: value}
        if option in _CLAIMS:
            tree |= {"claimed": _CLAIMS[option], "missing": rules.missing_values}
        else:
            tree |= {"caption": _CAPTIONS[option]}
        form = ClaimedRule if option in _CLAIMS else CaptionRule
        found.append((f"rules.{option}", form.model_validate(tree)))
    if block != BlockConfig():
        found.append(("block", BlockRule(block=block)))
    return tuple(found)


def as_old_rules(rules: Sequence[Rule]) -> RulesConfig | None:
    """What the old key `rules` would have said, before one block rule at the end; None where it
    could not have said the same.
    """
    options: dict[str, Any] = {}
    for rule in rules:
        if isinstance(rule, ClaimedRule):
            bound = "max" if rule.min is None else "min"
            value = rule.max if rule.min is None else rule.min
            options[f"{bound}_{rule.claimed}"] = value
            options["missing_values"] = rule.missing
        elif isinstance(rule, CaptionRule):
            unit = "chars" if rule.caption == "characters" else "words"
            told = {b: value for b in ("min", "max") if (value := getattr(rule, b)) is not None}
            options |= {f"{bound}_caption_{unit}": value for bound, value in told.items()}
    try:
        old = RulesConfig.model_validate(
            {name: _whole(value) for name, value in options.items() if value is not None}
        )
    except ValidationError:
        return None
    block = next((rule.block for rule in rules if isinstance(rule, BlockRule)), BlockConfig())
    same = [rule for _, rule in old_rules(old, block)] == list(rules)
    return old if same else None


def threshold_rules(thresholds: Mapping[str, Threshold]) -> Keyed:
    """The rules that the old key `select.thresholds` stands for."""
    return tuple(
        (f"thresholds.{column}", ColumnRule(column=column, **threshold.model_dump()))
        for column, threshold in thresholds.items()
    )


def say_instead(old: str, new: str, rules: Keyed) -> str:
    """The line that tells what to write instead of an old key."""
    shown = [
        redact_config(rule.model_dump(mode="json", exclude_defaults=True)) for _, rule in rules
    ]
    text = yaml.safe_dump(shown, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return f"{old}: an old key, still read; write instead {new}: {text.strip()}"


def _whole(value: Any) -> Any:
    """Whole numbers as such: sides were integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
