"""Numbers of steps are judged by the samplers themselves, whatever their order and spacing."""

from typing import Any

import pytest

from sd_core.model.noise_schedule import NoiseScheduleConfig, build_noise_schedule
from sd_core.sampling.samplers import SamplerName, samplers_of
from sd_core.sampling.steps_limit import StepsLimit

ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def limit(**options: Any) -> StepsLimit:
    return StepsLimit(noise_schedule=build_noise_schedule(NoiseScheduleConfig(**options)))


@pytest.mark.parametrize("options", [{}, ZERO_SNR, {"prediction_type": "flow"}])
def test_every_sampler_takes_the_usual_numbers_of_steps(options: dict[str, Any]) -> None:
    steps = limit(**options)
    for sampler in samplers_of(steps.noise_schedule):
        for count in (1, 2, 20):
            assert steps.fault(sampler, count) is None, (sampler, count)
            assert steps.fault(sampler, count, strength=0.5, is_masked=True) is None


@pytest.mark.parametrize(
    ("sampler", "count", "most", "why"),
    [
        ("lcm", 51, "up to 50", "diffusers: "),
        ("ddim", 100, "up to 99", "it would ask for timestep 100"),
        ("ddim", 101, "up to 99", "diffusers: "),
        ("pndm", 101, "up to 99", "all of its steps would be at timestep 1"),
        ("euler", 100, "up to 99", "it would ask for timestep 100"),
        ("dpmpp_2m", 99, "up to 98", "it would ask for timestep 100"),
        ("unipc", 5000, "up to 98", "all of its steps would be at timestep 1"),
    ],
)
def test_what_a_sampler_cannot_take_is_told_with_what_it_can(
    sampler: SamplerName, count: int, most: str, why: str
) -> None:
    steps = limit(num_train_timesteps=100)
    fault = steps.fault(sampler, count)
    assert fault is not None
    assert fault.startswith(f"found {count}; sampler {sampler} on this model's schedule of 100 ")
    assert f"takes {most} ({why}" in fault


def test_a_timestep_before_the_first_is_found_in_the_trailing_form() -> None:
    steps = limit(**ZERO_SNR)
    fault = steps.fault("ddim", 998)
    assert fault is not None
    assert "it would ask for timestep -1" in fault
    assert steps.fault("ddim", 999) is None


def test_a_strength_takes_the_last_steps_alone() -> None:
    steps = limit()
    assert steps.fault("ddim", 1000, strength=1.0) is not None
    assert steps.fault("ddim", 1000, strength=0.5) is None
    assert steps.fault("lcm", 60, strength=0.1) is not None
