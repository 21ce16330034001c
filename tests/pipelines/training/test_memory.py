"""A training that the memory does not hold says which settings need less of it."""

import pytest
import torch

from pipelines.training.loop import memory_told
from sd_core.errors import EnvironmentFault, ExitCode
from sd_core.training.config import LoopConfig


def test_too_little_memory_names_the_settings_in_one_line() -> None:
    loop = LoopConfig(steps=1, batch_size=8, gradient_accumulation=2)
    with pytest.raises(EnvironmentFault) as caught, memory_told(loop):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    told = str(caught.value)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "loop.batch_size 8 in loop.gradient_accumulation 2 parts" in told
    assert "loop.gradient_checkpointing" in told
    assert "\n" not in told
    with pytest.raises(RuntimeError, match="device-side assert"), memory_told(loop):
        raise RuntimeError("CUDA error: device-side assert triggered")
