"""What the workers of every training share: resume, train, record, publish."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist

from pipelines.run.processors import PROCESSORS_FOLDER, describe_mixture, note_processor
from pipelines.run.sight import Tell, TrainingSight
from pipelines.run.store import RunStore
from pipelines.run.used_by import UsesOfRuns
from pipelines.training.checkpoint_writer import CheckpointWriter
from pipelines.training.checkpoints import load_newest
from pipelines.training.config import AutoencoderTrainConfig, TrainConfig, TrainingConfig
from pipelines.training.records import TrainingRecords, read_metrics
from pipelines.training.result import LOSS_CURVE_FILE, draw_loss_curve
from pipelines.training.samples import SAMPLES_FOLDER, Shown
from sd_core.errors import EnvironmentFault, is_out_of_memory
from sd_core.faults import describe_fault
from sd_core.model.precision import model_dtype
from sd_core.say import Say
from sd_core.training.checkpoint import CheckpointError
from sd_core.training.config import LoopConfig
from sd_core.training.flops import measure_peak
from sd_core.training.metrics import Metrics
from sd_core.training.prefetch import feed
from sd_core.training.task import Place, TaskBatch, TrainingTask
from sd_core.training.trainer import Trainer

AnyTrainConfig = TrainConfig | AutoencoderTrainConfig


class Training(Protocol):
    """What one kind of training brings to the loop, on one worker."""

    @property
    def task(self) -> TrainingTask:
        """What is learnt."""

    def batches(self, place: Place, *, start_step: int) -> Generator[TaskBatch, None, None]:
        """This worker's share of each global batch, from a step on."""

    def describe(self) -> str:
        """One line: the data and the model."""

    def count_sample_flops(self) -> int:
        """Operations that one sample's step takes."""

    def show(self, trainer: Trainer) -> Shown:
        """A grid by the present averages, and what it says in figures."""

    def publish(self, store: RunStore, trainer: Trainer, *, fingerprint: str) -> None:
        """Store the result."""


def run_training(
    training: Training,
    config: AnyTrainConfig,
    place: Place,
    *,
    fingerprint: str,
    say: Say,
    tell: Tell = lambda sight: None,
    until: int | None = None,
) -> None:
    """Train to the end from the newest checkpoint; the first worker stores what comes of it.

    Args:
        tell: Told how far it is by the first worker.
        until: An earlier end, after which a later call goes on.

    Raises:
        CheckpointError: the stored state is damaged or of another training.
        NonFiniteLossError: with the keys of the rows.
    """
    store = RunStore(config.output, config.storage_options, flat=True)
    last = config.loop.steps if until is None else until
    events = _Events(config, store, training, say, tell, last)
    trainer = Trainer(
        training.task,
        config.loop,
        device=place.device,
        events=events,
        recipe={"fingerprint": fingerprint},
    )
    checkpoint = load_newest(store, say=say if place.rank == 0 else lambda line: None)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    _check_same_step(trainer.step, place)
    note_processor(store, PROCESSORS_FOLDER, place.device)
    with ExitStack() as stack:
        if place.rank == 0:
            writer = CheckpointWriter(store, keep=config.loop.keep_checkpoints)
            events.begin(trainer, stack.enter_context(writer), resumed=checkpoint is not None)
        batches = training.batches(place, start_step=trainer.step)
        with feed(batches, place.device) as fed, memory_told(config.loop):
            trainer.run(fed, until=until)
    if place.rank == 0:
        events.end(trainer, fingerprint=fingerprint)
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


@contextmanager
def memory_told(loop: LoopConfig) -> Iterator[None]:
    """Where the memory is too small, say which settings need less of it.

    A batch is not halved in silence, as a step that only infers does: what dropout draws and how
    gradients are summed follow the micro-batch, and so the weights do.

    Raises:
        EnvironmentFault: in the place of an error of memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise EnvironmentFault(
            f"training: the memory is too small for its share of loop.batch_size "
            f"{loop.batch_size} in loop.gradient_accumulation {loop.gradient_accumulation} parts. "
            "Set loop.gradient_checkpointing, or more parts (the global batch stays as it is), "
            "which trains other last bits and so needs another output; or free memory, and the "
            f"same command goes on: {describe_fault(error)}"
        ) from error


@dataclass
class _Events:
    """Stores and says what the first worker is told."""

    _config: AnyTrainConfig
    _store: RunStore
    _training: Training
    _say: Say
    _tell: Tell
    _last: int
    _records: TrainingRecords | None = None
    _uses: UsesOfRuns | None = None
    _writer: CheckpointWriter | None = None
    _sample_limit: float | None = None
    _has_failed: bool = False

    def begin(self, trainer: Trainer, writer: CheckpointWriter, *, resumed: bool) -> None:
        """Say what is about to be trained, and find the limit of images a second."""
        self._writer = writer
        self._say(f"{self._training.describe()} on {trainer.device}")
        if resumed:
            self._say(f"resuming from the checkpoint of step {trainer.step:,}")
        if mixture := describe_mixture(self._store, PROCESSORS_FOLDER, what="training"):
            self._say(mixture)
        self._records = TrainingRecords(
            self._store, self._config, start_step=trainer.step, say=self._say
        )
        self._uses = UsesOfRuns(
            self._config.data,
            job="train",
            output=self._config.output,
            say=self._say,
            step=trainer.step,
        )
        flops = self._training.count_sample_flops()
        self._sample_limit = _flops_at_peak(self._config, trainer.device) / flops
        self._tell(TrainingSight(step=trainer.step, steps=self._last))

    def on_metrics(self, metrics: Metrics) -> None:
        if self._writer is not None:
            self._writer.check()
        share = None
        if self._sample_limit is not None:
            share = metrics.samples_per_second / self._sample_limit
        if self._records is not None:
            self._records.add(metrics, flops_share=share)
        left = (self._last - metrics.step) * self._config.loop.batch_size
        self._tell(
            TrainingSight(
                step=metrics.step,
                steps=self._last,
                losses={name: v for name, v in metrics.values.items() if name.endswith("loss")},
                samples_per_s=metrics.samples_per_second,
                left_s=left / metrics.samples_per_second,
            )
        )

    def on_checkpoint(self, step: int, trainer: Trainer) -> None:
        if self._uses is not None:
            self._uses.reached(step)
        if self._records is not None:
            self._records.flush()
        if self._writer is not None:
            self._writer.publish(trainer.checkpoint())

    def on_samples(self, step: int, trainer: Trainer) -> None:
        self._attempt(f"step {step:,}: no grid", lambda: self._show(step, trainer))

    def end(self, trainer: Trainer, *, fingerprint: str) -> None:
        """Store what comes of it."""
        self._attempt("no loss curve", self._draw_curve)
        self._training.publish(self._store, trainer, fingerprint=fingerprint)
        if self._records is not None:
            self._records.close()

    def _attempt(self, failed: str, draw: Callable[[], None]) -> None:
        """Draw; too little memory or a full disk is told once, and ends no training."""
        try:
            draw()
        except Exception as error:
            if not self._has_failed:
                told = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self._say(f"{failed}: {told}; the training goes on, and tells no further one")
            self._has_failed = True

    def _draw_curve(self) -> None:
        self._store.replace(LOSS_CURVE_FILE, draw_loss_curve(read_metrics(self._store)))

    def _show(self, step: int, trainer: Trainer) -> None:
        shown = self._training.show(trainer)
        if shown.image is not None:
            self._store.replace(f"{SAMPLES_FOLDER}/step-{step:08d}.png", shown.image)
        if shown.values and self._records is not None:
            self._records.add_values(step, shown.values)


def _check_same_step(step: int, place: Place) -> None:
    """Workers that see different files must not train together."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    ends = torch.tensor([step, -step], device=place.device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    if ends.sum() != 0:
        raise CheckpointError(
            f"one worker begins at step {-ends[1]:,} and another at step {ends[0]:,}: they do not "
            "see the same checkpoints; give an output that all nodes share"
        )


def _flops_at_peak(config: TrainingConfig, device: torch.device) -> float:
    """Operations a second of all workers if they computed at their peak all the time."""
    peak = config.peak_tflops
    dtype = model_dtype(config.loop.precision, device)
    peak_flops = measure_peak(device, dtype) if peak is None else peak * 1e12
    return config.engine.num_workers * peak_flops
