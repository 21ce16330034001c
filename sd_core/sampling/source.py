"""Images to start from: noised to a step of the sampler, and kept where a mask says so.

Sources: Meng et al. 2021, arXiv:2108.01073 (start from a noised image); Lugmayr et al. 2022,
arXiv:2201.09865 (what is known is noised to each step's level).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd_core.model.memory import to_device


@dataclass(frozen=True, kw_only=True)
class SourceLatents:
    """What a batch starts from.

    Attributes:
        latents: (B, C, h, w) float32 scaled latents.
        strength: From 0, which leaves them as they are, to 1.
        mask: (B, 1, h, w) float, 1 where the image is made anew and 0 where it stays; None makes
            all of it anew.
    """

    latents: Tensor
    strength: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; allowed are 0 to 1")


def num_steps_of(strength: float, *, num_inference_steps: int) -> int:
    """How many of a sampler's steps a strength comes to; 0 leaves the image as it is."""
    return min(int(num_inference_steps * strength), num_inference_steps)


class SourceNoiser:
    """Brings the source to the level of the sampler's steps.

    Args:
        scheduler: With its timesteps set; it is told where it begins.
        noise: (B, C, h, w) standard normal, as the source on the denoiser's device.
        num_inference_steps: As the scheduler was set.
    """

    def __init__(
        self, scheduler: Any, source: SourceLatents, *, noise: Tensor, num_inference_steps: int
    ) -> None:
        self._scheduler = scheduler
        self._source = to_device(source.latents, noise.device)
        self._mask = None if source.mask is None else to_device(source.mask, noise.device)
        self._noise = noise
        steps = num_steps_of(source.strength, num_inference_steps=num_inference_steps)
        begin = (num_inference_steps - steps) * getattr(scheduler, "order", 1)
        self.timesteps = scheduler.timesteps[begin:] if steps else scheduler.timesteps[:0]
        if steps and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)

    def first(self) -> Tensor:
        """The latents that the first step works on."""
        return self._at(self.timesteps[0]) if len(self.timesteps) else self._source

    def after(self, latents: Tensor, step: int) -> Tensor:
        """Latents after a step, with the source where the mask keeps it."""
        if self._mask is None:
            return latents
        is_last = step == len(self.timesteps) - 1
        kept = self._source if is_last else self._at(self.timesteps[step + 1])
        return (1 - self._mask) * kept + self._mask * latents

    def _at(self, timestep: Tensor) -> Tensor:
        one = timestep.reshape(1)
        if hasattr(self._scheduler, "add_noise"):
            noised: Tensor = self._scheduler.add_noise(self._source, self._noise, one)
            return noised
        flowed: Tensor = self._scheduler.scale_noise(self._source, one, self._noise)
        return flowed


def mask_of_latents(mask: Tensor, *, downsampling: int) -> Tensor:
    """A mask of pixels at the latents' size: 1 wherever any of its pixels is made anew.

    Args:
        mask: (..., 1, H, W) float, 0 or 1.

    Returns:
        (..., 1, H / downsampling, W / downsampling).
    """
    return torch.nn.functional.max_pool2d(mask, downsampling)


def compose_inpainted(images: Tensor, sources: Tensor, mask: Tensor) -> Tensor:
    """Outside the mask the source's own pixels, which decoding would else blur at its edge.

    Args:
        images: (B, H, W, 3) uint8.
        sources: (B, H, W, 3) uint8, decoded from the source's latents.
        mask: (B, H, W, 1) bool, true where the image is made anew.
    """
    return torch.where(mask, images, sources)
