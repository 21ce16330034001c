"""Resize a stored crop to what open_clip would have made of its original, to a part of a pixel.

open_clip resizes the original's shorter side to S pixels and then cuts the middle S x S out of
that grid, where a centre between two pixels is rounded: its square lies up to half an S-pixel
beside the true middle, which a stored crop has. Half a pixel moves an embedding (cosine 0.995 for
a ViT-B-32 with random weights), so the crop is resampled on open_clip's own grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_core.model.memory import aligned

_CUBIC = -0.5  # Pillow's; torch's antialiased bicubic is the same
_LANES: Final = 32
_MOST_TAPS: Final = 16


@dataclass(frozen=True)
class OriginalSize:
    """Sides of an original as shown, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class CropGrid:
    """Which pixels of B crops make each of their S x S results: of the columns, then of the rows.

    Attributes:
        first: (2, B, S) int32, the first pixel in reach.
        weights: (2, B, S, T) float32, of it and of those after it; they sum to 1.
        side: Of the crops.
    """

    first: Tensor
    weights: Tensor
    side: int

    def to(self, device: torch.device) -> "CropGrid":
        """The same on a device."""
        return replace(self, first=self.first.to(device), weights=self.weights.to(device))

    def matrices(self) -> Tensor:
        """(2, B, S, side) float32."""
        taps = torch.arange(self.weights.shape[-1], device=self.first.device)
        full = self.weights.new_zeros(*self.first.shape, self.side)
        return full.scatter_(3, self.first.long()[..., None] + taps, self.weights)


def crop_grid(originals: Sequence[OriginalSize], *, side: int, size: int) -> CropGrid:
    """open_clip's grid on the crops of B originals, on the CPU.

    Args:
        originals: B sizes.
        side: Of each crop, the largest square in the middle of its original.
        size: S, the side of the result.
    """
    axes = [
        [_axis(length, original, side=side, size=size) for length, original in lengths]
        for lengths in (
            [(original.width, original) for original in originals],
            [(original.height, original) for original in originals],
        )
    ]
    start, step = torch.tensor(axes, dtype=torch.float64)[..., None, None].unbind(2)
    scale = step.clamp(min=1.0)
    centres = start + (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * step
    taps = min(side, int(4 * float(scale.max())) + 2)
    first = (centres - 2 * scale - 0.5).ceil_().clamp_(0, side - taps).long()
    places = first + torch.arange(taps)
    weights = _bicubic((places + 0.5 - centres) / scale)
    weights = (weights / _sums(weights, places, side=side)).float()
    return CropGrid(first=first[..., 0].int(), weights=weights, side=side)


def _axis(length: int, original: OriginalSize, *, side: int, size: int) -> tuple[float, float]:
    """Of an axis of `length` pixels in the original: where the result begins, and how far apart its
    pixels are, in pixels of the crop."""
    short = min(original.width, original.height)
    resized = int(size * length / short)  # torchvision's Resize
    first = round((resized - size) / 2)  # its CenterCrop
    step = length / resized * side / short
    return (first * length / resized - (length - short) / 2) * side / short, step


def _sums(weights: Tensor, places: Tensor, *, side: int) -> Tensor:
    """Each result's sum over all `side` pixels of the crop, to the last bit.

    Torch adds a row up in lanes, one weight to each at most where few pixels are in reach; so a
    part of the row that begins where the lanes do has the same sum.
    """
    if side % _LANES or places.shape[-1] > _MOST_TAPS:
        begin, length = torch.zeros((), dtype=torch.long), side
    else:
        begin, length = places[..., :1] // _LANES * _LANES, 2 * _LANES
    full = weights.new_zeros(*weights.shape[:-1], length)
    return full.scatter_(-1, places - begin, weights).sum(dim=-1, keepdim=True)


def resample_crops(images: Tensor, grid: CropGrid) -> Tensor:
    """Bicubic, antialiased resampling of centre crops.

    Args:
        images: (B, 3, n, n) uint8.
        grid: Of B crops of this side, on the images' device.

    Returns:
        (B, 3, S, S) float32, whole numbers in [0, 255], as Pillow gives them.
    """
    across, down = grid.matrices()
    if images.device.type == "cpu":  # one by one: a product of all may round otherwise
        results = torch.stack(
            [
                aligned(rows) @ (image.float() @ aligned(columns).T)
                for image, columns, rows in zip(images, across, down, strict=True)
            ]
        )
    else:
        results = down[:, None] @ (images.float() @ across.mT[:, None])
    return results.round_().clamp_(0, 255)


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
