"""What open_clip's table says of a model's name and the tag of its weights."""

from typing import Any, Literal


def check_open_clip_name(name: str, pretrained: str | Literal[False] | None) -> None:
    """Refuse unknown names and tags, and a tag whose activation is not the model's.

    OpenAI's weights (and a few more) were trained with QuickGELU. open_clip builds the plain name
    with GELU and only warns; a V1 score moved from 4.44 to 5.05.
    """
    import open_clip
    from open_clip import pretrained as table

    if name not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {name!r}; see open_clip.list_models()")
    if not pretrained:
        return
    tag = table.get_pretrained_cfg(name, pretrained)
    base = name.removesuffix("-quickgelu")
    other = base if name != base else f"{base}-quickgelu"
    if not tag:
        tags = ", ".join(table.list_pretrained_tags_by_model(name)) or "none"
        hint = f" ({other} has it)" if table.get_pretrained_cfg(other, pretrained) else ""
        raise ValueError(f"open_clip has no tag {pretrained!r} for {name}{hint}; it has: {tags}")
    builds_quick = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    if builds_quick != bool(tag.get("quick_gelu", False)):
        trained, built = ("QuickGELU", "GELU") if not builds_quick else ("GELU", "QuickGELU")
        raise ValueError(
            f"{name} is built with {built}, but {pretrained!r} was trained with {trained} and "
            f"would give wrong embeddings; name it {other}"
        )


def trained_preprocess(name: str, pretrained: str | Literal[False] | None) -> dict[str, Any]:
    """What the tag says of preprocessing; open_clip forgets it when the checkpoint is a path."""
    from open_clip import pretrained as table

    entry = table.get_pretrained_cfg(name, pretrained) if pretrained else {}
    wanted = ("mean", "std", "interpolation", "resize_mode")
    return {key: entry[key] for key in wanted if key in entry}
