"""From rows to pixels: text and noise prepared, denoised, decoded; a batch that is too large for
the memory is halved, and stays so."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from pipelines.rows.failures import is_out_of_memory
from pipelines.steps.generate.batches import BatchSettings, RowBatch
from pipelines.steps.generate.config import GenerateConfig
from pipelines.steps.generate.image_conditions import (
    AddImages,
    add_masked_images,
    add_pictures,
    inpainting_source,
)
from pipelines.steps.generate.init_images import InitImage, InitImages
from pipelines.steps.generate.models import GenerateModels
from pipelines.steps.generate.painted import DenoisedBatch, PaintedBatch, PreparedBatch
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.source_pictures import SourcePictures
from pipelines.steps.generate.text_cache import TextCache, stack_texts
from sd_core.cache.latents import unscale_latents
from sd_core.model.text_conditioning import size_time_ids, without_text
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.source import SourceLatents, compose_inpainted
from sd_core.sampling.text_to_image import as_levels, decode_images, decode_scaled, generate_latents

Arguments = ParamSpec("Arguments")
ResultT = TypeVar("ResultT")


class Painter:
    """Three parts for three threads, so that each works on another batch."""

    def __init__(
        self,
        models: GenerateModels,
        config: GenerateConfig,
        sources: InitImages | SourcePictures | None = None,
    ) -> None:
        self._models = models
        self._sources = sources
        self._config = config
        self._texts = TextCache(models.model, batch_size=config.batch_size)
        self._batch_size: dict[tuple[int, int], int] = {}
        """By the size of the images, where the configured one was too much."""
        self._decode_size: dict[tuple[int, int], int] = {}
        on_gpu = models.device.type == "cuda"
        cuda: Any = torch.cuda  # its streams and events carry no types
        self._decode_stream = cuda.Stream(models.device) if on_gpu else None

    def prepare(self, batch: RowBatch) -> PreparedBatch:
        """Encode the batch's texts."""
        texts = [row.prompt for row in batch.rows] + [row.negative_prompt for row in batch.rows]
        encoded = self._texts.encode(texts)
        count = len(batch.rows)
        return PreparedBatch(
            settings=batch.settings,
            rows=batch.rows,
            prompts=encoded[:count],
            negatives=encoded[count:],
            **self._open_sources(batch.rows),
        )

    def _open_sources(self, rows: Sequence[ImageRow]) -> dict[str, Any]:
        if rows[0].init_key is None or self._sources is None:
            return {}
        if isinstance(self._sources, SourcePictures):
            return {"pictures": [self._sources.read(str(row.init_key)) for row in rows]}
        return {"sources": [self._sources.read(row) for row in rows]}

    @torch.inference_mode()
    def denoise(self, batch: PreparedBatch) -> DenoisedBatch:
        """Denoise as many rows at a time as the memory holds, filled up to that number."""
        size = (batch.settings.width, batch.settings.height)
        parts: list[Tensor] = []
        batch_sizes: list[int] = []
        while len(batch_sizes) < len(batch.rows):
            start = len(batch_sizes)
            allowed = self._batch_size.get(size, self._config.batch_size)
            picks = list(range(start, min(start + allowed, len(batch.rows))))
            latents = _or_none_if_too_large(allowed, self._denoise, batch, picks, allowed)
            if latents is None:
                self._batch_size[size] = allowed // 2
                continue
            parts.append(latents[: len(picks)])
            batch_sizes += [allowed] * len(picks)
        return DenoisedBatch(
            batch=batch,
            latents=torch.cat(parts),
            batch_sizes=batch_sizes,
            ready=self._mark(),
        )

    def _denoise(self, batch: PreparedBatch, picks: Sequence[int], batch_size: int) -> Tensor:
        settings = batch.settings
        filled = [*picks, *[picks[-1]] * (batch_size - len(picks))]
        rows = [batch.rows[at] for at in filled]
        time_ids = size_time_ids(batch_size, height_px=settings.height, width_px=settings.width).to(
            self._models.device
        )
        generators = row_generators([row.noise_seed for row in rows])
        model = self._models.model
        source = None if batch.sources is None else stack_sources(batch.sources, filled)
        add_images = self._image_conditions(batch, filled, generators)
        prompts = stack_texts([batch.prompts[at] for at in filled], time_ids=time_ids)
        negatives = stack_texts([batch.negatives[at] for at in filled], time_ids=time_ids)
        if model.zeros_for_empty_prompt:
            is_empty = torch.tensor([not row.negative_prompt for row in rows])
            negatives = without_text(negatives, is_empty.to(self._models.device))
        if model.task == "inpainting" and source is not None:
            source = inpainting_source(source)
        return generate_latents(
            model,
            conditioning=add_images(prompts),
            unconditional=add_images(negatives),
            noise=initial_noise(generators, shape=self._latents_shape(settings)),
            sampler=settings.sampler,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=torch.tensor([row.guidance_scale for row in rows]),
            guidance_rescale=self._config.guidance_rescale,
            generators=generators,
            source=source,
        )

    def _image_conditions(
        self, batch: PreparedBatch, picks: Sequence[int], generators: Sequence[torch.Generator]
    ) -> AddImages:
        model = self._models.model
        if batch.pictures is not None:
            return add_pictures(
                model,
                [batch.pictures[at] for at in picks],
                generators,
                noise_level=self._config.noise_level,
            )
        if model.task == "inpainting" and batch.sources is not None:
            sources = [batch.sources[at] for at in picks]
            return add_masked_images(model, sources, device=self._models.device)
        return lambda conditioning: conditioning

    def _decode_sources(self, sources: Sequence[InitImage]) -> Tensor:
        latents = torch.stack([source.latents for source in sources]).to(self._models.device)
        parts = [decode_images(self._models.model, one[None]) for one in latents]
        return torch.cat(parts)

    def _latents_shape(self, settings: BatchSettings) -> tuple[int, int, int]:
        autoencoder = self._models.model.autoencoder
        factor = autoencoder.downsampling
        return autoencoder.latent_channels, settings.height // factor, settings.width // factor

    def _mark(self) -> Any:
        """A point in the GPU's work that decoding waits for; None on a CPU."""
        if self._decode_stream is None:
            return None
        cuda: Any = torch.cuda
        event = cuda.Event()
        event.record()
        return event

    @torch.inference_mode()
    def decode(self, denoised: DenoisedBatch) -> PaintedBatch:
        """Decode a batch, on a GPU beside the next one's denoising."""
        if self._decode_stream is None or denoised.ready is None:
            return self._decode(denoised)
        with torch.cuda.stream(self._decode_stream):
            self._decode_stream.wait_event(denoised.ready)
            denoised.latents.record_stream(self._decode_stream)
            return self._decode(denoised)

    def _decode(self, denoised: DenoisedBatch) -> PaintedBatch:
        model, settings = self._models.model, denoised.batch.settings
        raw = unscale_latents(denoised.latents, model.identity.autoencoder)
        size = (settings.width, settings.height)
        parts: list[Tensor] = []
        is_finite: list[bool] = []
        while len(is_finite) < len(raw):
            allowed = self._decode_size.get(size, len(raw))
            part = denoised.latents[len(is_finite) : len(is_finite) + allowed]
            decoded = _or_none_if_too_large(allowed, decode_scaled, model, part)
            if decoded is None:
                self._decode_size[size] = max(1, allowed // 2)
                continue
            # An autoencoder in half precision may come to NaN where the latents are fine.
            is_finite += torch.isfinite(decoded).flatten(1).all(dim=1).cpu().tolist()
            parts.append(as_levels(decoded))
        images = torch.cat(parts)
        if settings.is_masked and denoised.batch.sources is not None:
            kept = self._decode_sources(denoised.batch.sources)
            images = compose_inpainted(images, kept, pixel_masks(denoised.batch.sources))
        return PaintedBatch(
            batch=denoised.batch,
            images=images,
            raw_latents=raw.float().cpu(),
            is_finite=is_finite,
            batch_sizes=denoised.batch_sizes,
        )


def stack_sources(sources: Sequence[InitImage], picks: Sequence[int]) -> SourceLatents:
    """The chosen rows' sources as one batch; a batch's strengths are all one."""
    masks = [sources[at].latents_mask for at in picks]
    return SourceLatents(
        latents=torch.stack([sources[at].latents for at in picks]),
        strength=sources[0].strength,
        mask=None
        if masks[0] is None
        else torch.stack([mask for mask in masks if mask is not None]),
    )


def pixel_masks(sources: Sequence[InitImage]) -> Tensor:
    """(B, H, W, 1) bool; true where a row is painted anew."""
    return torch.stack([source.mask for source in sources if source.mask is not None])


def _or_none_if_too_large(
    batch_size: int,
    work: Callable[Arguments, ResultT],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> ResultT | None:
    """The work's result, or None where the memory did not hold it and a smaller batch may."""
    try:
        return work(*arguments, **options)
    except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if batch_size <= 1 or not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # after the frames that held the batch are gone
    return None
