"""What is seen of a training while it works: its workers tell it, wherever they are."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any, Final

import ray

from pipelines.engine.sight import Sight
from pipelines.run.sight import TrainingSight

_ANSWER_S: Final = 5.0


class TrainingTold:
    """What workers said last: those of this process, or in an actor those of a cluster."""

    def __init__(self) -> None:
        self._last: TrainingSight | None = None
        self._nodes: dict[int, str] = {}

    def begins(self, rank: int, node: str) -> None:
        """A worker begins; one that takes the place of another has its rank."""
        self._nodes[rank] = node

    def tell(self, sight: TrainingSight) -> None:
        """How far the first worker is."""
        self._last = sight

    def look(self) -> TrainingSight | None:
        """As it is now."""
        if self._last is None:
            return None
        return replace(self._last, by_node=dict(Counter(self._nodes.values())))


class ToldOnRay:
    """A `TrainingTold` for workers anywhere on the cluster; pickles, and waits for no answer."""

    def __init__(self) -> None:
        self._actor: Any = ray.remote(num_cpus=0)(TrainingTold).remote()

    def begins(self, rank: int) -> None:
        """Of the worker that calls it."""
        self._actor.begins.remote(rank, os.uname().nodename)

    def tell(self, sight: TrainingSight) -> None:
        """How far the first worker is."""
        self._actor.tell.remote(sight)

    @contextmanager
    def seen(self, sight: Sight) -> Iterator[None]:
        """A job's sight asks for it meanwhile, and never after: `ray.get` would start a Ray."""
        asking = Lock()

        def look() -> TrainingSight | None:
            with asking:
                if sight.training is not look:
                    return None
                found: TrainingSight | None = ray.get(self._actor.look.remote(), timeout=_ANSWER_S)
                return found

        sight.training = look
        try:
            yield
        finally:
            with asking:
                sight.training = lambda: None
