"""The resampling matrices are, bit for bit, those that each image's own would be."""

import random

import pytest
import torch
from torch import Tensor

from sd_core.model.resample import OriginalSize, crop_grid


def matrix(length: int, original: OriginalSize, *, side: int, size: int) -> Tensor:
    """One axis of one image, every pixel of the crop weighed: as it was made before."""
    short = min(original.width, original.height)
    resized = int(size * length / short)
    first = round((resized - size) / 2)
    step = length / resized * side / short
    start = (first * length / resized - (length - short) / 2) * side / short
    centres = start + (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * step
    x = ((torch.arange(side, dtype=torch.float64)[None] + 0.5 - centres) / max(step, 1.0)).abs()
    near = ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1
    far = -0.5 * (((x - 5) * x + 8) * x - 4)
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return (weights / weights.sum(dim=1, keepdim=True)).float()


@pytest.mark.parametrize(
    ("side", "size"), [(512, 224), (256, 224), (512, 336), (500, 224), (32, 64), (96, 16)]
)
def test_matrices_of_a_batch_are_those_of_each_image(side: int, size: int) -> None:
    rng = random.Random(side * size)
    sizes = [OriginalSize(1, 1), OriginalSize(60_000, 1), OriginalSize(3, 4000)]
    sizes += [OriginalSize(rng.randint(1, 4000), rng.randint(1, 4000)) for _ in range(20)]
    grid = crop_grid(sizes, side=side, size=size)
    across, down = grid.matrices()
    for original, columns, rows in zip(sizes, across, down, strict=True):
        assert torch.equal(columns, matrix(original.width, original, side=side, size=size))
        assert torch.equal(rows, matrix(original.height, original, side=side, size=size))
