"""A step that starts together with the others of its chain and notes when it worked."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.run.manifest import Manifest
from pipelines.steps.step import Resources, ShardStep

_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """An attempt at a shard in a worker, in seconds since the epoch."""

    step: str
    shard_id: int
    pid: int
    begin: float
    end: float


class GatedStep:
    """Wraps a step: `open` returns when every worker of the chain is open.

    So the time from the first span's begin to the last one's end has no model load and no start-up
    in it. The engine opens models when the first shard needs them, and that one would wait here:
    so the step is opened as soon as its worker has it.

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._step.open()
        (self._folder / f"{self.name}-{os.getpid()}.open").touch()

    def open(self) -> None:
        """Wait for the others."""
        deadline = time.monotonic() + _PATIENCE_S
        while len(list(self._folder.glob("*.open"))) < self._num_workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all {self._num_workers} workers opened their steps")
            time.sleep(0.02)

    def run(self, shard_id: int) -> Manifest:
        """Run the shard and note its time."""
        begin = time.time()
        manifest = self._step.run(shard_id)
        write_span(self._folder, self.name, shard_id, begin=begin)
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


def write_span(folder: Path, step: str, shard_id: int, *, begin: float) -> None:
    """Note an attempt at a shard that ends now, in the worker."""
    span = Span(step=step, shard_id=shard_id, pid=os.getpid(), begin=begin, end=time.time())
    (folder / f"{step}-{shard_id:06d}-{span.pid}.span").write_text(json.dumps(asdict(span)))


def read_spans(folder: Path) -> list[Span]:
    """Every attempt's span, of every step."""
    return [Span(**json.loads(file.read_text())) for file in folder.glob("*.span")]


def chain_seconds(folder: Path) -> float:
    """From the first shard's begin to the last one's end."""
    spans = read_spans(folder)
    return max(span.end for span in spans) - min(span.begin for span in spans)
