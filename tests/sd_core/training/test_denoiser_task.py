"""What a denoiser with several text encoders learns is what a plain loop of diffusers teaches."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd_core.cache.samples import LatentSample
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.text_conditioning import encode_conditioning
from sd_core.model.text_encoder import tokenize_captions
from sd_core.training.batches import TrainingBatch
from sd_core.training.config import OptimizerConfig
from sd_core.training.denoiser_task import DENOISER, DenoiserTask
from sd_core.training.flops import count_flops, forward_once
from sd_core.training.objectives import ObjectiveConfig
from tests import diffusion_cases
from tests.sd_core.training.cases import collated, drawn, held_cache

CAPTIONS = ["a red circle", "", "two green stars"]


def load(folder: Path) -> LatentDiffusion:
    return load_latent_diffusion(LatentDiffusionConfig(model=str(folder)), device="cpu")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients_of_ours(
    model: LatentDiffusion, batch: TrainingBatch, objective: ObjectiveConfig
) -> dict[str, Tensor]:
    task = DenoiserTask(model, objective=objective, optimizer=OptimizerConfig(), ema_decay=None)
    losses = task.losses(DENOISER, {DENOISER: model.denoiser}, batch, step=0).losses
    losses.mean().backward()
    return taken(model.denoiser)


def taken(module: nn.Module) -> dict[str, Tensor]:
    found = {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
    module.zero_grad()
    assert len(found) > 20
    return found


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    whole = torch.cat([theirs[name].flatten() for name in theirs])
    apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs])
    assert whole.norm() > 0
    assert apart.norm() / whole.norm() <= 1e-5


@pytest.mark.parametrize("weighting", ["none", "cosmap"])
def test_stable_diffusion_3_learns_a_rectified_flow(tmp_path: Path, weighting: Any) -> None:
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    model = load(diffusion_cases.diffusers_sd3_folder(tmp_path / "sd3"))
    theirs: Any = copy.deepcopy(model.denoiser)
    text = encode_conditioning(model, CAPTIONS)
    latents, noise = draw(3, 16, 16, 16, seed=1), draw(3, 16, 16, 16, seed=2)
    normal = torch.tensor([-1.2, 0.1, 0.9], dtype=torch.float64)
    batch = TrainingBatch(
        keys=("a", "b", "c"),
        latents=latents,
        noise=noise,
        uniforms=torch.special.ndtr(normal).float(),
        input_ids=torch.zeros(3, 12, dtype=torch.long),
        prompt_embeds=text.prompt_embeds,
        pooled_prompt_embeds=text.pooled_prompt_embeds,
    )
    objective = ObjectiveConfig(
        timestep_sampling="logit_normal", shift_timesteps=True, flow_weighting=weighting
    )
    ours = gradients_of_ours(model, batch, objective)

    sigmas = torch.sigmoid(normal)
    sigmas = (3.0 * sigmas / (1 + 2.0 * sigmas)).float().reshape(-1, 1, 1, 1)  # the folder's shift
    prediction = theirs(
        hidden_states=(1.0 - sigmas) * latents + sigmas * noise,
        timestep=sigmas.flatten() * 1000,
        encoder_hidden_states=text.prompt_embeds,
        pooled_projections=text.pooled_prompt_embeds,
        return_dict=False,
    )[0]
    weights = compute_loss_weighting_for_sd3(weighting, sigmas)
    squares = weights * (prediction - (noise - latents)) ** 2
    squares.reshape(3, -1).mean(1).mean().backward()
    assert_equal(ours, taken(theirs))


def test_xl_learns_from_a_caches_ids_and_columns(tmp_path: Path) -> None:
    """The second encoder's ids, pooled text, sizes and crop, and zeros for an empty caption."""
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline

    folder = diffusion_cases.diffusers_xl_folder(tmp_path / "xl")
    model = load(folder)
    theirs: Any = copy.deepcopy(model.denoiser)
    size, long, wide = (640, 512), (1000, 500), {"width": 700, "height": 400}
    columns = [
        {"original_height": size[0], "original_width": size[1]},
        {"original_height": long[0], "original_width": long[1]},
        wide,
    ]
    ids = tokenize_captions(model.text_encoder, CAPTIONS).numpy()
    latents = draw(3, 4, 16, 16, seed=1)
    samples = [
        LatentSample(
            key=f"{place:016x}",
            raw_latents=latents[place].numpy(),
            input_ids=ids[place],
            prompt_embeds=None,
            caption=CAPTIONS[place],
            attributes=columns[place],
        )
        for place in range(3)
    ]
    cache = held_cache(model, form="mean", dtype="float32", resolution_px=32, prompt_embeds=False)
    objective = ObjectiveConfig(caption_dropout=0.0)
    batch = collated(drawn(samples), [cache], seed=0, objective=objective)
    ours = gradients_of_ours(model, batch, objective)

    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    embeds, zeros, pooled, pooled_zeros = pipeline.encode_prompt(CAPTIONS, device="cpu")
    embeds[1], pooled[1] = zeros[1], pooled_zeros[1]  # the index says force_zeros_for_empty_prompt
    time_ids = [(640, 512, 4, 0, 32, 32), (1000, 500, 16, 0, 32, 32), (400, 700, 0, 12, 32, 32)]
    scheduler: Any = DDPMScheduler.from_pretrained(folder / "scheduler")
    timesteps = (batch.uniforms.double() * 1000).long()
    prediction = theirs(
        scheduler.add_noise(latents * 0.18215, batch.noise, timesteps),
        timesteps,
        encoder_hidden_states=embeds,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor(time_ids).float()},
        return_dict=False,
    )[0]
    torch.nn.functional.mse_loss(prediction, batch.noise).backward()
    assert_equal(ours, taken(theirs))
    assert count_flops(lambda: forward_once(model)) > 0
