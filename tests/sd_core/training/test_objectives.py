"""The objectives against their formulas."""

import pytest
import torch

from sd_core.model.noise_schedule import NoiseScheduleConfig, build_noise_schedule
from sd_core.training.objectives import (
    ObjectiveConfig,
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

    weights = loss_weights(torch.arange(1000), zero, ObjectiveConfig(min_snr_gamma=5.0))
    as_epsilon = min_snr_weights(torch.tensor([0.0]), gamma=5.0, prediction_type="epsilon")

    assert torch.isfinite(weights).all()
    assert as_epsilon.item() == 1


def test_without_min_snr_every_sample_weighs_one():
    assert loss_weights(TIMESTEPS, schedule("epsilon"), ObjectiveConfig()).tolist() == [1, 1, 1]


def test_uniform_draws_reach_every_timestep_and_no_other():
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-24])

    found = draw_timesteps(uniforms, schedule("epsilon"), ObjectiveConfig())

    assert found.tolist() == [0, 500, 999]


def test_logit_normal_draws_prefer_the_middle():
    uniforms = torch.linspace(0.001, 0.999, 999)

    found = draw_timesteps(
        uniforms, schedule("flow"), ObjectiveConfig(timestep_sampling="logit_normal")
    )

    inside = ((found > 250) & (found < 750)).float().mean()
    assert found.min() > 0
    assert found.max() < 1000
    assert inside.item() == pytest.approx(0.728, abs=0.01)  # P(|N(0, 1)| < ln 3)


def flow_sigmas(**options):
    uniforms = (torch.arange(100_000) + 0.5) / 100_000
    objective = ObjectiveConfig.model_validate(options)
    return draw_timesteps(uniforms, schedule("flow", flow_shift=3.0), objective).double() / 1000


def normal_share(sigma, *, mean, std):
    """P(sigmoid(mean + std N) < sigma)."""
    return torch.special.ndtr(((sigma / (1 - sigma)).log() - mean) / std)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, lambda t: t),
        (
            {"timestep_sampling": "logit_normal", "logit_mean": 0.5, "logit_std": 0.6},
            lambda t: normal_share(t, mean=0.5, std=0.6),
        ),
        # The integral of 2 / (pi - 2 pi t + 2 pi t^2), eq. 21.
        ({"timestep_sampling": "cosmap"}, lambda t: torch.atan(t / (1 - t)) * 2 / torch.pi),
        ({"shift_timesteps": True}, lambda t: t / (3 - 2 * t)),
    ],
)
def test_a_flows_timesteps_are_as_dense_as_the_paper_says(options, share):
    found = flow_sigmas(**options)

    for sigma in (0.1, 0.3, 0.5, 0.8):
        expected = share(torch.tensor(sigma, dtype=torch.float64))
        assert (found < sigma).double().mean().item() == pytest.approx(expected.item(), abs=1e-4)


def test_mode_timesteps_are_diffusers_own():
    from diffusers.training_utils import compute_density_for_timestep_sampling as theirs

    uniforms = torch.rand(64, generator=torch.Generator().manual_seed(3))
    expected = theirs("mode", 64, mode_scale=0.81, generator=torch.Generator().manual_seed(3))
    objective = ObjectiveConfig(timestep_sampling="mode", mode_scale=0.81)

    found = draw_timesteps(uniforms, schedule("flow"), objective) / 1000

    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["none", "sigma_sqrt", "cosmap"])
def test_a_flows_weights_are_diffusers_own(kind):
    from diffusers.training_utils import compute_loss_weighting_for_sd3 as theirs

    sigmas = torch.tensor([0.01, 0.5, 1.0])

    found = loss_weights(sigmas * 1000, schedule("flow"), ObjectiveConfig(flow_weighting=kind))

    torch.testing.assert_close(found, theirs(kind, sigmas))


def test_what_is_of_a_flow_is_named_beside_another_model():
    objective = ObjectiveConfig(shift_timesteps=True)
    assert objective.fault("flow") is None
    assert ObjectiveConfig(timestep_sampling="logit_normal").fault("epsilon") is None  # as before
    assert objective.fault("epsilon") == (
        "shift_timesteps is True, which is of a flow; the model predicts epsilon"
    )


def test_options_that_are_new_are_in_no_earlier_trainings_identity():
    before = {"min_snr_gamma", "offset_noise", "caption_dropout", "timestep_sampling"}
    assert ObjectiveConfig().identity().keys() == before
    assert ObjectiveConfig(logit_mean=1.0).identity().keys() == {*before, "logit_mean"}


def test_a_loss_is_the_weighted_mean_over_a_sample():
    prediction, target = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)

    assert losses_of(prediction, target, torch.tensor([1.0, 0.5])).tolist() == [9.0, 4.5]
