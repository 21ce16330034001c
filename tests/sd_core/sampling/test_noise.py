"""Noise belongs to a row, not to its batch."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from sd_core.sampling.noise import (
    derived_seed,
    first_seed,
    initial_noise,
    numbered_seed,
    row_generators,
)


def test_a_rows_noise_depends_on_its_seed_alone() -> None:
    together = initial_noise(row_generators([5, 6, 7]), shape=(4, 8, 8))
    alone = initial_noise(row_generators([6]), shape=(4, 8, 8))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_it_is_the_noise_of_diffusers() -> None:
    theirs = randn_tensor((3, 4, 8, 8), generator=row_generators([5, 6, 7]))
    assert torch.equal(initial_noise(row_generators([5, 6, 7]), shape=(4, 8, 8)), theirs)


def test_image_numbers_count_on_from_the_seed() -> None:
    assert [numbered_seed(7, index) for index in range(3)] == [7, 8, 9]
    assert numbered_seed(2**63 - 1, 1) == 0
    for seed, index in ((7, 3), (2**63 - 1, 9999)):
        assert first_seed(numbered_seed(seed, index), index) == seed


def test_a_derived_seed_follows_from_prompt_and_run_and_fits_in_53_bits() -> None:
    seeds = [derived_seed(prompt, run_seed=run) for prompt in ("a", "b", "") for run in (0, 1)]
    assert len(set(seeds)) == 6
    assert max(seeds) < 2**53
    assert derived_seed("a\ud800", run_seed=0) == derived_seed("a\ud800", run_seed=0)
