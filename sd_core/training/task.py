"""What the trainer trains: parts with their own optimizers, and the losses of a batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from sd_core.training.config import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """What one step of a rank needs: tensors of B rows, or None, and the rows' keys."""

    keys: tuple[str, ...]
    """For error messages."""

    def to(self, device: torch.device) -> "TaskBatch":
        """What the task takes, on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The batch in memory that a GPU reads while the CPU goes on."""
        return self._each(lambda tensor: tensor.pin_memory())

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Let no memory of the batch be given away before the stream is done with it."""
        self._each(lambda tensor: tensor.record_stream(stream))

    def part(self, start: int, end: int) -> Self:
        """Samples start..end."""
        sliced: dict[str, Any] = {
            name: value[start:end] for name, value in vars(self).items() if value is not None
        }
        return replace(self, **sliced)

    def pieces(self, count: int) -> "Iterator[MicroBatch]":
        """The batch in `count` parts, each forward and backward by itself."""
        total = len(self.keys)
        size = -(-total // count)
        for start in range(0, total, size):
            piece = self.part(start, min(start + size, total))
            yield MicroBatch(batch=piece, share=len(piece.keys) / total)

    def _each(self, change: Callable[[Tensor], Any]) -> Self:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of a step that go through the model together.

    Args:
        batch: The rows.
        share: Theirs of the step's loss, which is then their mean.
        weights: (B,) float32, each row's of the step's loss, instead.
    """

    batch: TaskBatch
    share: float = 0.0
    weights: Tensor | None = None

    def loss(self, losses: Tensor) -> Tensor:
        """What the rows' (B,) losses add to the step's."""
        if self.weights is None:
            return losses.mean() * self.share
        return (losses * self.weights).sum()

    def figure(self, value: Tensor) -> Tensor:
        """What a figure of the piece adds to the step's."""
        return value * (self.share if self.weights is None else self.weights.sum())


@dataclass(frozen=True, kw_only=True)
class TrainedPart:
    """A module with an optimizer of its own; most trainings have one, a GAN has two."""

    name: str
    module: nn.Module
    optimizer: OptimizerConfig
    ema_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Each sample's loss, (B,) float32 with gradients, and what else to report, already scalar."""

    losses: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class TrainingTask(Protocol):
    """Says what to learn; the trainer says how."""

    @property
    def parts(self) -> Sequence[TrainedPart]:
        """In the order in which each step trains them."""

    def losses(
        self, part: str, modules: Mapping[str, nn.Module], batch: Any, *, step: int
    ) -> Losses | None:
        """The losses of one part; None where it does not learn at this step.

        Args:
            part: Whose turn it is.
            modules: Every part's module, wrapped for its device and workers; call these.
            batch: What the batches' iterator gave, on the device.
            step: From 0.
        """


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which worker this is, and on what device."""

    rank: int
    world_size: int
    device: torch.device
