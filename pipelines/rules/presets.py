"""Published cuts as ready-made rules, with bounds as published (`above`, `below`: exclusive)."""

from collections.abc import Mapping
from typing import Final, Self

from pydantic import model_validator

from pipelines.rules.column_rule import ColumnRule
from pipelines.rules.ranked_rules import BestOf, BestOfRule
from pipelines.rules.rule import Missing, Rule
from pipelines.rules.sql_rule import SqlRule

PresetPart = ColumnRule | SqlRule | BestOfRule
PresetParts = tuple[PresetPart, ...]


def _bounds(column: str, **bounds: float) -> ColumnRule:
    return ColumnRule.model_validate({"column": column, **bounds})


_SHORTER = "least(original_width, original_height)"
_LONGER = "greatest(original_width, original_height)"

RULE_PRESETS: Final[Mapping[str, PresetParts]] = {
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
    # T-MARS (Maini et al. 2023): the half that fits its captions best without its letters.
    "t_mars": (BestOfRule(best_of=BestOf(by="clip_similarity_without_text", fraction=0.5)),),
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


class PresetRule(Rule):
    """Published cuts by name, each as a rule of its own."""

    preset: str
    """`laion_aesthetic_v1`, `laion_art`, `laion_aesthetic_v2_` with 4.5, 4.75, 5, 6, 6.25 or 6.5,
    `laion_similarity`, `t_mars`, `stable_diffusion_1`, `stable_diffusion_2` or `datacomp_basic`."""
    missing: Missing = "drop"
    """What becomes of a row in which a column of the preset is null."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.preset not in RULE_PRESETS:
            raise ValueError(f"preset {self.preset!r}: allowed: {', '.join(RULE_PRESETS)}")
        is_ranked = any(isinstance(part, BestOfRule) for part in RULE_PRESETS[self.preset])
        if is_ranked and "missing" in self.model_fields_set:
            raise ValueError(f"preset {self.preset}: null is the worst there; leave missing out")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts() for name in part.columns))

    def parts(self) -> PresetParts:
        name = self.name or self.preset
        return tuple(_named(part, name, self.missing) for part in RULE_PRESETS[self.preset])


def _named(part: PresetPart, name: str, missing: Missing) -> PresetPart:
    if isinstance(part, BestOfRule):
        return part.model_copy(update={"name": name})
    if isinstance(part, SqlRule):
        sql = f"coalesce({part.sql}, true)" if missing == "keep" else part.sql
        return part.model_copy(update={"name": f"{name}: {part.name}", "sql": sql})
    return part.model_copy(update={"name": f"{name}: {part.text}", "missing": missing})
