"""Noise belongs to a row, not to its batch."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from sd_core.sampling.noise import initial_noise, row_generators


def test_a_rows_noise_depends_on_its_seed_alone() -> None:
    together = initial_noise(row_generators([5, 6, 7]), shape=(4, 8, 8))
    alone = initial_noise(row_generators([6]), shape=(4, 8, 8))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_it_is_the_noise_of_diffusers() -> None:
    theirs = randn_tensor((3, 4, 8, 8), generator=row_generators([5, 6, 7]))
    assert torch.equal(initial_noise(row_generators([5, 6, 7]), shape=(4, 8, 8)), theirs)
