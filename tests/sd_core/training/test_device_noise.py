"""Noise that a device draws: the published words of Philox, and a row's own in any company."""

import torch

from sd_core.training.batches import collate
from sd_core.training.device_noise import draw_normals, philox4x32
from sd_core.training.objectives import ObjectiveConfig
from tests.sd_core.training.cases import drawn, encoded_samples, held_cache, make_model


def test_the_words_are_those_that_random123_publishes() -> None:
    """Its known answers for philox4x32-10."""
    top = 2**32 - 1
    for counter, key, words in (
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([top] * 4, [top] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ):
        found = philox4x32(torch.tensor(counter)[:, None], torch.tensor([key]))
        assert found.flatten().tolist() == words


def test_the_noise_is_standard_normal_and_differs_by_row_and_stream() -> None:
    keys = torch.tensor([[1, 2], [1, 3]])
    noise = draw_normals(keys, (4, 101, 99), stream=0)

    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert abs((noise**4).mean() - 3) < 0.15
    other = draw_normals(keys, (4, 101, 99), stream=1)
    for one, two in ((noise[0], noise[1]), (noise[0], other[0])):
        assert abs((one * two).mean()) < 0.02


def test_a_row_drawn_on_the_device_is_the_same_in_any_batch() -> None:
    model = make_model()
    samples, cache = encoded_samples(model, 4), held_cache(model)
    objective = ObjectiveConfig(noise_device="gpu", offset_noise=0.1)
    whole, alone, later = (
        collate(rows, [cache], seed=3, objective=objective).to(torch.device("cpu"))
        for rows in (drawn(samples), drawn(samples[2:3]), drawn(samples, epoch=1))
    )
    for name in ("latents", "noise", "uniforms"):
        assert torch.equal(getattr(whole, name)[2], getattr(alone, name)[0]), name
    assert not torch.equal(whole.noise, later.noise)


def test_where_noise_is_drawn_counts_only_where_it_is_asked_for() -> None:
    assert "noise_device" not in ObjectiveConfig().identity()
    assert ObjectiveConfig(noise_device="gpu").identity()["noise_device"] == "gpu"
