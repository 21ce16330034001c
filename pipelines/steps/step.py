"""What the engine asks of a step: open once per worker, turn a shard into committed files."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard
from pipelines.run.store import RunStore

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


@dataclass(kw_only=True, eq=False)
class CommittedStep:
    """What every step of ours holds.

    Args:
        store: The run.
        fingerprint: Of everything that can change the result.
        resources: What a worker occupies.
    """

    name: ClassVar[str]

    store: RunStore = field(kw_only=False)
    fingerprint: str
    resources: Resources = field(default_factory=Resources)

    @property
    def made(self) -> Committed:
        """What the step has committed."""
        return Committed(self.store, self.name, self.fingerprint)

    def open(self) -> None:
        """Load what every shard of this worker needs."""

    def close(self) -> None:
        """Free what `open` took."""

    def commit_shard(
        self,
        shard_id: int,
        files: Sequence[SpooledFile],
        *,
        kept: int,
        reasons: Iterable[str] = (),
        inputs: str | None = None,
        gives: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Publish finished local files, then the shard's manifest.

        Args:
            kept: Rows.
            reasons: Of each dropped row.
            inputs: What the shard was made from, where a later revision may reuse it.
            gives: `Manifest.gives`.
        """
        dropped = Counter(reasons)
        return commit_shard(
            self.store,
            step=self.name,
            fingerprint=self.fingerprint,
            shard_id=shard_id,
            files=files,
            rows_in=kept + dropped.total(),
            kept=kept,
            dropped=dropped,
            inputs=inputs,
            gives=gives,
        )


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


class ShardWork(ExitStack, ABC, Generic[ItemT, ResultT]):
    """One shard on its way through a step with models.

    `read`, `compute` and `write` may each run on a thread of its own, so that the next batch is
    read and the last one written while the model works on this one; `compute` stays on the
    worker's main thread. What is measured on the way (times, rates) is no part of the manifest.
    As a context manager it holds the shard's local files, and frees them however it ends.
    """

    @abstractmethod
    def read(self) -> Iterator[ItemT]:
        """The shard's batches, from storage to what the model takes."""

    @abstractmethod
    def compute(self, item: ItemT) -> ResultT:
        """The model's part."""

    @abstractmethod
    def write(self, result: ResultT) -> None:
        """Take a result, in order, to local files or memory."""

    @abstractmethod
    def commit(self) -> Manifest:
        """Publish the shard; after the last `write`."""
