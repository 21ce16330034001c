"""Which layer of the model a name in a LoRA file means."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from sd_core.model.lora_file import LoraPair
from sd_core.model.settings_check import SettingsError
from sd_core.model.single_file_names import DENOISER_PREFIX, denoiser_source

_KOHYA: Final[Mapping[str, tuple[str, ...]]] = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
_DOTTED: Final[Mapping[str, tuple[str, ...]]] = {
    "unet": ("unet.", "transformer.", ""),
    "text_encoder": ("text_encoder.", ""),
    "text_encoder_2": ("text_encoder_2.", ""),
}
_OLD_NAMES: Final = (
    (re.compile(r"\.processor\b"), ""),
    (re.compile(r"(\.attn\d)\.to_out\Z"), r"\1.to_out.0"),
    (re.compile(r"\.self_attn\.to_([qkv])\Z"), r".self_attn.\1_proj"),
    (re.compile(r"\.self_attn\.to_out\Z"), r".self_attn.out_proj"),
)
_TEXT_MODEL: Final = "text_model."


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """A pair and the layer that it changes."""

    pair: LoraPair
    layer: nn.Linear | nn.Conv2d
    name: str
    """The layer's, in its part."""


def match_layers(
    pairs: Iterable[LoraPair], parts: Mapping[str, nn.Module], *, where: str
) -> list[LoraLayer]:
    """Each pair with its layer.

    Args:
        parts: Of the model: `unet`, `text_encoder` and, of XL, `text_encoder_2`; may be on the meta
            device.

    Raises:
        SettingsError: a pair fits no layer, or not its shape or rank; two mean one layer.
    """
    names = {part: _names_of(part, module) for part, module in parts.items()}
    found: dict[tuple[str, str], LoraLayer] = {}
    for pair in pairs:
        part, name = _find(pair, names, where=where)
        layer: Any = parts[part].get_submodule(name)
        if (part, name) in found:
            other = found[part, name].pair.keys["down"]
            raise SettingsError(
                f"{where}: {pair.keys['down']} and {other} change one layer, {part}.{name}"
            )
        _check_shape(pair, layer, f"{part}.{name}", where=where)
        found[part, name] = LoraLayer(pair=pair, layer=layer, name=name)
    return list(found.values())


def _find(pair: LoraPair, names: Mapping[str, Mapping[str, str]], *, where: str) -> tuple[str, str]:
    key = pair.keys["down"]
    if pair.part is not None and pair.part not in names:
        raise SettingsError(
            f"{where}: {key} is of a {pair.part}, which this model has not (it has "
            f"{', '.join(names)}): the file is of another kind of model"
        )
    name = pair.name
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    asked = [pair.part] if pair.part is not None else list(names)
    matches = [(part, names[part][name]) for part in asked if name in names[part]]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise SettingsError(
            f"{where}: {key} may be of {' or '.join(part for part, _ in matches)}; put each part's "
            "adapter into a folder of that name"
        )
    raise SettingsError(
        f"{where}: {key} fits no layer of this model's {' or '.join(asked)}: the file is of "
        "another kind of model"
    )


def _names_of(part: str, module: nn.Module) -> dict[str, str]:
    """Every name that a file may give a layer, to the layer's own."""
    return {
        name: layer
        for layer, found in module.named_modules()
        if isinstance(found, nn.Linear | nn.Conv2d)
        for name in _spellings(part, layer, module)
    }


def _spellings(part: str, layer: str, module: nn.Module) -> Iterator[str]:
    dotted = [layer]
    if part != "unet":
        # transformers 4 nests a text model one level deeper than 5.
        bare = layer.removeprefix(_TEXT_MODEL)
        dotted = [bare, _TEXT_MODEL + bare]
    for name in dotted:
        yield from (prefix + name for prefix in _DOTTED[part])
        yield from (prefix + name.replace(".", "_") for prefix in _KOHYA[part])
    if part == "unet" and (original := _original_name(layer, module)):
        yield "lora_unet_" + original.replace(".", "_")


def _original_name(layer: str, module: Any) -> str | None:
    """In the original code's numbering, which kohya uses for XL; None where it has no name."""
    settings = module.config
    if "up_block_types" not in settings:
        return None
    attends = tuple(name.startswith("CrossAttn") for name in settings["up_block_types"])
    try:
        source = denoiser_source(
            f"{layer}.weight", layers_per_block=int(settings["layers_per_block"]), attends=attends
        )
    except (KeyError, ValueError, IndexError, TypeError):
        return None
    return source.name.removeprefix(DENOISER_PREFIX).removesuffix(".weight")


def _check_shape(pair: LoraPair, layer: Any, name: str, *, where: str) -> None:
    assert pair.down is not None
    assert pair.up is not None
    weight, down, up = tuple(layer.weight.shape), tuple(pair.down.shape), tuple(pair.up.shape)
    rank = up[1]
    is_conv = len(weight) == 4
    if is_conv and len(down) == len(up) == 2 and weight[2:] == (1, 1):
        down, up = (*down, 1, 1), (*up, 1, 1)
    elif not is_conv and len(down) == len(up) == 4 and down[2:] == up[2:] == (1, 1):
        down, up = down[:2], up[:2]
    wanted = ((rank, *weight[1:]), (weight[0], rank, *(1,) * (len(weight) - 2)))
    if (down, up) != wanted:
        raise SettingsError(
            f"{where}: {pair.keys['down']} is {tuple(pair.down.shape)} and {pair.keys['up']} "
            f"{tuple(pair.up.shape)}; the layer {name} of this model is {weight}: the file is of "
            "another kind of model"
        )
    if pair.magnitude is not None and pair.magnitude.numel() != weight[0]:
        raise SettingsError(
            f"{where}: {pair.keys['magnitude']} is {tuple(pair.magnitude.shape)}; the layer {name} "
            f"has {weight[0]} outputs"
        )
    if pair.settings is not None and pair.alpha is None:
        told = pair.settings.rank_of(name)
        if told != rank:
            raise SettingsError(
                f"{where}: {pair.keys['down']} is of rank {rank} and the adapter's settings say "
                f"{told} (r, rank_pattern): they are not of one training"
            )
