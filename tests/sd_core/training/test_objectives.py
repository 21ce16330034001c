"""The objectives against their formulas."""

import pytest
import torch

from sd_core.model.noise_schedule import NoiseScheduleConfig, build_noise_schedule
from sd_core.training.objectives import (
    add_noise,
    draw_timesteps,
    loss_weights,
    losses_of,
    min_snr_weights,
    signal_to_noise,
    target_of,
)


def schedule(prediction_type, **changes):
    return build_noise_schedule(NoiseScheduleConfig(prediction_type=prediction_type, **changes))


LATENTS = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(2))
TIMESTEPS = torch.tensor([0, 500, 999])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noised_latents_and_targets_are_those_of_diffusers(kind):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )
    ours = schedule(kind)

    noised = add_noise(LATENTS, NOISE, TIMESTEPS, ours)
    torch.testing.assert_close(noised, theirs.add_noise(LATENTS, NOISE, TIMESTEPS))
    target = target_of(LATENTS, NOISE, TIMESTEPS, ours)
    expected = NOISE if kind == "epsilon" else theirs.get_velocity(LATENTS, NOISE, TIMESTEPS)
    torch.testing.assert_close(target, expected)


def test_a_flow_goes_straight_from_latents_to_noise():
    flow = schedule("flow")
    timesteps = torch.tensor([0.0, 250.0, 1000.0])

    noised = add_noise(LATENTS, NOISE, timesteps, flow)

    torch.testing.assert_close(noised[0], LATENTS[0])
    torch.testing.assert_close(noised[1], 0.75 * LATENTS[1] + 0.25 * NOISE[1])
    torch.testing.assert_close(noised[2], NOISE[2])
    torch.testing.assert_close(target_of(LATENTS, NOISE, timesteps, flow), NOISE - LATENTS)


def test_a_flow_is_learnt_where_the_scheduler_of_its_name_samples_it():
    from diffusers import FlowMatchEulerDiscreteScheduler

    flow, theirs = schedule("flow"), FlowMatchEulerDiscreteScheduler()
    timesteps = theirs.timesteps[[100, 500, 900]]

    expected = theirs.scale_noise(LATENTS, timesteps, NOISE)

    torch.testing.assert_close(add_noise(LATENTS, NOISE, timesteps, flow), expected)


def test_min_snr_weights_are_those_of_the_paper():
    snr = torch.tensor([0.01, 5.0, 100.0])

    epsilon = min_snr_weights(snr, gamma=5.0, prediction_type="epsilon")
    v = min_snr_weights(snr, gamma=5.0, prediction_type="v_prediction")

    torch.testing.assert_close(epsilon, torch.tensor([1.0, 1.0, 0.05]))
    torch.testing.assert_close(v, torch.tensor([0.01 / 1.01, 5 / 6, 5 / 101]))


def test_min_snr_weights_are_finite_under_zero_terminal_snr():
    zero = schedule("v_prediction", rescale_betas_zero_snr=True)
    assert signal_to_noise(torch.tensor([999]), zero).item() == 0

    weights = loss_weights(torch.arange(1000), zero, min_snr_gamma=5.0)
    as_epsilon = min_snr_weights(torch.tensor([0.0]), gamma=5.0, prediction_type="epsilon")

    assert torch.isfinite(weights).all()
    assert as_epsilon.item() == 1


def test_without_min_snr_every_sample_weighs_one():
    assert loss_weights(TIMESTEPS, schedule("epsilon"), min_snr_gamma=None).tolist() == [1, 1, 1]


def test_uniform_draws_reach_every_timestep_and_no_other():
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-24])

    found = draw_timesteps(uniforms, schedule("epsilon"), sampling="uniform")

    assert found.tolist() == [0, 500, 999]


def test_logit_normal_draws_prefer_the_middle():
    uniforms = torch.linspace(0.001, 0.999, 999)

    found = draw_timesteps(uniforms, schedule("flow"), sampling="logit_normal")

    inside = ((found > 250) & (found < 750)).float().mean()
    assert found.min() > 0
    assert found.max() < 1000
    assert inside.item() == pytest.approx(0.728, abs=0.01)  # P(|N(0, 1)| < ln 3)


def test_a_loss_is_the_weighted_mean_over_a_sample():
    prediction, target = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)

    assert losses_of(prediction, target, torch.tensor([1.0, 0.5])).tolist() == [9.0, 4.5]
