"""What could fail on a GPU and not on a CPU, with the tiny presets: only that it is done."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from jobs.bench.gpu.generating import config_of, rows_of
from jobs.bench.gpu.item import Figure, Place, held
from jobs.bench.gpu.models import generator_models, trained_model
from jobs.bench.gpu.training import random_batches
from jobs.bench.train import SilentEvents
from pipelines.steps.generate.batches import RowBatch, settings_of
from pipelines.steps.generate.init_images import InitImage
from pipelines.steps.generate.models import GenerateModels
from pipelines.steps.generate.paint import Painter
from pipelines.steps.generate.painted import PaintedBatch
from pipelines.steps.generate.rows import ImageRow
from sd_core.sampling.preparation import prepare_for_sampling
from sd_core.sampling.samplers import samplers_of
from sd_core.sampling.source import mask_of_latents
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.denoiser_task import DenoiserTask
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.trainer import Trainer

_ROWS, _BATCH = 3, 2


def samplers(place: Place) -> Iterator[Figure]:
    """Each, with a last batch that is not full."""
    tiny, models = _tiny(place)
    for sampler in samplers_of(models.model.noise_schedule):
        rows = rows_of(models, _ROWS, sampler=sampler, num_inference_steps=4)
        yield held(f"sampler {sampler}", _is_whole(paint_rows(tiny, models, rows)))


def mask(place: Place) -> Iterator[Figure]:
    """From a source, and with a mask."""
    tiny, models = _tiny(place)
    for masked in (False, True):
        rows = rows_of(
            models,
            _ROWS,
            init_key="source",
            strength=0.6,
            mask="box" if masked else None,
            num_inference_steps=4,
        )
        painted = paint_rows(tiny, models, rows, _Source(models, masked=masked))
        yield held("a mask" if masked else "a source", _is_whole(painted))


def resume(place: Place) -> Iterator[Figure]:
    """Training goes on from a checkpoint, its weights laid out channels last."""
    whole = _trained(place, steps=3, channels_last=True)
    part = _trained(place, steps=3, until=1, channels_last=True)
    checkpoint = part.checkpoint()
    again = _trainer(place, steps=3, channels_last=True)
    again.resume(checkpoint)
    again.run(_batches(place))
    weights = (trainer.averaged_weights("denoiser") for trainer in (whole, again))
    one, other = (torch.cat([value.flatten().cpu() for value in w.values()]) for w in weights)
    apart = float((one - other).abs().max())
    yield held("resuming with channels_last", bool(torch.isfinite(one).all()))
    yield Figure(name="resumed weights apart from those of one go", value=apart, unit="at most")


def distributed(place: Place) -> Iterator[Figure]:
    """DistributedDataParallel over a group of one: nccl on a GPU, gloo on a CPU."""
    backend = "nccl" if place.device.type == "cuda" else "gloo"
    with _group(backend):
        for options in ({}, {"gradient_accumulation": 2}, {"gradient_checkpointing": True}):
            trainer = _trained(place, steps=2, **options)
            told = "".join(f", {name.replace('_', ' ')}" for name in options)
            yield held(f"DDP over {backend}{told}", trainer.step == 2)


def graphs(place: Place) -> Iterator[Figure]:
    """A recorded denoiser makes the bytes that it makes unrecorded."""
    tiny, models = _tiny(place)
    rows = rows_of(models, _ROWS, num_inference_steps=4)
    recorded = replace(models, model=prepare_for_sampling(models.model, cuda_graphs=True))
    one, other = (_pixels(paint_rows(tiny, each, rows)) for each in (models, recorded))
    yield held("recorded and replayed, a last batch not full", len(other) == _ROWS)
    yield Figure(
        name="recorded images apart from unrecorded",
        value=float((one.int() - other.int()).abs().max()),
        unit="levels at most",
    )


def compiled(place: Place) -> Iterator[Figure]:
    """Compiled blocks with a last batch that is not full, and compiled training."""
    tiny, models = _tiny(place)
    blocks = replace(models, model=prepare_for_sampling(models.model, compile="blocks"))
    rows = rows_of(models, _ROWS)
    yield held("compiled blocks, a last batch not full", _is_whole(paint_rows(tiny, blocks, rows)))
    trainer = _trained(place, steps=2, compile=True)
    yield held("compiled training", trainer.step == 2)


def paint_rows(
    place: Place,
    models: GenerateModels,
    rows: Sequence[ImageRow],
    sources: Any = None,
    *,
    batch_size: int = _BATCH,
) -> list[PaintedBatch]:
    """Rows through the painter, in batches of which the last may not be full."""
    painter = Painter(models, config_of(place, batch_size=batch_size), sources)
    painted = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        batch = RowBatch(settings=settings_of(part[0]), rows=part)
        painted.append(painter.decode(painter.denoise(painter.prepare(batch))))
    return painted


class _Source:
    """Grey latents for every row, of which a mask leaves a quarter."""

    def __init__(self, models: GenerateModels, *, masked: bool) -> None:
        shape, side = models.model.latents_shape, models.native_px
        mask = torch.zeros(1, side, side)
        mask[:, : side // 2, : side // 2] = 1
        downsampling = models.model.autoencoder.downsampling
        self._image = InitImage(
            latents=torch.zeros(shape),
            caption="",
            strength=0.6,
            mask=mask.bool().permute(1, 2, 0) if masked else None,
            latents_mask=mask_of_latents(mask, downsampling=downsampling) if masked else None,
        )

    def read(self, row: ImageRow) -> InitImage:
        return self._image


def _tiny(place: Place) -> tuple[Place, GenerateModels]:
    tiny = replace(place, is_tiny=True)
    return tiny, generator_models(place.device, is_tiny=True)


def _pixels(painted: Sequence[PaintedBatch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in painted])


def _is_whole(painted: Sequence[PaintedBatch]) -> bool:
    return sum(len(batch.images) for batch in painted) == _ROWS and all(
        all(batch.is_finite) for batch in painted
    )


def _batches(place: Place) -> Iterator[Any]:
    torch.manual_seed(0)
    batches = random_batches(trained_model(place.device, is_tiny=True), 4)
    return itertools.repeat(next(batches))


def _trainer(place: Place, *, steps: int, **options: Any) -> Trainer:
    trained_model.cache_clear()  # each training begins with the same weights
    model = trained_model(place.device, is_tiny=True)
    task = DenoiserTask(
        model, objective=ObjectiveConfig(), optimizer=OptimizerConfig(), ema_decay=0.99
    )
    loop = LoopConfig(steps=steps, batch_size=4, **options)
    return Trainer(task, loop, device=place.device, events=SilentEvents())


def _trained(place: Place, *, steps: int, until: int | None = None, **options: Any) -> Trainer:
    trainer = _trainer(place, steps=steps, **options)
    trainer.run(_batches(place), until=until)
    return trainer


@contextmanager
def _group(backend: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/group", world_size=1, rank=0)
        try:
            yield
        finally:
            dist.destroy_process_group()
