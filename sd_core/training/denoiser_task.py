"""Train the denoiser on cached latents: Rombach et al. 2022, arXiv:2112.10752, eq. 3."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import LatentDiffusion
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
        schedule = self._model.noise_schedule
        timesteps = draw_timesteps(
            batch.uniforms, schedule, sampling=self._objective.timestep_sampling
        )
        noised = add_noise(batch.latents, batch.noise, timesteps, schedule)
        prediction = predict(modules[part], noised, timesteps, self._conditioning(batch))
        target = target_of(batch.latents, batch.noise, timesteps, schedule)
        weights = loss_weights(timesteps, schedule, min_snr_gamma=self._objective.min_snr_gamma)
        return Losses(losses=losses_of(prediction, target, weights))

    def _conditioning(self, batch: TrainingBatch) -> Conditioning:
        embeds = batch.prompt_embeds
        if embeds is None:
            embeds = self._encode(batch.input_ids)
        return Conditioning(
            prompt_embeds=embeds.to(batch.latents.device),
            pooled_prompt_embeds=None,
            time_ids=None,
        )

    def _encode(self, input_ids: Tensor) -> Tensor:
        from sd_core.model.text_encoder import encode_token_ids

        encoded: Any = encode_token_ids(self._model.text_encoder, input_ids)
        embeds: Tensor = encoded.prompt_embeds
        return embeds.clone()  # out of inference mode
