"""Steps of caches of many sizes: units, each of one size, that no tensor holds together."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sd_core.cache.dataset import DrawnSample
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.unit_dataset import DrawnUnit
from sd_core.training.batches import collate
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.task import MicroBatch, TaskBatch

MOST_ROWS_PER_UNIT = 8


def rows_per_unit_of(batch_size: int) -> int:
    """The default: the largest divisor of a batch that is at most 8; no number of workers, nor of
    parts that a batch is cut into, changes the order."""
    return next(m for m in range(MOST_ROWS_PER_UNIT, 0, -1) if batch_size % m == 0)


@dataclass(frozen=True, kw_only=True)
class UnitsBatch(TaskBatch):
    """A worker's share of a step.

    Args:
        units: Each of m rows of one size.
        weights: (m,) float32 of each unit: 1, and 0 of rows that only fill it up.
        rows_a_worker: Rows that count in the step, over all workers, divided by these: the mean
            over the workers of the sums over this is the mean over the rows.
    """

    units: tuple[TaskBatch, ...]
    weights: tuple[Tensor, ...]
    rows_a_worker: float

    def to(self, device: torch.device) -> Self:
        """What the task takes, on a device."""
        return self._each_unit(lambda unit: unit.to(device), lambda one: one.to(device))

    def pinned(self) -> Self:
        """The batch in memory that a GPU reads while the CPU goes on."""
        return self._each_unit(lambda unit: unit.pinned(), lambda one: one.pin_memory())

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Let no memory of the batch be given away before the stream is done with it."""
        for unit in self.units:
            unit.used_by(stream)
        for one in self.weights:
            one.record_stream(stream)

    def pieces(self, count: int) -> Iterator[MicroBatch]:
        """The units, whatever the count."""
        for unit, weights in zip(self.units, self.weights, strict=True):
            yield MicroBatch(batch=unit, weights=weights / self.rows_a_worker)

    def _each_unit(
        self, change: Callable[[TaskBatch], TaskBatch], weigh: Callable[[Tensor], Tensor]
    ) -> Self:
        return replace(
            self,
            units=tuple(change(unit) for unit in self.units),
            weights=tuple(weigh(one) for one in self.weights),
        )


def collate_units(
    drawn: Sequence[DrawnUnit],
    caches: Sequence[LatentCache],
    *,
    rows_a_worker: float,
    seed: int,
    objective: ObjectiveConfig,
    threads: ThreadPoolExecutor | None = None,
) -> UnitsBatch:
    """`collate` of each unit, and its rows' weights; other arguments are `collate`'s.

    Args:
        drawn: What the dataset drew for this rank and step.
        rows_a_worker: See `UnitsBatch`.
    """
    options: dict[str, Any] = {"seed": seed, "objective": objective, "threads": threads}
    units = tuple(collate(_samples(unit), caches, **options) for unit in drawn)
    weights = [[float(place < one.num_rows) for place in range(len(one.samples))] for one in drawn]
    return UnitsBatch(
        keys=tuple(key for unit in units for key in unit.keys),
        units=units,
        weights=tuple(torch.tensor(one) for one in weights),
        rows_a_worker=rows_a_worker,
    )


def _samples(unit: DrawnUnit) -> list[DrawnSample]:
    return [
        DrawnSample(sample=sample, cache_index=unit.cache_index, epoch=unit.epoch, index=unit.index)
        for sample in unit.samples
    ]
