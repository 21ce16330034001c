"""What one worker of a denoiser's training does; Ray is not needed for it."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from pipelines.config import ConfigError
from pipelines.run.sight import Tell
from pipelines.run.store import RunStore
from pipelines.training.config import TrainConfig
from pipelines.training.loop import run_training
from pipelines.training.result import cache_sha256, publish_result
from pipelines.training.samples import Shown, draw_samples, with_weights
from sd_core.cache.dataset import TrainingDataset
from sd_core.cache.latent_cache import LatentCache, check_caches, open_cache
from sd_core.cache.order import count_streams
from sd_core.cache.reading import check_contents
from sd_core.cache.unit_dataset import UnitDataset
from sd_core.model.latent_diffusion import LatentDiffusion, load_latent_diffusion
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.say import Say
from sd_core.training.batches import collate
from sd_core.training.denoiser_task import DENOISER, DenoiserTask
from sd_core.training.flops import count_flops, forward_once
from sd_core.training.task import Place, TaskBatch
from sd_core.training.trainer import Trainer
from sd_core.training.unit_batches import collate_units, rows_per_unit_of

_NOISE_THREADS = 4


def train_worker(
    config: TrainConfig,
    place: Place,
    *,
    fingerprint: str,
    say: Say,
    tell: Tell = lambda sight: None,
    until: int | None = None,
) -> None:
    """Train a denoiser to the end from the newest checkpoint.

    Raises:
        CacheMismatchError, CacheSpecError, CacheShardError: the data does not fit the model.
        WeightsError: the model cannot be loaded.
        What `run_training` raises.
    """
    if config.engine.torch_threads is not None:
        torch.set_num_threads(config.engine.torch_threads)
    model = load_latent_diffusion(config.model, device=place.device)
    caches = open_caches(config)
    check_caches(caches, model_identity=model.identity)
    for cache in caches if place.rank == 0 else ():
        if not cache.has_digests:
            say(f"{cache.name}: made before its own files had digests; they are taken as they are")
    if config.check_data:
        rows = check_contents(caches, rank=place.rank, world_size=place.world_size)
        if place.rank == 0:
            say(f"{rows:,} cached rows read and found whole")
    training = DenoiserTraining(config, model, caches)
    run_training(training, config, place, fingerprint=fingerprint, until=until, say=say, tell=tell)


def open_caches(config: TrainConfig) -> list[LatentCache]:
    """Open every cache of the configuration; see `open_cache` for what it raises."""
    return [open_cache(data.path, storage_options=data.storage_options) for data in config.data]


def check_streams(config: TrainConfig, caches: Sequence[LatentCache]) -> None:
    """Refuse workers that do not divide the streams that there are.

    Raises:
        ConfigError: they do not; a small cache has fewer than `order.num_streams`.
    """
    rows, workers = [cache.num_rows for cache in caches], config.engine.num_workers
    found = count_streams(rows, num_streams=config.order.num_streams)
    if found % workers:
        raise ConfigError(
            f"engine.num_workers {workers}: they must divide the {found} streams that the smallest "
            f"cache's {min(rows)} rows fill (order.num_streams is {config.order.num_streams}); "
            "give fewer workers, or more rows"
        )


def rows_per_unit_of_config(config: TrainConfig) -> int:
    """Of caches of several sizes.

    Raises:
        ConfigError: it does not divide the batch, or the workers not what comes out.
    """
    batch_size, workers = config.loop.batch_size, config.engine.num_workers
    rows = config.order.rows_per_unit or rows_per_unit_of(batch_size)
    if batch_size % (rows * workers):
        raise ConfigError(
            f"loop.batch_size {batch_size}: of caches of several sizes a batch is made of units of "
            f"order.rows_per_unit ({rows}) rows, which {workers} worker(s) share; give a multiple "
            f"of {rows * workers}, or other rows_per_unit"
        )
    return rows


class DenoiserTraining:
    """A latent diffusion model's denoiser, learning from caches."""

    def __init__(
        self, config: TrainConfig, model: LatentDiffusion, caches: Sequence[LatentCache]
    ) -> None:
        self._config = config
        self._model = model
        self._caches = caches
        self.task = DenoiserTask(
            model,
            objective=config.objective,
            optimizer=config.optimizer,
            ema_decay=config.loop.ema_decay,
        )

    def batches(self, place: Place, *, start_step: int) -> Generator[TaskBatch, None, None]:
        if self._caches[0].spec.buckets:
            return self._unit_batches(place, start_step)
        return self._sample_batches(place, start_step)

    def _sample_batches(self, place: Place, start_step: int) -> Generator[TaskBatch, None, None]:
        config = self._config
        dataset = TrainingDataset(
            self._caches,
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
                    self._caches,
                    seed=config.loop.seed,
                    objective=config.objective,
                    threads=threads,
                )

    def _unit_batches(self, place: Place, start_step: int) -> Generator[TaskBatch, None, None]:
        config, rows_per_unit = self._config, rows_per_unit_of_config(self._config)
        dataset = UnitDataset(
            self._caches,
            weights=[data.weight for data in config.data],
            rows_per_unit=rows_per_unit,
            seed=config.loop.seed,
            num_streams=config.order.num_streams,
            rank=place.rank,
            world_size=place.world_size,
        )
        units = config.loop.batch_size // rows_per_unit
        steps = dataset.steps(units_per_step=units, start_step=start_step)
        with ThreadPoolExecutor(_NOISE_THREADS, thread_name_prefix="noise") as threads:
            for step, drawn in enumerate(steps, start_step):
                rows = dataset.count_rows(step, units_per_step=units)
                yield collate_units(
                    drawn,
                    self._caches,
                    rows_a_worker=rows / place.world_size,
                    seed=config.loop.seed,
                    objective=config.objective,
                    threads=threads,
                )

    def describe(self) -> str:
        """Rows and parameters."""
        rows = sum(cache.num_rows for cache in self._caches)
        weights = sum(value.numel() for value in self._model.denoiser.parameters())
        return f"{rows:,} cached rows; a denoiser of {weights:,} parameters"

    def count_sample_flops(self) -> int:
        """Of the denoiser's forward and backward; the latter is twice the former."""
        return 3 * count_flops(lambda: forward_once(self._model))

    def show(self, trainer: Trainer) -> Shown:
        """Images of the configured prompts."""
        weights = trainer.averaged_weights(DENOISER)
        return Shown(image=draw_samples(self._config.samples, self._model, weights))

    def publish(self, store: RunStore, trainer: Trainer, *, fingerprint: str) -> None:
        """The whole model, with its averaged weights, as a diffusers folder."""
        denoiser = with_weights(self._model.denoiser, trainer.averaged_weights(DENOISER))
        publish_result(
            store,
            self._config,
            lambda folder: save_latent_diffusion(replace(self._model, denoiser=denoiser), folder),
            step=trainer.step,
            fingerprint=fingerprint,
            data=[(cache, cache_sha256(cache)) for cache in self._caches],
        )
