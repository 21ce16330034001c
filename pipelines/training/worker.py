"""What one worker of a training does; Ray is not needed for it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipelines.storage import RunStore
from pipelines.training.checkpoints import load_newest, publish_checkpoint
from pipelines.training.config import TrainConfig
from pipelines.training.loss_curve import LOSS_CURVE_FILE, draw_loss_curve
from pipelines.training.records import Records, read_metrics
from pipelines.training.result import publish_model
from pipelines.training.samples import SAMPLES_FOLDER, SampleGrid
from sd_core.cache.checking import check_contents
from sd_core.cache.dataset import TrainingDataset
from sd_core.cache.latent_cache import LatentCache, check_caches, open_cache
from sd_core.model.latent_diffusion import LatentDiffusion, load_latent_diffusion
from sd_core.model.precision import model_dtype
from sd_core.training.batches import TrainingBatch, collate
from sd_core.training.denoiser_task import DENOISER, DenoiserTask
from sd_core.training.flops import count_flops, measure_peak
from sd_core.training.prefetch import prefetch
from sd_core.training.trainer import Metrics, Trainer

_NOISE_THREADS = 4

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which worker this is, and on what device."""

    rank: int
    world_size: int
    device: torch.device


def train_worker(config: TrainConfig, place: Place, *, fingerprint: str, say: Say) -> None:
    """Train to the end from the newest checkpoint; the first worker stores what comes of it.

    Raises:
        CacheMismatchError, CacheSpecError, CacheShardError: the data does not fit the model.
        CheckpointError: the stored state is damaged or of another training.
        NonFiniteLossError: with the keys of the rows.
        WeightsError: the model cannot be loaded.
    """
    if config.engine.torch_threads is not None:
        torch.set_num_threads(config.engine.torch_threads)
    store = RunStore(config.output, config.storage_options)
    model = load_latent_diffusion(config.model, device=place.device)
    caches = open_caches(config)
    check_caches(caches, model_identity=model.identity)
    if config.check_data:
        rows = check_contents(caches, rank=place.rank, world_size=place.world_size)
        if place.rank == 0:
            say(f"{rows:,} cached rows read and found whole")
    task = DenoiserTask(
        model,
        objective=config.objective,
        optimizer=config.optimizer,
        ema_decay=config.loop.ema_decay,
    )
    events = _Events(config, store, model, say)
    trainer = Trainer(
        task,
        config.loop,
        device=place.device,
        events=events,
        recipe={"fingerprint": fingerprint},
    )
    checkpoint = load_newest(store)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    if place.rank == 0:
        events.begin(trainer, caches, resumed=checkpoint is not None)
    batches = prefetch(_batches(config, caches, place, start_step=trainer.step))
    try:
        trainer.run(batches)
    finally:
        batches.close()  # type: ignore[attr-defined]  # it is a generator
    if place.rank == 0:
        store.replace(LOSS_CURVE_FILE, draw_loss_curve(read_metrics(store)))
        publish_model(store, config, model, trainer, caches, fingerprint=fingerprint)
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def open_caches(config: TrainConfig) -> list[LatentCache]:
    """Open every cache of the configuration; see `open_cache` for what it raises."""
    return [open_cache(data.path, storage_options=data.storage_options) for data in config.data]


def _batches(
    config: TrainConfig, caches: Sequence[LatentCache], place: Place, *, start_step: int
) -> Iterator[TrainingBatch]:
    dataset = TrainingDataset(
        caches,
        weights=[data.weight for data in config.data],
        seed=config.loop.seed,
        num_streams=config.order.num_streams,
        rank=place.rank,
        world_size=place.world_size,
    )
    with ThreadPoolExecutor(_NOISE_THREADS, thread_name_prefix="noise") as threads:
        for drawn in dataset.batches(batch_size=config.loop.batch_size, start_step=start_step):
            yield collate(
                drawn,
                caches,
                seed=config.loop.seed,
                objective=config.objective,
                threads=threads,
            )


class _Events:
    """Stores and says what the first worker is told."""

    def __init__(
        self, config: TrainConfig, store: RunStore, model: LatentDiffusion, say: Say
    ) -> None:
        self._config = config
        self._store = store
        self._model = model
        self._say = say
        self._grid = SampleGrid(config.samples, model)
        self._records: Records | None = None
        self._sample_limit: float | None = None

    def begin(self, trainer: Trainer, caches: Sequence[LatentCache], *, resumed: bool) -> None:
        """Say what is about to be trained, and find the limit of images a second."""
        rows = sum(cache.num_rows for cache in caches)
        weights = sum(value.numel() for value in self._model.denoiser.parameters())
        self._say(f"{rows:,} cached rows; a denoiser of {weights:,} parameters on {trainer.device}")
        if resumed:
            self._say(f"resuming from the checkpoint of step {trainer.step:,}")
        self._records = Records(
            self._store,
            self._config.tracking,
            start_step=trainer.step,
            steps=self._config.loop.steps,
            name=self._config.output.rstrip("/").rpartition("/")[2],
            say=self._say,
        )
        self._sample_limit = _samples_per_second_at_peak(self._config, self._model, trainer)

    def on_metrics(self, metrics: Metrics) -> None:
        share = None
        if self._sample_limit is not None:
            share = metrics.samples_per_second / self._sample_limit
        if self._records is not None:
            self._records.add(metrics, flops_share=share)

    def on_checkpoint(self, step: int, trainer: Trainer) -> None:
        keep = self._config.loop.keep_checkpoints
        publish_checkpoint(self._store, trainer.checkpoint(), keep=keep)
        if self._records is not None:
            self._records.flush()

    def on_samples(self, step: int, trainer: Trainer) -> None:
        image = self._grid.draw(trainer.averaged_weights(DENOISER))
        if image is not None:
            self._store.replace(f"{SAMPLES_FOLDER}/step-{step:08d}.png", image)


def _samples_per_second_at_peak(
    config: TrainConfig, model: LatentDiffusion, trainer: Trainer
) -> float:
    """What all workers could train a second if they computed at their peak all the time."""
    from sd_core.training.example import forward_once

    flops = 3 * count_flops(lambda: forward_once(model))  # backward is twice the forward
    dtype = model_dtype(config.loop.precision, trainer.device)
    peak = config.peak_tflops
    peak_flops = measure_peak(trainer.device, dtype) if peak is None else peak * 1e12
    return config.engine.num_workers * peak_flops / flops
