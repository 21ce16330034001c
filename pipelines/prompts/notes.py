"""Settings of a row that do nothing: named in its record, and counted once for the user."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from sd_core.sampling.source import num_steps_of

NOTES: Final[Mapping[str, str]] = {
    "negative_prompt_unused": "a guidance_scale up to 1 looks at no negative_prompt, nor does a "
    "model that is told the scale",
    "guidance_scale_unused": "a guidance_scale between 0 and 1 does what 1 does: it guides nothing",
    "strength_unused": "a strength needs the init_key of an image to start from, and a model that "
    "does not enlarge it",
    "strength_without_steps": "num_inference_steps x strength is below 1: the image that the row "
    "starts from is left as it is",
    "num_images_unused": "image_index names the one image that is made",
    "seed_unused": "noise_seed says what the noise is drawn from, and the row's seed another",
}
"""What may stand in `notes`, in this order, and what it means."""


class Defaults(Protocol):
    """What counts for a row without its own."""

    @property
    def negative_prompt(self) -> str: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def num_inference_steps(self) -> int: ...
    @property
    def strength(self) -> float: ...


def notes_of(
    row: Mapping[str, Any],
    defaults: Defaults,
    *,
    enlarges: bool = False,
    embeds_guidance: bool = False,
) -> tuple[str, ...]:
    """The notes on a planned row, names of `NOTES`.

    Args:
        row: Its own settings; null or absent where it has none.
        defaults: For those.
        enlarges: Whether the model is one of upscaling.
        embeds_guidance: Whether its denoiser is told the guidance scale, and guides itself.
    """

    def given(name: str) -> Any:
        own = row.get(name)
        return getattr(defaults, name) if own is None else own

    notes = []
    is_guided = given("guidance_scale") > 1 and not embeds_guidance
    if given("negative_prompt") and not is_guided:
        notes.append("negative_prompt_unused")
    if 0 < given("guidance_scale") < 1 and not embeds_guidance:
        notes.append("guidance_scale_unused")
    starts = row.get("init_key") is not None and not enlarges
    if row.get("strength") is not None and not starts:
        notes.append("strength_unused")
    steps = num_steps_of(given("strength"), num_inference_steps=given("num_inference_steps"))
    if starts and steps == 0:
        notes.append("strength_without_steps")
    return tuple(notes)
