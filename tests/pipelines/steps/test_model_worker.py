"""Which device a worker with models computes on, in what, and how many rows its memory holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.run.manifest import Manifest, OtherModelsError
from pipelines.run.store import RunStore
from pipelines.steps.model_worker import DeviceError, ModelStep, prepare_torch
from pipelines.steps.step import Resources, ShardWork
from sd_core.model.precision import auto_is, model_dtype
from tests.pretend_gpu import pretend_gpu


def test_a_worker_with_a_gpu_that_torch_does_not_see_names_driver_and_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(DeviceError) as caught:
        prepare_torch(Resources(num_gpus=1.0, may_use_cpu=False), threads=1)
    told = str(caught.value)
    assert f"given GPU 3, and torch {torch.__version__} sees none" in told
    assert f"built for CUDA {torch.version.cuda}; the driver: " in told
    assert "engine.cpu_fallback" in told


def test_it_runs_on_the_cpu_where_it_may_or_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert prepare_torch(Resources(num_gpus=1.0), threads=1).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare_torch(Resources(), threads=1).type == "cpu"
    assert prepare_torch(Resources(num_gpus=1.0, may_use_cpu=False), threads=1).type == "cuda"


def test_auto_precision_asks_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_gpu():
        assert model_dtype("auto", "cuda") == torch.bfloat16
        emulated = lambda including_emulation=True: including_emulation  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulated)
        assert model_dtype("auto", "cuda") == torch.float32
        assert model_dtype("bf16", "cuda") == torch.bfloat16
        with auto_is("torch.bfloat16"):  # of a run that was begun before the GPU was asked
            assert model_dtype("auto", "cuda") == torch.bfloat16
            assert model_dtype("fp32", "cuda") == torch.float32
    assert model_dtype("auto", "cpu") == torch.float32


@dataclass(kw_only=True, eq=False)
class _Step(ModelStep):
    """Of whose rows a GPU's memory holds so many at once."""

    name = "encode"
    holds: int = 64
    device_type: str = "cuda"
    meanwhile: Callable[[], object] = lambda: None

    def open(self) -> None:
        self.device = self.device_type
        models = {"device": self.device_type, "autoencoder": "ab"}
        self._record(models, batch_size=32, attempt=self._attempt)

    def _attempt(self, batch_size: int) -> None:
        self.meanwhile()
        if batch_size > self.holds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def rows_in(self, shard_id: int) -> int:
        raise NotImplementedError

    def begin(self, shard_id: int) -> Any:
        return _Shard(self, shard_id)

    def close(self) -> None:
        pass


class _Shard(ShardWork[None, None]):
    def __init__(self, step: _Step, shard_id: int) -> None:
        super().__init__()
        self._step, self._shard_id = step, shard_id

    def read(self) -> Iterator[None]:
        yield from ()

    compute = write = lambda self, item: None

    def commit(self) -> Manifest:
        return self._step.commit_shard(self._shard_id, [], kept=self._step.batch_size)


def _open(folder: Path, **options: Any) -> _Step:
    step = _Step(RunStore(str(folder)), fingerprint="f", torch_threads=1, **options)
    step.open()
    return step


def test_the_first_worker_halves_its_batch_and_the_others_keep_to_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(folder: str, *, runs: bool = False, **options: Any) -> int:
        step = _open(tmp_path / folder, **options)
        if runs:
            step.run(0)
        return step.batch_size

    with pretend_gpu():
        assert opened("small", holds=9, runs=True) == 8
        told = "encode: rows: the memory does not hold 32 at once; 8 from here on"
        assert capsys.readouterr().out.count(told) == 1
        assert opened("small", holds=64) == 8, "the last bit follows it"
        with pytest.raises(
            OtherModelsError, match="8 rows at once; the memory of this GPU holds 4"
        ):
            opened("small", holds=4)
        assert opened("large", holds=64, runs=True) == 32
        with pytest.raises(OtherModelsError, match="32 rows at once; the memory of this GPU holds"):
            opened("large", holds=9)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            opened("none", holds=0)
    assert opened("cpu", holds=0, device_type="cpu") == 32, "nothing is tried there"


def test_workers_that_begin_at_once_agree_on_what_the_smallest_gpu_holds(tmp_path: Path) -> None:
    with pretend_gpu():
        first: list[_Step] = []

        def another() -> None:  # opens between a worker's look at the record and its own record
            if not first:
                first.append(_Step(RunStore(str(tmp_path)), fingerprint="f", torch_threads=1))
                first[0].holds = 17
                first[0].open()

        large = _open(tmp_path, meanwhile=another)
        assert (first[0].batch_size, large.batch_size) == (16, 16)
        small = _open(tmp_path, holds=9)
        assert small.batch_size == 8, "no shard is there yet"
        assert large.run(0).kept == 8, "what it made with 16 is made anew"
        assert small.run(1).kept == 8
        with pytest.raises(
            OtherModelsError, match="8 rows at once; the memory of this GPU holds 4"
        ):
            _open(tmp_path, holds=4)
