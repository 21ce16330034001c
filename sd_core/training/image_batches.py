"""From drawn images to a batch of an autoencoder's training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sd_core.training.batches import row_generator
from sd_core.training.task import TaskBatch


@dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """An image in its place in the order.

    Args:
        key: Its row.
        pixels: (H, W, 3) uint8 RGB.
        epoch: How many times its stream has seen all its rows of that image set.
    """

    key: str
    pixels: npt.NDArray[np.uint8]
    epoch: int


@dataclass(frozen=True, kw_only=True)
class ImageBatch(TaskBatch):
    """What one step of a rank needs.

    Args:
        images: (B, 3, H, W) float32 in [-1, 1].
        noise: (B, C, h, w) float32 standard normal, from which latents are drawn.
    """

    images: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class GatheredImages(TaskBatch):
    """The same as it was read: a quarter of the bytes to copy.

    Args:
        pixels: (B, H, W, 3) uint8.
        noise: As it stays.
    """

    pixels: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> ImageBatch:
        """Copy, then scale to [-1, 1]."""
        here = cast(GatheredImages, super().to(device))
        return ImageBatch(keys=here.keys, images=as_input(here.pixels), noise=here.noise)


def as_input(pixels: npt.NDArray[np.uint8] | Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def collate_images(
    drawn: Sequence[DrawnImage],
    *,
    latents_shape: tuple[int, int, int],
    seed: int,
    random_flip: bool,
) -> GatheredImages:
    """Gather images, flip half of the images left to right where asked, draw the noise.

    What happens to a row follows from the seed, its key and its epoch alone.
    """
    pixels, noise = [], []
    for one in drawn:
        rng = row_generator(one.key, seed=seed, epoch=one.epoch, purpose="autoencoder")
        is_flipped = rng.random() < 0.5
        pixels.append(one.pixels[:, ::-1] if random_flip and is_flipped else one.pixels)
        noise.append(rng.standard_normal(latents_shape, dtype=np.float32))
    return GatheredImages(
        keys=tuple(one.key for one in drawn),
        pixels=torch.from_numpy(np.stack(pixels)),
        noise=torch.from_numpy(np.stack(noise)),
    )
