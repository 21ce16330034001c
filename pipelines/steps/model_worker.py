"""The base of steps with models: device, threads, a record of the models, a shard's way."""

import gc
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, OtherModelsError, SpooledFile
from pipelines.run.processors import note_processor
from pipelines.run.stored_json import read_json
from pipelines.steps.overlap import run_shard
from pipelines.steps.step import CommittedStep, Resources, ShardWork, is_light
from sd_core.batch_size import BatchSize
from sd_core.errors import EnvironmentFault, is_out_of_memory
from sd_core.sealed import seal_tree, unseal

_BATCH_SIZE: Final = "batch_size"


class _OtherSize(Exception):
    """The record names another batch size than this worker's."""


class DeviceError(EnvironmentFault):
    """A worker was given a GPU that its torch cannot use."""


@dataclass(kw_only=True, eq=False)
class ModelStep(CommittedStep, ABC):
    """A step whose workers load models; arguments beside those of `CommittedStep`:

    Args:
        torch_threads: Torch's threads in this worker.
    """

    torch_threads: int
    device: str = field(default="cpu", init=False)
    """On which its models run, `cpu` or `cuda`; after `open`."""

    @property
    def decode_threads(self) -> int:
        """That decode images for its models: what one does is enough for a CPU's."""
        return 1 if self.device == "cpu" else max(2, min(12, (os.cpu_count() or 1) - 2))

    batch_size: int = field(default=0, init=False)
    """How many rows its models take at once, always as many; after `open`."""
    _configured_size: int = field(default=0, init=False)
    _has_committed: bool = field(default=False, init=False)

    @abstractmethod
    def open(self) -> None:
        """Load the models and record what they are."""

    @abstractmethod
    def rows_in(self, shard_id: int) -> int:
        """How many rows the shard has for this step; asked before `run` and without `open`."""

    @abstractmethod
    def begin(self, shard_id: int) -> ShardWork[Any, Any]:
        """A shard on its way; after `open`."""

    @abstractmethod
    def close(self) -> None:
        """Drop the models."""

    def run(self, shard_id: int) -> Manifest:
        """Take a shard to its commit."""
        while True:
            with suppress(_OtherSize):  # the GPU of a worker that began beside this one holds less
                return run_shard(self.begin(shard_id))
            self.close()
            self.open()

    def commit_shard(self, shard_id: int, files: Sequence[SpooledFile], **told: Any) -> Manifest:
        """As of `CommittedStep`; before its first, a GPU's worker looks what is recorded now."""
        is_first = self.device == "cuda" and self.batch_size and not self._has_committed
        if is_first and self._recorded_size() != self.batch_size:
            raise _OtherSize
        manifest = super().commit_shard(shard_id, files, **told)
        self._has_committed = True
        return manifest

    def _record(
        self, models: Mapping[str, Any], *, batch_size: int, attempt: Callable[[int], object]
    ) -> None:
        """Record the models, and set `batch_size`: as configured, or halved until a GPU holds it.

        The last bit of a result follows the size of its batch. So it is found before the first
        shard, is part of the record where it was halved, and counts for all later workers. One
        whose GPU holds less lowers it for all while no shard is committed, and is refused after.

        Args:
            models: As `record_models`.
            attempt: The work on a batch of so many rows of any content.

        Raises:
            OtherModelsError: as `record_models`.
        """
        self._configured_size = self.batch_size = batch_size
        if models["device"] != "cuda":
            return record_models(self.made, models)
        while True:
            self.batch_size = self._fitting(attempt)
            halved = {} if self.batch_size == batch_size else {_BATCH_SIZE: self.batch_size}
            try:
                return record_models(self.made, {**models, **halved})
            except OtherModelsError:
                if self._recorded_size() == self.batch_size:
                    raise
                # Another worker recorded its own in the meantime.

    def _recorded_size(self) -> int:
        return int(recorded_models(self.made).get(_BATCH_SIZE, self._configured_size))

    def _fitting(self, attempt: Callable[[int], object]) -> int:
        recorded = recorded_models(self.made)
        before = int(recorded.get(_BATCH_SIZE, self._configured_size))
        fitting = BatchSize(before, what=f"{self.name}: rows")
        try:
            fitting.run(attempt)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # What else a made-up batch ends with is said of the first real one that does.
        if recorded and fitting.size < before:
            if all(is_light(self, shard_id) for shard_id in self.made.shards()):
                lower = seal_tree({**recorded, _BATCH_SIZE: fitting.size})
                self.store.replace(_record_path(self.made), lower)
                return fitting.size
            raise OtherModelsError(
                f"{self.name}: earlier shards of this run were made {before} rows at once; the "
                f"memory of this GPU holds {fitting.size}, and the last bit of a result follows "
                "that number. Take a GPU with as much memory free, or give another output"
            )
        return fitting.size

    def _device(self) -> torch.device:
        device = prepare_torch(self.resources, threads=self.torch_threads)
        self.device = device.type
        return device

    def _recorded_dtype(self, name: str = "dtype") -> str | None:
        """What `auto` came to on the GPU that made the shards before; for `auto_is`."""
        return recorded_models(self.made).get(name) if self.device == "cuda" else None


def prepare_torch(resources: Resources, *, threads: int) -> torch.device:
    """Pick this worker's device and pin torch's threads, which change the last bit on a CPU.

    A worker with a GPU share runs on the one GPU that its process sees.

    Raises:
        DeviceError: torch sees none, and the configuration does not let it run on the CPU.
    """
    torch.set_num_threads(threads)
    if not resources.num_gpus:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not resources.may_use_cpu:
        raise DeviceError(
            f"{os.uname().nodename}: this worker was given GPU "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES') or '?'}, and torch {torch.__version__} sees "
            f"none (built for CUDA {torch.version.cuda}; the driver: {_driver()}). Install a torch "
            "that fits the driver, take the node out, or set engine.cpu_fallback to true"
        )
    return torch.device("cpu")


def _driver() -> str:
    try:
        told = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "none is loaded"
    return told.removeprefix("NVRM version:").strip()


def recorded_models(made: Committed) -> Mapping[str, Any]:
    """What `record_models` wrote first; empty before."""
    path = _record_path(made)
    return read_json(made.store, path) if made.store.exists(path) else {}


def _record_path(made: Committed) -> str:
    return f"{made.folder}/models.json"


def record_models(made: Committed, models: Mapping[str, Any]) -> None:
    """Record what a step's shards are made with, or check that it still is what it was.

    Args:
        models: Plain JSON; `device` is `cpu` or `cuda`.

    Weights that changed under the same name, or a worker with another device, would make a run
    whose shards differ; the first worker's record counts.

    Raises:
        OtherModelsError: naming each thing that differs.
    """
    store = made.store
    note_processor(store, made.folder, torch.device(models["device"]))
    path = _record_path(made)
    content = seal_tree(models)
    if store.create_exclusive(path, content):
        return
    before, now = read_json(store, path), unseal(content)
    differing = [
        f"{name}: was {before.get(name)}, is now {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise OtherModelsError(
            f"{made.step}: earlier shards of this run were made with other models ({path}): "
            f"{'; '.join(differing)}. Put the same weights and device back, or give another output"
        )


def free_models() -> None:
    """Return what dropped models held, on the GPU as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
