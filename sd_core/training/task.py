"""What the trainer trains: parts with their own optimizers, and the losses of a batch."""

from collections.abc import Callable, Mapping, Sequence
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

    def _each(self, change: Callable[[Tensor], Any]) -> Self:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


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
