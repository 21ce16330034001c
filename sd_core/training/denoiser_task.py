"""Train the denoiser on cached latents: Rombach et al. 2022, arXiv:2112.10752, eq. 3."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.noise_schedule import NoiseSchedule
from sd_core.model.text_conditioning import encode_conditioning_of_ids
from sd_core.training.batches import TrainingBatch
from sd_core.training.config import OptimizerConfig
from sd_core.training.objectives import (
    ObjectiveConfig,
    add_noise,
    draw_timesteps,
    loss_weights,
    losses_of,
    target_of,
)
from sd_core.training.task import Losses, TrainedPart

DENOISER = "denoiser"


class DenoiserTask:
    """The objective's loss of a model's denoiser; everything else of the model is frozen."""

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        objective: ObjectiveConfig,
        optimizer: OptimizerConfig,
        ema_decay: float | None,
    ) -> None:
        self._model = model
        self._schedule = model.noise_schedule
        self._objective = objective
        self._part = TrainedPart(
            name=DENOISER, module=model.denoiser, optimizer=optimizer, ema_decay=ema_decay
        )

    @property
    def parts(self) -> Sequence[TrainedPart]:
        """The denoiser alone."""
        return (self._part,)

    def losses(
        self, part: str, modules: Mapping[str, nn.Module], batch: TrainingBatch, *, step: int
    ) -> Losses:
        """Each sample's weighted loss."""
        schedule = self._schedule_on(batch.latents.device)
        timesteps = draw_timesteps(
            batch.uniforms, schedule, sampling=self._objective.timestep_sampling
        )
        noised = add_noise(batch.latents, batch.noise, timesteps, schedule)
        prediction = predict(modules[part], noised, timesteps, self._conditioning(batch))
        target = target_of(batch.latents, batch.noise, timesteps, schedule)
        weights = loss_weights(timesteps, schedule, min_snr_gamma=self._objective.min_snr_gamma)
        return Losses(losses=losses_of(prediction, target, weights))

    def _schedule_on(self, device: torch.device) -> NoiseSchedule:
        """Copied at the first step alone."""
        if self._schedule.alphas_cumprod.device != device:
            alphas = self._schedule.alphas_cumprod.to(device)
            self._schedule = replace(self._schedule, alphas_cumprod=alphas)
        return self._schedule

    def _conditioning(self, batch: TrainingBatch) -> Conditioning:
        """The cache's embeddings, or those of its token ids."""
        if batch.prompt_embeds is not None:
            return Conditioning(prompt_embeds=batch.prompt_embeds)
        return encode_conditioning_of_ids(self._model, batch.input_ids).to(batch.latents.device)
