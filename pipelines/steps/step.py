"""What the engine asks of a step: open once per worker, turn a shard into committed files."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from pipelines.run.manifest import Manifest

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a step occupies, and how many of them there are to be."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    num_workers: int | None = 1
    """None: as many as the machines hold, also of those that come later."""
    min_workers: int = 1
    """So many must be possible within `engine.wait_for_resources_s`."""
    may_use_cpu: bool = True
    """Whether a worker that is given a GPU may compute on the CPU where torch sees none."""


class ShardStep(Protocol):
    """One committed step of a run.

    An instance holds configuration only, so that it pickles; weights, processes and
    connections are made in `open` on the worker and freed in `close`.
    """

    fingerprint: str
    resources: Resources

    @property
    def name(self) -> str:
        """Of its row in the table of steps."""

    def open(self) -> None:
        """Load what every shard of this worker needs."""

    def run(self, shard_id: int) -> Manifest:
        """Turn one shard into committed files and return its manifest.

        Safe to repeat: the manifest is created exclusively, the first one wins.
        """

    def rows_in(self, shard_id: int) -> int:
        """How many rows the shard has for this step; asked before `run` and without `open`."""

    def close(self) -> None:
        """Free what `open` took."""


def is_light(step: ShardStep, shard_id: int) -> bool:
    """Whether a shard can be run without `open`, as one whose rows all dropped before the step.

    A step may say so in a method `is_light` of its own.
    """
    asked = getattr(step, "is_light", None)
    return asked is not None and bool(asked(shard_id))


def may_repeat(step: ShardStep) -> bool:
    """Whether a slow shard may be given to a second worker, as it costs nobody else anything.

    A step says that it may not in an attribute `may_repeat` of its own.
    """
    return bool(getattr(step, "may_repeat", True))


class ShardWork(Protocol[ItemT, ResultT]):
    """One shard on its way through a step with models.

    `read`, `compute` and `write` may each run on a thread of its own, so that the next batch is
    read and the last one written while the model works on this one; `compute` stays on the
    worker's main thread. What is measured on the way (times, rates) is no part of the manifest.
    As a context manager it holds the shard's local files, and frees them however it ends.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None: ...

    def read(self) -> Iterator[ItemT]:
        """The shard's batches, from storage to what the model takes."""

    def compute(self, item: ItemT) -> ResultT:
        """The model's part."""

    def write(self, result: ResultT) -> None:
        """Take a result, in order, to local files or memory."""

    def commit(self) -> Manifest:
        """Publish the shard; after the last `write`."""
