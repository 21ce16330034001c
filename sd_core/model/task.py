"""What a denoiser is for, read off the channels that it takes.

Source: Rombach et al. 2022, sections 4.3.2 (concatenated conditions), 4.4 and 4.5,
arXiv:2112.10752.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from sd_core.model.weights import WeightsError

Task = Literal["text_to_image", "inpainting", "upscaling"]
_IMAGE_CHANNELS = 3


def task_of(denoiser: Mapping[str, Any], *, latent_channels: int) -> Task | None:
    """What a denoiser of these settings is for, beside an autoencoder of C latent channels.

    C channels are the noisy latents alone; 2C + 1 also a mask and the masked image's latents
    (inpainting); C + 3 also an RGB image of low resolution (upscaling).
    """
    tasks: dict[int, Task] = {
        latent_channels: "text_to_image",
        latent_channels + _IMAGE_CHANNELS: "upscaling",
        2 * latent_channels + 1: "inpainting",
    }
    return tasks.get(int(denoiser.get("in_channels", 4)))


def check_task(
    denoiser: Mapping[str, Any], *, latent_channels: int, allowed: Collection[Task]
) -> None:
    """Raises `WeightsError` where the denoiser fits no task, or one that is not allowed."""
    channels = denoiser.get("in_channels", 4)
    task = task_of(denoiser, latent_channels=latent_channels)
    if task is None:
        raise WeightsError(
            f"denoiser: takes {channels} channels, and the autoencoder's latents have "
            f"{latent_channels}; the two are not of one model"
        )
    if task not in allowed:
        raise WeightsError(
            f"denoiser: takes {channels} channels, as for {task}; here it must be one for "
            f"{' or '.join(sorted(allowed))}: name another model"
        )
