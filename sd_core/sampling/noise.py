"""Noise that depends on a row's seed alone: not on the batch it is in, nor on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each row; it draws the row's first noise and all later noise."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def initial_noise(generators: Sequence[torch.Generator], *, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise (B, C, h, w), float32 on the CPU; row i is of generators[i].

    It is what diffusers' pipelines draw from the same list of generators.
    """
    rows = [torch.randn((1, *shape), generator=generator) for generator in generators]
    return torch.cat(rows) if rows else torch.empty((0, *shape))
