"""From rows to pixels: text and noise prepared, denoised, decoded; a batch that is too large for
the memory is halved, and stays so."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipelines.steps.generate.batches import BatchSettings, RowBatch, settings_of
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
from pipelines.steps.generate.refining import open_refiner
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.source_pictures import SourcePictures
from pipelines.steps.generate.text_cache import TextCache, stack_texts
from sd_core.batch_size import BatchSize, say_here
from sd_core.cache.latents import unscale_latents
from sd_core.model.memory import to_device
from sd_core.model.text_conditioning import size_time_ids, without_text
from sd_core.model.transfer import Transfers
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.source import SourceLatents, compose_inpainted
from sd_core.sampling.stage import WHOLE
from sd_core.sampling.text_to_image import decode_scaled, generate_latents, levels_of
from sd_core.say import Say


@dataclass(frozen=True)
class _Decoded:
    """Rows of a batch on the CPU: uint8 pixels, raw latents, whether all pixels are finite, and
    the pixels that inpainting starts from."""

    images: Tensor
    raw_latents: Tensor
    is_finite: Tensor
    kept: Tensor | None


class Painter:
    """Three parts for three threads, so that each works on another batch."""

    def __init__(
        self,
        models: GenerateModels,
        config: GenerateConfig,
        sources: InitImages | SourcePictures | None = None,
        *,
        say: Say = say_here,
    ) -> None:
        self._models = models
        self._sources = sources
        self._config = config
        self._texts = TextCache(models.model, batch_size=config.rows_at_once, say=say)
        self._refiner = open_refiner(models.refiner, config, say=say)
        self._say = say
        self._transfers = Transfers(models.device)
        self._sizes: dict[tuple[str, int, int], BatchSize] = {}
        on_gpu = models.device.type == "cuda"
        cuda: Any = torch.cuda  # its streams and events carry no types
        self._decode_stream = cuda.Stream(models.device) if on_gpu else None

    @property
    def smallest(self) -> int:
        """The smallest number of rows that the memory has held so far."""
        sizes = [self._texts.size, *(size.size for size in self._sizes.values())]
        return min(sizes)

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
            **({} if self._refiner is None else self._refiner.prepare(batch.rows)),
        )

    def _open_sources(self, rows: Sequence[ImageRow]) -> dict[str, Any]:
        if rows[0].init_key is None or self._sources is None:
            return {}
        if isinstance(self._sources, SourcePictures):
            return {"pictures": [self._sources.read(str(row.init_key)) for row in rows]}
        return {"sources": [self._sources.read(row) for row in rows]}

    def _size(self, work: str, settings: BatchSettings) -> BatchSize:
        """How many images of a size the memory holds for a part of the work."""
        width, height = settings.width, settings.height
        what = f"generate: {work} images of {width}x{height} px"
        fresh = BatchSize(self._config.rows_at_once, what=what, say=self._say)
        return self._sizes.setdefault((work, width, height), fresh)

    @torch.inference_mode()
    def denoise(self, batch: PreparedBatch) -> DenoisedBatch:
        """Denoise as many rows at a time as the memory holds, filled up to that number."""
        size = self._size("denoising", batch.settings)
        parts: list[Tensor] = []
        batch_sizes: list[int] = []
        while (start := len(batch_sizes)) < len(batch.rows):
            latents = size.run(partial(self._denoise, batch, start))
            made = min(size.size, len(batch.rows) - start)
            parts.append(latents[:made])
            batch_sizes += [size.size] * made
        return DenoisedBatch(
            batch=batch,
            latents=torch.cat(parts),
            batch_sizes=batch_sizes,
            ready=self._mark(),
        )

    def _denoise(self, batch: PreparedBatch, start: int, batch_size: int) -> Tensor:
        settings, device = batch.settings, self._models.device
        filled = [min(at, len(batch.rows) - 1) for at in range(start, start + batch_size)]
        rows = [batch.rows[at] for at in filled]
        time_ids = to_device(
            size_time_ids(batch_size, height_px=settings.height, width_px=settings.width), device
        )
        generators = row_generators([row.noise_seed for row in rows])
        model = self._models.model
        source = None if batch.sources is None else stack_sources(batch.sources, filled)
        add_images = self._image_conditions(batch, filled, generators)
        prompts = stack_texts([batch.prompts[at] for at in filled], time_ids=time_ids)
        negatives = stack_texts([batch.negatives[at] for at in filled], time_ids=time_ids)
        if model.zeros_for_empty_prompt:
            is_empty = torch.tensor([not row.negative_prompt for row in rows])
            negatives = without_text(negatives, to_device(is_empty, device))
        if model.task == "inpainting" and source is not None:
            source = inpainting_source(source)
        refiner = self._refiner
        latents = generate_latents(
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
            stage=WHOLE if refiner is None else refiner.first_stage,
        )
        if refiner is None:
            return latents
        rescale = self._config.guidance_rescale
        return refiner.finish(
            latents, batch, filled, generators=generators, guidance_rescale=rescale
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
        batch = denoised.batch
        size = self._size("decoding", batch.settings)
        parts: list[_Decoded] = []
        done = 0
        while done < len(denoised.latents):
            parts.append(size.run(partial(self._decode_part, denoised, done)))
            done += len(parts[-1].images)
        images = torch.cat([part.images for part in parts])
        if parts[0].kept is not None and batch.sources is not None:
            kept = torch.cat([part.kept for part in parts if part.kept is not None])
            images = compose_inpainted(images, kept, pixel_masks(batch.sources))
        return PaintedBatch(
            batch=batch,
            images=images,
            raw_latents=torch.cat([part.raw_latents for part in parts]),
            is_finite=torch.cat([part.is_finite for part in parts]).tolist(),
            batch_sizes=denoised.batch_sizes,
        )

    def _decode_part(self, denoised: DenoisedBatch, start: int, batch_size: int) -> _Decoded:
        """At most so many rows from one on, as one batch that is filled up to that number."""
        model, sources = self._models.model, denoised.batch.sources
        latents = denoised.latents[start : start + batch_size]
        decoded = decode_scaled(model, latents, batch_size=batch_size)
        made = [
            levels_of(decoded),
            unscale_latents(latents, model.identity.autoencoder).float(),
            # An autoencoder in half precision may come to NaN where the latents are fine.
            torch.isfinite(decoded).flatten(1).all(dim=1),
        ]
        if denoised.batch.settings.is_masked and sources is not None:
            kept = torch.stack([one.latents for one in sources[start : start + batch_size]])
            kept = to_device(kept, self._models.device)
            made.append(levels_of(decode_scaled(model, kept, batch_size=batch_size)))
        images, raw_latents, is_finite, *of_sources = self._transfers.fetch(made).take()
        return _Decoded(images, raw_latents, is_finite, of_sources[0] if of_sources else None)


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


def try_batch(models: GenerateModels, config: GenerateConfig, batch_size: int) -> None:
    """Make so many images of the model's own size in two steps, for nothing.

    Raises:
        MemoryError: the memory does not hold them at once.
    """
    row = ImageRow(
        row=0,
        key="",
        prompt_key="",
        image_index=0,
        prompt="a picture",
        negative_prompt="",
        seed=0,
        noise_seed=0,
        num_inference_steps=2,
        guidance_scale=2.0,
        width=models.native_px,
        height=models.native_px,
        sampler=models.limits(config).sampler,
    )
    config = config.model_copy(update={"batch_size": batch_size})
    painter = Painter(models, config, say=lambda line: None)
    batch = RowBatch(settings=settings_of(row), rows=[row] * batch_size)
    painter.decode(painter.denoise(painter.prepare(batch)))
    if painter.smallest < batch_size:
        raise MemoryError(f"the memory holds {painter.smallest} images")
