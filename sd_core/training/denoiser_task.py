"""Train the denoiser on cached latents: Rombach et al. 2022, arXiv:2112.10752, eq. 3."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.noise_schedule import NoiseSchedule
from sd_core.model.text_conditioning import (
    encode_conditioning_of_ids,
    without_text,
    zero_conditioning,
)
from sd_core.model.text_encoder import tokenize_captions
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
        self._empty_ids: Tensor | None = None
        self._pools_text = zero_conditioning(model).pooled_prompt_embeds is not None
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
        timesteps = draw_timesteps(batch.uniforms, schedule, self._objective)
        noised = add_noise(batch.latents, batch.noise, timesteps, schedule)
        prediction = predict(modules[part], noised, timesteps, self._conditioning(batch))
        target = target_of(batch.latents, batch.noise, timesteps, schedule)
        weights = loss_weights(timesteps, schedule, self._objective)
        return Losses(losses=losses_of(prediction, target, weights))

    def _schedule_on(self, device: torch.device) -> NoiseSchedule:
        """Copied at the first step alone."""
        if self._schedule.alphas_cumprod.device != device:
            alphas = self._schedule.alphas_cumprod.to(device)
            self._schedule = replace(self._schedule, alphas_cumprod=alphas)
        return self._schedule

    def _conditioning(self, batch: TrainingBatch) -> Conditioning:
        """The cache's embeddings, or those of its token ids; pooled text is not in a cache,
        so that a model that goes by it encodes the ids."""
        pooled = batch.pooled_prompt_embeds
        if batch.prompt_embeds is not None and (pooled is not None or not self._pools_text):
            return Conditioning(
                prompt_embeds=batch.prompt_embeds,
                pooled_prompt_embeds=pooled,
                time_ids=batch.time_ids,
            )
        encoded = encode_conditioning_of_ids(
            self._model, batch.input_ids, time_ids=batch.time_ids
        ).to(batch.latents.device)
        if not self._model.zeros_for_empty_prompt:
            return encoded
        if self._empty_ids is None:
            ids = tokenize_captions(self._model.text_encoder, [""])
            self._empty_ids = ids.to(batch.input_ids.device)
        return without_text(encoded, (batch.input_ids == self._empty_ids).all(dim=1))
