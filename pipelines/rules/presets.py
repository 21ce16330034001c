"""Published cuts as ready-made rules, with bounds as published (`above`, `below`: exclusive)."""

from collections.abc import Mapping
from typing import Final

from pipelines.rules.ranked_rules import ColumnRule, Missing, PresetRule, SqlRule

PresetParts = tuple[ColumnRule | SqlRule, ...]


def _bounds(column: str, **bounds: float) -> ColumnRule:
    return ColumnRule.model_validate({"column": column, **bounds})


_SHORTER = "least(original_width, original_height)"
_LONGER = "greatest(original_width, original_height)"

PRESETS: Final[Mapping[str, PresetParts]] = {
    # LAION-Aesthetics V1: laion2B-en-aesthetic and laion-art.
    "laion_aesthetic_v1": (
        _bounds("aesthetic_v1", above=7),
        _bounds("pwatermark", below=0.8),
        _bounds("punsafe", below=0.5),
    ),
    "laion_art": (_bounds("aesthetic_v1", above=8),),
    # LAION-Aesthetics V2: the sets "4.5plus" to "6.5plus".
    **{
        f"laion_aesthetic_v2_{cut:g}": (_bounds("aesthetic_v2", min=cut),)
        for cut in (4.5, 4.75, 5, 6, 6.25, 6.5)
    },
    # LAION's own cut of image-text similarity, for English and a ViT-B/32.
    "laion_similarity": (_bounds("clip_similarity", min=0.28),),
    # Stable Diffusion 1.2 onward, by its model card.
    "stable_diffusion_1": (
        _bounds("aesthetic_v2", above=5),
        _bounds("original_width", min=512),
        _bounds("original_height", min=512),
        _bounds("pwatermark", below=0.5),
    ),
    # Stable Diffusion 2, by its model card.
    "stable_diffusion_2": (_bounds("punsafe", below=0.1), _bounds("aesthetic_v2", min=4.5)),
    # DataComp's basic filter.
    "datacomp_basic": (
        ColumnRule(column="caption_language", one_of=("en",)),
        _bounds("caption_words", above=2),
        _bounds("caption_chars", above=5),
        SqlRule(sql=f"{_SHORTER} >= 200", name="shorter side >= 200"),
        SqlRule(sql=f"{_LONGER} <= 3 * {_SHORTER}", name="aspect <= 3"),
    ),
}


def expand_preset(rule: PresetRule) -> PresetParts:
    """The rules of a preset, named after it.

    Raises:
        ValueError: there is no such preset.
    """
    if rule.preset not in PRESETS:
        raise ValueError(f"preset {rule.preset!r}: allowed: {', '.join(PRESETS)}")
    return tuple(_named(part, rule.preset, rule.missing) for part in PRESETS[rule.preset])


def _named(part: ColumnRule | SqlRule, preset: str, missing: Missing) -> ColumnRule | SqlRule:
    if isinstance(part, SqlRule):
        sql = f"coalesce({part.sql}, true)" if missing == "keep" else part.sql
        return part.model_copy(update={"name": f"{preset}: {part.name}", "sql": sql})
    return part.model_copy(update={"name": f"{preset}: {describe(part)}", "missing": missing})


def describe(rule: ColumnRule) -> str:
    """The rule as a reader would write it, e.g. `aesthetic_v2 >= 5`."""
    if rule.one_of is not None:
        return f"{rule.column} is {' or '.join(rule.one_of)}"
    signs = (("above", ">"), ("min", ">="), ("below", "<"), ("max", "<="))
    bounds = [(sign, getattr(rule, field)) for field, sign in signs]
    return " and ".join(f"{rule.column} {sign} {b:g}" for sign, b in bounds if b is not None)
