"""The training loop: one process or many, with averages, checkpoints and early failure."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sd_core.model.compiling import check_compiler, compile_blocks
from sd_core.model.memory import place_module
from sd_core.model.precision import model_dtype
from sd_core.training.checkpoint import Checkpoint, OtherTrainingError, check_recipe
from sd_core.training.config import LoopConfig
from sd_core.training.finite_watch import FiniteWatch
from sd_core.training.metrics import LogWindow, Metrics
from sd_core.training.optimizer import (
    Ema,
    build_optimizer,
    learning_rate_at,
    load_optimizer,
    optimizer_tensors,
)
from sd_core.training.task import Losses, TaskBatch, TrainedPart, TrainingTask


class TrainingEvents(Protocol):
    """What the first worker is told."""

    def on_metrics(self, metrics: Metrics) -> None:
        """Every `log_every` steps, before each checkpoint, and at the last."""

    def on_checkpoint(self, step: int, trainer: "Trainer") -> None:
        """Every `checkpoint_every` steps, and at the last."""

    def on_samples(self, step: int, trainer: "Trainer") -> None:
        """Every `sample_every` steps, and at the last; after the checkpoint of the step."""


@dataclass(kw_only=True)
class _Part:
    """A part at work."""

    trained: TrainedPart
    runnable: nn.Module
    optimizer: torch.optim.AdamW
    ema: Ema | None


class Trainer:
    """Trains a task's parts, in float32 weights, on one device of one worker.

    Uses the default process group where one is set up (gloo or nccl) and averages gradients over
    it. The same global batches give the same training whatever the number of workers, up to the
    order of floating-point sums.
    """

    def __init__(
        self,
        task: TrainingTask,
        loop: LoopConfig,
        *,
        device: torch.device,
        events: TrainingEvents,
        recipe: Mapping[str, object] | None = None,
    ) -> None:
        if loop.compile:
            check_compiler("loop.compile", device=device)
        self.task = task
        self.loop = loop
        self.device = device
        self.step = 0
        self._events = events
        self._recipe = dict(recipe or {})
        self._distributed = dist.is_available() and dist.is_initialized()
        self._rank = dist.get_rank() if self._distributed else 0
        self._parts = {part.name: self._prepare(part) for part in task.parts}
        self._dtype = model_dtype(loop.precision, device)
        self._watch = FiniteWatch()
        self._started = time.monotonic()

    def run(self, batches: Iterator[TaskBatch], *, until: int | None = None) -> None:
        """Train from the present step to `until` (default: the loop's steps).

        Args:
            batches: This worker's share of each global batch, from the present step on.
            until: An earlier end; the learning rate still follows the loop's steps.

        Raises:
            NonFiniteLossError: on a CPU before the weights are touched, on a GPU steps later, and
                before they are stored or shown.
        """
        last = min(until or self.loop.steps, self.loop.steps)
        window = LogWindow()
        while self.step < last:
            window.add(self._train_step(next(batches).to(self.device)))
            self.step += 1
            is_kept = self._due(self.loop.checkpoint_every, last)
            if is_kept or self._due(self.loop.log_every, last):
                self._log(window)
                window = LogWindow()
            if self._rank:
                continue
            if is_kept:
                self._events.on_checkpoint(self.step, self)
            if self._due(self.loop.sample_every, last):
                self._watch.settle()
                self._events.on_samples(self.step, self)

    def averaged_weights(self, part: str) -> dict[str, Tensor]:
        """The averages of a part's weights; its present ones where none are kept."""
        held = self._parts[part]
        if held.ema is not None:
            return held.ema.weights
        return {name: value.detach() for name, value in held.trained.module.named_parameters()}

    def checkpoint(self) -> Checkpoint:
        """The present state."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        counts: dict[str, int] = {}
        for name, part in self._parts.items():
            tensors[name] = part.trained.module.state_dict()
            tensors[f"{name}_optimizer"] = optimizer_tensors(part.optimizer, part.trained.module)
            if part.ema is not None:
                tensors[f"{name}_ema"] = part.ema.weights
                counts[name] = part.ema.num_updates
        return Checkpoint(step=self.step, tensors=tensors, counts=counts, recipe=self._recipe)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is of another recipe or another architecture; nothing is changed
                by the first.
        """
        check_recipe(checkpoint.recipe, self._recipe)
        try:
            for name, part in self._parts.items():
                part.trained.module.load_state_dict(dict(checkpoint.tensors[name]))
                moments = dict(checkpoint.tensors[f"{name}_optimizer"])
                load_optimizer(part.optimizer, part.trained.module, moments)
                if part.ema is not None:
                    averages = dict(checkpoint.tensors[f"{name}_ema"])
                    part.ema.load(averages, num_updates=checkpoint.counts[name])
        except (KeyError, RuntimeError) as error:
            raise OtherTrainingError(
                f"the checkpoint of step {checkpoint.step} is of another architecture: {error}"
            ) from error
        self.step = checkpoint.step

    def _prepare(self, part: TrainedPart) -> _Part:
        module: Any = part.module.train()
        # Weights are float32 whatever they were loaded in.
        module = place_module(module, device=self.device, dtype=torch.float32)
        if self.loop.channels_last:
            module = module.to(memory_format=torch.channels_last)
        if self.loop.gradient_checkpointing and hasattr(module, "enable_gradient_checkpointing"):
            module.enable_gradient_checkpointing()
        if self.loop.compile == "blocks":
            compile_blocks(module)
        runnable: Any = DistributedDataParallel(module) if self._distributed else module
        if self.loop.compile is True:
            runnable = torch.compile(runnable)
        return _Part(
            trained=part,
            runnable=runnable,
            optimizer=build_optimizer(module, part.optimizer),
            ema=None if part.ema_decay is None else Ema(module, decay=part.ema_decay),
        )

    def _train_step(self, batch: Any) -> dict[str, Tensor]:
        # What a model draws (its dropout layers) follows from seed, step and worker alone.
        seed = np.random.SeedSequence([self.loop.seed, self.step, self._rank])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        values: dict[str, Tensor] = {}
        for part in self._parts.values():
            found = self._learn(part, batch)
            if found is not None:
                values |= found
        return values

    def _learn(self, part: _Part, batch: Any) -> dict[str, Tensor] | None:
        config, name = part.trained.optimizer, part.trained.name
        rate = learning_rate_at(self.step, config, steps=self.loop.steps)
        part.optimizer.param_groups[0]["lr"] = rate
        part.optimizer.zero_grad(set_to_none=True)
        metrics = self._backward(part, batch)
        if metrics is None:
            return None
        norm = nn.utils.clip_grad_norm_(part.trained.module.parameters(), config.max_grad_norm)
        self._watch.gradient(norm, batch.keys, name=name, step=self.step)
        part.optimizer.step()
        if part.ema is not None:
            part.ema.update(part.trained.module)
        prefix = "" if len(self._parts) == 1 else f"{name}/"
        metrics |= {"grad_norm": norm, "learning_rate": norm.new_full((), rate)}
        return {prefix + key: value for key, value in metrics.items()}

    def _backward(self, part: _Part, batch: Any) -> dict[str, Tensor] | None:
        """Forward and backward over the micro-batches; the loss is the mean over them."""
        pieces = list(batch.pieces(self.loop.gradient_accumulation))
        sums: dict[str, Tensor] = {}
        for piece in pieces:
            with self._synchronised(part, last=piece is pieces[-1]):
                with torch.autocast(
                    self.device.type, self._dtype, enabled=self._dtype != torch.float32
                ):
                    found = self._losses(part, piece.batch)
                if found is None:
                    return None
                self._watch.losses(found.losses, piece.batch.keys, step=self.step)
                loss = piece.loss(found.losses)
                torch.autograd.backward(loss)
            figures = {key: piece.figure(value.detach()) for key, value in found.metrics.items()}
            for key, value in {"loss": loss.detach(), **figures}.items():
                sums[key] = sums.get(key, torch.zeros((), device=self.device)) + value
        return sums

    def _losses(self, part: _Part, piece: Any) -> Losses | None:
        modules = {name: held.runnable for name, held in self._parts.items()}
        return self.task.losses(part.trained.name, modules, piece, step=self.step)

    def _synchronised(self, part: _Part, *, last: bool) -> AbstractContextManager[None]:
        if self._distributed and not last:
            no_sync: Callable[[], AbstractContextManager[None]] = getattr(part.runnable, "no_sync")  # noqa: B009
            return no_sync()
        return nullcontext()

    def _due(self, every: int, last: int) -> bool:
        return self.step % every == 0 or self.step == last

    def _log(self, window: LogWindow) -> None:
        means = window.means()
        names, values = list(means), torch.stack([mean.reshape(()) for mean in means.values()])
        if self._distributed:
            dist.all_reduce(values)
            values = values / dist.get_world_size()
        figures = values.tolist()  # waits for the device, once a line
        self._watch.look()
        if self._rank:
            return
        now = time.monotonic()
        samples = window.steps * self.loop.batch_size
        self._events.on_metrics(
            Metrics(
                step=self.step,
                seconds=now - self._started,
                samples_per_second=samples / (now - window.started),
                values=dict(zip(names, figures, strict=True)),
            )
        )
