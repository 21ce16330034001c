"""What the engine asks of a step: open once per worker, turn a shard into committed files."""

from dataclasses import dataclass
from typing import Protocol

from pipelines.run.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a step occupies."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    num_workers: int = 1


class ShardStep(Protocol):
    """One committed step of a run.

    An instance holds configuration only, so that it pickles; weights, processes and
    connections are made in `open` on the worker and freed in `close`.
    """

    name: str
    fingerprint: str
    resources: Resources

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
