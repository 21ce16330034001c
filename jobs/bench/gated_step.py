"""A step that starts together with the others of its chain and notes when it worked."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.run.manifest import Manifest
from pipelines.steps.step import Resources, ShardStep

_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """A shard's time in a worker, in seconds since the epoch."""

    step: str
    begin: float
    end: float


class GatedStep:
    """Wraps a step: `open` returns when every worker of the chain is open.

    So the time from the first span's begin to the last one's end has no model load and no start-up
    in it.

    Args:
        folder: On this machine; for one chain alone.
        num_workers: Workers of all the chain's steps together.
    """

    def __init__(self, step: ShardStep, *, folder: Path, num_workers: int) -> None:
        self.name = step.name
        self.fingerprint = step.fingerprint
        self.resources: Resources = step.resources
        self._step = step
        self._folder = folder
        self._num_workers = num_workers

    def open(self) -> None:
        """Open the step, then wait for the others."""
        self._step.open()
        (self._folder / f"{self.name}-{os.getpid()}.open").touch()
        deadline = time.monotonic() + _PATIENCE_S
        while len(list(self._folder.glob("*.open"))) < self._num_workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all {self._num_workers} workers opened their steps")
            time.sleep(0.02)

    def run(self, shard_id: int) -> Manifest:
        """Run the shard and note its time."""
        begin = time.time()
        manifest = self._step.run(shard_id)
        span = {"step": self.name, "begin": begin, "end": time.time()}
        (self._folder / f"{self.name}-{shard_id:06d}.span").write_text(json.dumps(span))
        return manifest

    def rows_in(self, shard_id: int) -> int:
        """As the step's."""
        return self._step.rows_in(shard_id)

    def close(self) -> None:
        """As the step's."""
        self._step.close()


def gate(steps: Iterable[ShardStep], folder: Path) -> list[GatedStep]:
    """Wrap the steps of one chain."""
    chain = list(steps)
    workers = sum(step.resources.num_workers or 1 for step in chain)
    folder.mkdir(parents=True)
    return [GatedStep(step, folder=folder, num_workers=workers) for step in chain]


def read_spans(folder: Path) -> list[Span]:
    """Every shard's span, of every step."""
    return [Span(**json.loads(file.read_text())) for file in folder.glob("*.span")]


def chain_seconds(folder: Path) -> float:
    """From the first shard's begin to the last one's end."""
    spans = read_spans(folder)
    return max(span.end for span in spans) - min(span.begin for span in spans)
