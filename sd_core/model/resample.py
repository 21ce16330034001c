"""Resize a stored crop to what open_clip would have made of its original, to a part of a pixel.

open_clip resizes the original's shorter side to S pixels and then cuts the middle S x S out of
that grid, where a centre between two pixels is rounded: its square lies up to half an S-pixel
beside the true middle, which a stored crop has. Half a pixel moves an embedding (cosine 0.995 for
a ViT-B-32 with random weights), so the crop is resampled on open_clip's own grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CUBIC = -0.5  # Pillow's; torch's antialiased bicubic is the same


@dataclass(frozen=True)
class OriginalSize:
    """Sides of an original as shown, in pixels."""

    width: int
    height: int


def resample_crops(images: Tensor, originals: Sequence[OriginalSize], *, size: int) -> Tensor:
    """Bicubic, antialiased resampling of centre crops on open_clip's grid.

    Args:
        images: (B, 3, n, n) uint8, each the largest square in the middle of its original.
        originals: B sizes.
        size: S, the side of the result.

    Returns:
        (B, 3, S, S) float32, whole numbers in [0, 255], as Pillow gives them.
    """
    side = images.shape[-1]
    results = []
    for image, original in zip(images, originals, strict=True):
        across = _weights(original.width, original, side=side, size=size).to(images.device)
        down = _weights(original.height, original, side=side, size=size).to(images.device)
        results.append(down @ (image.float() @ across.T))
    return torch.stack(results).round_().clamp_(0, 255)


def _weights(length: int, original: OriginalSize, *, side: int, size: int) -> Tensor:
    """(size, side) matrix that resamples one axis of the crop, `length` pixels in the original."""
    short = min(original.width, original.height)
    resized = int(size * length / short)  # torchvision's Resize
    first = round((resized - size) / 2)  # its CenterCrop
    step = length / resized * side / short  # crop pixels per result pixel
    start = (first * length / resized - (length - short) / 2) * side / short
    centres = start + (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * step
    pixels = torch.arange(side, dtype=torch.float64)[None] + 0.5
    weights = _bicubic((pixels - centres) / max(step, 1.0))
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _bicubic(distance: Tensor) -> Tensor:
    """Keys 1981, with a = -0.5."""
    x = distance.abs()
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = _CUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def resize(images: Tensor, size: int, interpolation: str, mode: str) -> Tensor:
    """Images (B, 3, H, W) to `size`, as open_clip's `mode` says; raises ValueError on others.

    uint8 on a CPU, rounded float32 elsewhere.
    """
    height, width = images.shape[-2:]
    if mode == "squash" or height == width:
        target = (size, size)
    elif mode == "shortest":
        short = min(height, width)
        target = (int(size * height / short), int(size * width / short))
    else:
        raise ValueError(f"resize mode {mode!r} needs square images, got {width}x{height}")
    if target == (height, width):
        return images
    options: dict[str, Any] = {"mode": interpolation, "antialias": True, "align_corners": False}
    if images.device.type == "cpu":  # fixed-point arithmetic, like Pillow's
        return F.interpolate(images, target, **options)
    pixels = F.interpolate(images.float(), target, **options)
    return pixels.round_().clamp_(0, 255)


def center_crop(images: Tensor, size: int) -> Tensor:
    """The middle square, where torchvision cuts it."""
    height, width = images.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]
