"""The samplers' steps are the published ones, and unfit combinations are refused."""

from typing import Any

import pytest

from sd_core.model.noise_schedule import NoiseSchedule, NoiseScheduleConfig, build_noise_schedule
from sd_core.sampling.samplers import SAMPLERS, build_sampler, samplers_of


def schedule(**options: Any) -> NoiseSchedule:
    return build_noise_schedule(NoiseScheduleConfig(**options))


ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def steps(name: Any, count: int, **options: Any) -> list[float]:
    sampler = build_sampler(name, schedule(**options))
    sampler.set_timesteps(count)
    return [float(timestep) for timestep in sampler.timesteps]


def test_ddim_leads_with_an_offset_of_one() -> None:
    assert steps("ddim", 20)[:2] == [951, 901]
    assert steps("ddim", 20)[-1] == 1


def test_pndm_calls_the_denoiser_once_more_than_asked() -> None:
    assert len(steps("pndm", 50)) == 51


def test_zero_terminal_snr_starts_at_the_last_timestep() -> None:
    for name in samplers_of(schedule(**ZERO_SNR)):
        assert steps(name, 10, **ZERO_SNR)[0] == 999, name


def test_pndm_is_refused_where_the_signal_is_zero() -> None:
    with pytest.raises(ValueError, match=r"'pndm' cannot start where the signal is zero.*ddim"):
        build_sampler("pndm", schedule(**ZERO_SNR))


def test_a_flow_goes_with_its_own_sampler_only() -> None:
    flow = schedule(prediction_type="flow")
    assert samplers_of(flow) == ("flow_euler",)
    assert steps("flow_euler", 4, prediction_type="flow")[0] == 1000
    with pytest.raises(ValueError, match="'ddim' does not go with prediction_type 'flow'"):
        build_sampler("ddim", flow)
    with pytest.raises(ValueError, match="'flow_euler' does not go with prediction_type"):
        build_sampler("flow_euler", schedule())


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    unknown: Any = "dpm_fast"
    with pytest.raises(ValueError, match=f"'dpm_fast'; allowed are {', '.join(SAMPLERS)}"):
        build_sampler(unknown, schedule())


def test_karras_spacing_differs_from_the_plain_one() -> None:
    assert steps("dpmpp_2m_karras", 8) != steps("dpmpp_2m", 8)
