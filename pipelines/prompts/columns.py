"""Which columns of a list of prompts are settings: by our names, by those of tools that are known,
by the user's own word; a near miss of a setting is told, for it would do nothing.

Sources: A1111's log.csv (prompt, seed, width, height, sampler, cfgs, steps, filename,
negative_prompt) and its API (cfg_scale, sampler_name, n_iter, denoising_strength); DiffusionDB's
metadata.parquet (image_name, prompt, part_id, seed, step, cfg, sampler, width, height, ...), by its
data card, arXiv:2210.14896.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipelines.config import ConfigError
from pipelines.prompts.row import PROMPT_SETTINGS

SETTINGS: Final = ("key", *PROMPT_SETTINGS)
_KNOWN: Final[Mapping[str, str]] = {
    "steps": "num_inference_steps",
    "cfgs": "guidance_scale",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "sampler_name": "sampler",
}
"""Names in A1111's, DiffusionDB's and ComfyUI's files, which mean one thing alone."""
_DIFFUSIONDB: Final = {"step": "num_inference_steps"}
"""Means it beside DiffusionDB's `cfg`; else it may be any step."""
_MEANT: Final[Mapping[str, Sequence[str]]] = {
    "negative_prompt": ("negative", "neg", "neg_prompt", "negprompt", "uc", "unconditional_prompt"),
    "seed": ("random_seed", "rng_seed", "rng", "generator"),
    "num_images": (
        *("n_iter", "n_images", "n_samples", "num_samples", "num_images_per_prompt", "num_image"),
        *("batch_count", "batch_size", "number_of_images", "image_count", "images", "n", "count"),
    ),
    "num_inference_steps": ("step", "num_steps", "n_steps", "ddim_steps", "sampling_steps"),
    "guidance_scale": ("guidance", "scale", "cfgscale", "cfg_value", "classifier_free_guidance"),
    "width": ("w", "image_width", "size", "resolution"),
    "height": ("h", "image_height"),
    "sampler": ("scheduler", "sampling_method", "sampler_index", "solver"),
    "init_key": ("init_image", "init", "image_key"),
    "strength": ("denoising_strength", "denoise", "img2img_strength"),
    "mask": ("mask_image", "inpaint_mask"),
}
_UNLIKE: Final = frozenset(
    {"weight", "weights", "keyword", "keywords", "samples", "tasks", "speed", "image_id"}
)
"""Near a setting's name, and a word of their own."""
_METADATA: Final = frozenset({"image_key", "guidance_rescale", "batch_size", "scheduler"})
"""Columns of this program's own `metadata` that set nothing, and look as if they did."""
_ALIKE: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class SettingColumns:
    """A list's columns that are settings.

    Attributes:
        columns: Setting to the name of its column in the list.
        said: One line for each that is not read by its own name, or may have been meant.
    """

    columns: Mapping[str, str]
    said: Sequence[str]


def find_settings(names: Sequence[str], asked: Mapping[str, str | None]) -> SettingColumns:
    """The columns of settings.

    Args:
        names: Every column of the list but the prompt.
        asked: `prompts.columns`: setting to column, null for none.

    Raises:
        ConfigError: `asked` names a column that the list does not have.
    """
    found = {name: column for name, column in asked.items() if column is not None}
    for setting, column in found.items():
        if column not in names:
            raise ConfigError(
                f"prompts.columns.{setting}: the list has no column {column!r}; it has: "
                f"{', '.join(names) or '(no other)'}"
            )
    said: list[str] = []
    left = [name for name in names if name not in found.values()]
    for exact in (True, False):
        for name in left:
            setting = name if exact else _plain(name)
            if setting in SETTINGS and setting not in found and setting not in asked:
                found[setting] = name
    _add_known(found, left, asked, said)
    own = _METADATA if {"image_key", "noise_seed"} <= set(names) else frozenset[str]()
    for name in left:
        if name not in found.values() and name not in own:
            said += _near_miss(name, found, asked)
    return SettingColumns(columns=found, said=said)


def _add_known(
    found: dict[str, str], names: Sequence[str], asked: Mapping[str, str | None], said: list[str]
) -> None:
    plain = {_plain(name) for name in names}
    known = {**_KNOWN, **(_DIFFUSIONDB if "cfg" in plain else {})}
    for name in names:
        setting = known.get(_plain(name))
        if setting is not None and setting not in found and setting not in asked:
            found[setting] = name
            said.append(
                f"the column {name} is read as {setting} (prompts.columns.{setting} names another)"
            )


def _near_miss(name: str, found: Mapping[str, str], asked: Mapping[str, str | None]) -> list[str]:
    """A line where a column that sets nothing looks like a setting."""
    plain = _plain(name)
    meant = [setting for setting, words in _MEANT.items() if plain in words]
    known = {**_KNOWN, **_DIFFUSIONDB}
    meant = meant or [known.get(plain, plain if plain in SETTINGS else "")]
    if not meant[0] and plain not in _UNLIKE:
        squeezed = {setting.replace("_", ""): setting for setting in SETTINGS}
        close = difflib.get_close_matches(
            plain.replace("_", ""), list(squeezed), n=1, cutoff=_ALIKE
        )
        meant = [squeezed[close[0]]] if close else [""]
    setting = meant[0]
    if not setting or (setting in asked and asked[setting] is None):
        return []
    if setting in found:
        return [f"the column {name} sets nothing: {found[setting]} is read as {setting}"]
    return [
        f"the column {name} sets nothing: did you mean {setting}? Rename it, or set "
        f"prompts.columns.{setting}={name}"
    ]


def _plain(name: str) -> str:
    """`CFG scale`, `Cfg-Scale` and `cfg_scale` are one; `numImages` is `num_images`."""
    spaced = "".join(
        f" {sign}" if sign.isupper() and at and name[at - 1].islower() else sign
        for at, sign in enumerate(name)
    )
    return "_".join(spaced.lower().replace("-", " ").replace("_", " ").split())
