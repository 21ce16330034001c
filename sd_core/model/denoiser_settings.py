"""Whether a denoiser's `config.json` says only what is honoured; see `settings_check`."""

from collections.abc import Mapping
from typing import Any, Final

from sd_core.model.denoiser_family import TextShape
from sd_core.model.denoisers import DENOISERS
from sd_core.model.settings_check import SettingsError, check_settings

_IMAGE_CHANNELS: Final = 3
"""Beside the latents, of an upscaler."""


def check_denoiser_settings(settings: Mapping[str, Any], *, where: str) -> None:
    """Raises `SettingsError` where a supported denoiser's settings say what is not honoured."""
    check_settings(settings, DENOISERS[str(settings["_class_name"])].decisions, where=where)
    size = settings.get("sample_size")
    if size is not None and not isinstance(size, int):
        raise SettingsError(
            f"{where}: sample_size is {size!r}; allowed: one whole number, the side of square "
            "latents"
        )


def check_texts(settings: Mapping[str, Any], texts: Mapping[str, TextShape]) -> None:
    """Hold what a denoiser attends to against what its text encoders give.

    Raises:
        SettingsError: they are of other models.
    """
    fault = DENOISERS[str(settings["_class_name"])].text_fault(settings, texts)
    if fault is not None:
        raise SettingsError(f"denoiser: {fault}")


def check_channels(settings: Mapping[str, Any], *, latent_channels: int) -> None:
    """Hold a denoiser's inputs and outputs against the autoencoder's latents.

    Raises:
        SettingsError: it gives something else than latents, or wants classes that only upscaling
            has.
    """
    family = DENOISERS[str(settings["_class_name"])]
    channels = int(settings.get("in_channels", 4))
    found = int(settings.get("out_channels", family.out_channels))
    allowed = [latent_channels]
    if family.predicts_variance:
        allowed.append(2 * latent_channels)
    if found not in allowed:
        raise SettingsError(
            f"denoiser: out_channels is {found}, and the autoencoder's latents have "
            f"{latent_channels} channels; allowed: {' or '.join(map(str, allowed))}"
        )
    classes = settings.get("num_class_embeds")
    if classes is not None and channels != latent_channels + _IMAGE_CHANNELS:
        raise SettingsError(
            f"denoiser: num_class_embeds is {classes}: it wants a class of each image, which only "
            "a model of upscaling is given (its noise level); allowed: null"
        )
