"""Sampling on a pretend GPU: no sampler mixes devices, or waits for the GPU between its steps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd_core.model.conditioning import Conditioning
from sd_core.model.noise_schedule import NoiseScheduleConfig, build_noise_schedule
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import SAMPLERS
from sd_core.sampling.source import SourceLatents
from sd_core.sampling.text_to_image import generate_latents
from tests.pretend_gpu import pretend_gpu

ROWS, SHAPE = 2, (4, 8, 8)


class UNet2DConditionModel(nn.Module):
    """One layer, called as a UNet of diffusers is."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"in_channels": 4}
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, sample: Tensor, *, timestep: Tensor, **given: Any) -> tuple[Tensor]:
        return (
            self.layer(sample) + given["encoder_hidden_states"].mean() + timestep.float().mean(),
        )


class _Model:
    """As much of a `LatentDiffusion` as sampling looks at."""

    def __init__(self, prediction_type: Any) -> None:
        self.denoiser = UNet2DConditionModel().to("cuda")
        self.noise_schedule = build_noise_schedule(
            NoiseScheduleConfig(prediction_type=prediction_type)
        )


@pytest.mark.parametrize("start", ["noise", "source", "mask"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_waits_for_the_gpu(sampler: str, start: str) -> None:
    generators = row_generators(range(ROWS))
    text = Conditioning(prompt_embeds=torch.ones(ROWS, 3, 5))
    source = SourceLatents(
        latents=torch.ones(ROWS, *SHAPE),
        strength=0.6,
        mask=torch.ones(ROWS, 1, *SHAPE[1:]) if start == "mask" else None,
    )
    with pretend_gpu() as gpu:
        model: Any = _Model("flow" if SAMPLERS[sampler].of_flow else "epsilon")
        with gpu.watch() as seen:
            latents = generate_latents(
                model,
                conditioning=text,
                unconditional=text,
                noise=initial_noise(generators, shape=SHAPE),
                sampler=sampler,
                num_inference_steps=6,
                guidance_scale=torch.full((ROWS,), 3.0),
                guidance_rescale=0.5,
                generators=generators,
                source=None if start == "noise" else source,
            )
        assert latents.device.type == "cuda"
        assert latents.dtype == torch.float32
    assert not seen.waits, seen
