"""Noise that depends on a row's seed alone: not on the batch it is in, nor on the device."""

import hashlib
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

NOISE_VERSION: Final = 2
"""How images come to their noise; in a run's identity. 1: from the row's key, seed and number."""
_MAX_SEEDS: Final = 2**63
_DERIVED_BITS: Final = 53  # what every reader of the files' parameters, JavaScript's too, can hold


def numbered_seed(seed: int, image_index: int) -> int:
    """What the noise of image i of a row is drawn from: seed + i, below 2**63.

    So image 1 of seed 7 is image 0 of seed 8, as A1111's batches count on.
    """
    return (seed + image_index) % _MAX_SEEDS


def first_seed(noise_seed: int, image_index: int) -> int:
    """The seed whose image i has that noise: the inverse of `numbered_seed`."""
    return (noise_seed - image_index) % _MAX_SEEDS


def derived_seed(prompt: str, *, run_seed: int) -> int:
    """The seed of a row that has none: 53 bits of a hash of the run's seed and its prompt."""
    text = f"{prompt}/{run_seed}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _DERIVED_BITS)


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each row; it draws the row's first noise and all later noise."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def initial_noise(generators: Sequence[torch.Generator], *, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise (B, C, h, w), float32 on the CPU; row i is of generators[i].

    It is what diffusers' pipelines draw from the same list of generators.
    """
    rows = [torch.randn((1, *shape), generator=generator) for generator in generators]
    return torch.cat(rows) if rows else torch.empty((0, *shape))
