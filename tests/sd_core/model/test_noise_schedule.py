"""Noise schedules: the published constants, diffusers' own values, its scheduler files."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from sd_core.model.noise_schedule import (
    NoiseScheduleConfig,
    build_noise_schedule,
    noise_schedule_of_scheduler,
    rescale_zero_terminal_snr,
    scheduler_of_noise_schedule,
)
from sd_core.model.weights import WeightsError


def test_stable_diffusions_constants() -> None:
    alphas_cumprod = build_noise_schedule(NoiseScheduleConfig()).alphas_cumprod
    assert (alphas_cumprod.shape, alphas_cumprod.dtype) == ((1000,), torch.float32)
    assert alphas_cumprod[0].item() == pytest.approx(0.99915, abs=5e-6)
    assert alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=5e-6)
    assert (alphas_cumprod.diff() < 0).all()


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [1000, 50])
def test_values_are_diffusers_to_the_bit(beta_schedule: Any, steps: int) -> None:
    from diffusers import DDIMScheduler

    config = NoiseScheduleConfig(beta_schedule=beta_schedule, num_train_timesteps=steps)
    theirs = DDIMScheduler.from_config(scheduler_of_noise_schedule(config)).alphas_cumprod
    assert torch.equal(build_noise_schedule(config).alphas_cumprod, theirs)


def test_zero_terminal_snr_ends_at_zero_and_starts_where_it_did() -> None:
    from diffusers import DDIMScheduler

    config = NoiseScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    rescaled = build_noise_schedule(config).alphas_cumprod
    plain = build_noise_schedule(NoiseScheduleConfig()).alphas_cumprod
    assert rescaled[-1] == 0
    torch.testing.assert_close(rescaled[0], plain[0], atol=1e-7, rtol=0)
    assert torch.equal(rescaled, rescale_zero_terminal_snr(plain))
    # Spaced like the plain roots, by a factor and a shift.
    ratio = rescaled.sqrt().diff() / plain.sqrt().diff()
    torch.testing.assert_close(ratio, ratio.mean().expand(999), atol=0, rtol=2e-3)
    theirs = DDIMScheduler.from_config(scheduler_of_noise_schedule(config))
    torch.testing.assert_close(rescaled, theirs.alphas_cumprod, atol=1e-5, rtol=0)
    assert theirs.config.timestep_spacing == "trailing"


@pytest.mark.parametrize("prediction_type", ["epsilon", "flow"])
def test_zero_terminal_snr_needs_v_prediction(prediction_type: str) -> None:
    with pytest.raises(ValidationError, match="use 'v_prediction'"):
        NoiseScheduleConfig.model_validate(
            {"prediction_type": prediction_type, "rescale_betas_zero_snr": True}
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
        {"beta_start": 0.0015, "beta_end": 0.0195},
    ],
)
def test_a_scheduler_file_says_the_same_back(options: dict[str, Any]) -> None:
    config = NoiseScheduleConfig.model_validate(options)
    scheduler = scheduler_of_noise_schedule(config)
    assert noise_schedule_of_scheduler(scheduler, where="scheduler") == config


def test_a_flow_is_a_flow_matching_scheduler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = NoiseScheduleConfig(prediction_type="flow", flow_shift=3.0)
    scheduler = scheduler_of_noise_schedule(config)
    assert FlowMatchEulerDiscreteScheduler.from_config(scheduler).config.shift == 3.0
    assert noise_schedule_of_scheduler(scheduler, where="scheduler") == config


def test_keys_that_a_file_lacks_have_its_classes_defaults() -> None:
    found = noise_schedule_of_scheduler({"_class_name": "PNDMScheduler"}, where="scheduler")
    assert (found.beta_start, found.beta_end, found.beta_schedule) == (0.0001, 0.02, "linear")


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({}, "s: no _class_name is no scheduler of diffusers"),
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKL is no scheduler"),
        ({"_class_name": "MineScheduler"}, "MineScheduler is no scheduler"),
        (
            {"_class_name": "DDIMScheduler", "trained_betas": [0.1]},
            r"trained_betas is \[0\.1\]; allowed: null",
        ),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule: Input"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "use_dynamic_shifting is True; allowed: False",
        ),
    ],
)
def test_what_is_not_supported_is_named(scheduler: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        noise_schedule_of_scheduler(scheduler, where="s")
