"""The pretend device says what a real one would: what is waited for, and what cannot be mixed."""

import threading

import pytest
import torch
from torch import nn

from tests.pretend_gpu import pretend_gpu


@torch.inference_mode()
def test_what_waits_for_the_device_is_seen_and_what_does_not_passes() -> None:
    with pretend_gpu() as gpu:
        layer = nn.Conv2d(3, 4, 3).to("cuda")
        images = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))
        assert images.numpy().any(), "the CPU's own tensors are real"
        with gpu.watch() as passing:
            made = layer(images.pin_memory().to("cuda", non_blocking=True))
            home = torch.empty(made.shape, pin_memory=True)
            home.copy_(made, non_blocking=True)
            assert float(images[0, 0, 0, 0]), "asking a tensor of the CPU is free"
        assert not passing.waits, passing
        assert [event.kind for event in passing.events] == ["to_device", "to_host"]
        assert home.numpy().shape == (2, 4, 6, 6)
        asking = {
            "bool": lambda: bool(made.isfinite().all()),
            "item": lambda: made.sum().item(),
            "tolist": lambda: made.flatten().tolist(),
            "cpu": lambda: made.cpu(),
            "from pageable memory": lambda: images.to("cuda", non_blocking=True),
            "nonzero": lambda: made.nonzero(),
            "mask": lambda: made[made.flatten(1).isfinite().all(dim=1)],
            "synchronize": torch.cuda.synchronize,
        }
        for name, ask in asking.items():
            with gpu.watch() as seen:
                ask()
            assert len(seen.waits) == 1, f"{name}: {seen}"
        with pytest.raises(RuntimeError, match="same device"):
            made + made.cpu()
    assert not torch.cuda.is_available()


def test_other_threads_see_the_device_and_are_watched() -> None:
    found: list[bool] = []
    with pretend_gpu() as gpu, gpu.watch() as seen:
        thread = threading.Thread(
            target=lambda: found.append(bool(torch.ones(3).to("cuda").all())), name="worker"
        )
        thread.start()
        thread.join()
    assert found == [True]
    assert [event.kind for event in seen.waits] == ["to_device", "value"]
    assert all(event.where.startswith("tests/test_pretend_gpu.py:") for event in seen.events)
