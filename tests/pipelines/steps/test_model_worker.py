"""Which device a worker with models computes on."""

import pytest
import torch

from pipelines.steps.model_worker import DeviceError, prepare_torch
from pipelines.steps.step import Resources


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
