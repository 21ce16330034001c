"""A second model for the last of the noise, as Stable Diffusion XL's refiner is.

Source: Podell et al. 2023, section 2.5, arXiv:2307.01952.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.steps.generate.batches import BatchSettings
from pipelines.steps.generate.config import GenerateConfig, RefinerConfig
from pipelines.steps.generate.painted import PreparedBatch
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.text_cache import EncodedText, TextCache, stack_texts
from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.memory import to_device
from sd_core.model.text_conditioning import size_time_ids, without_text
from sd_core.sampling.stage import Stage
from sd_core.sampling.text_to_image import generate_latents
from sd_core.say import Say


def open_refiner(
    model: LatentDiffusion | None, config: GenerateConfig, *, say: Say
) -> "Refiner | None":
    """None where the model finishes its images itself."""
    if model is None or config.refiner is None:
        return None
    texts = TextCache(model, batch_size=config.rows_at_once, say=say)
    return Refiner(model, config.refiner, texts=texts)


class Refiner:
    """Takes latents where the first model leaves them.

    Args:
        model: Its own text encoder reads the prompts; its autoencoder is not used.
        texts: Of that model.
    """

    def __init__(self, model: LatentDiffusion, config: RefinerConfig, *, texts: TextCache) -> None:
        self._model = model
        self._config = config
        self._texts = texts
        self.first_stage = Stage(end=config.switch_at)

    def prepare(self, rows: Sequence[ImageRow]) -> dict[str, Any]:
        """The rows' texts, as fields of a `PreparedBatch`."""
        encoded = self._texts.encode(
            [row.prompt for row in rows] + [row.negative_prompt for row in rows]
        )
        return {"refined": encoded[: len(rows)], "refined_negatives": encoded[len(rows) :]}

    def finish(
        self,
        latents: Tensor,
        batch: PreparedBatch,
        picks: Sequence[int],
        *,
        generators: Sequence[torch.Generator],
        guidance_rescale: float,
    ) -> Tensor:
        """The picked rows' latents (B, C, h, w) without the noise that the first model left."""
        assert batch.refined is not None
        assert batch.refined_negatives is not None
        config, settings = self._config, batch.settings
        rows = [batch.rows[at] for at in picks]
        conditioning = self._text(batch.refined, picks, settings, config.aesthetic_score)
        unconditional = self._text(
            batch.refined_negatives, picks, settings, config.negative_aesthetic_score
        )
        if self._model.zeros_for_empty_prompt:
            is_empty = torch.tensor([not row.negative_prompt for row in rows])
            unconditional = without_text(unconditional, to_device(is_empty, latents.device))
        return generate_latents(
            self._model,
            conditioning=conditioning,
            unconditional=unconditional,
            noise=latents,
            sampler=settings.sampler,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=torch.tensor([row.guidance_scale for row in rows]),
            guidance_rescale=guidance_rescale,
            generators=generators,
            stage=Stage(begin=config.switch_at),
        )

    def _text(
        self,
        texts: Sequence[EncodedText],
        picks: Sequence[int],
        settings: BatchSettings,
        score: float,
    ) -> Conditioning:
        sizes = size_time_ids(
            len(picks),
            height_px=settings.height,
            width_px=settings.width,
            aesthetic_score=score if self._model.num_time_ids == 5 else None,
        )
        device = texts[0].prompt_embeds.device
        return stack_texts([texts[at] for at in picks], time_ids=to_device(sizes, device))
