"""Batches to a GPU and results back, beside what it computes; on a CPU nothing is copied.

What crosses lies in pinned memory, which torch keeps and gives out again when a copy is through.
Batches go on a stream of their own. What comes back is waited for by whoever reads it, so that the
thread that starts the GPU's work never is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_cuda: Any = torch.cuda  # its streams carry no types


@dataclass(frozen=True)
class Sent:
    """Tensors on their way to a device."""

    tensors: tuple[Tensor, ...]
    event: Any = None

    def take(self) -> tuple[Tensor, ...]:
        """For the thread that computes: what it starts from now on finds them there."""
        if self.event is not None:
            stream = _cuda.current_stream()
            stream.wait_event(self.event)
            for tensor in self.tensors:
                tensor.record_stream(stream)
        return self.tensors


@dataclass(frozen=True)
class Returning:
    """Tensors on their way to the CPU."""

    tensors: tuple[Tensor, ...]
    event: Any = None

    def take(self) -> tuple[Tensor, ...]:
        """Wait until they are there."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors


class Transfers:
    """Between the CPU and one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = _cuda.Stream(device) if device.type == "cuda" else None

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory on the CPU for a batch that will be sent."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._stream is not None)

    def send(self, *tensors: Tensor) -> Sent:
        """Begin to copy tensors of the CPU to the device."""
        if self._stream is None:
            return Sent(tensors)
        pinned = [one if one.is_pinned() else one.pin_memory() for one in tensors]
        with _cuda.stream(self._stream):
            there = tuple(one.to(self.device, non_blocking=True) for one in pinned)
            event = _cuda.Event()
            event.record()
        return Sent(there, event)

    def fetch(self, tensors: Sequence[Tensor]) -> Returning:
        """Begin to copy tensors of the device to the CPU, after all work that was started."""
        if self._stream is None:
            return Returning(tuple(tensors))
        here = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in tensors]
        for target, tensor in zip(here, tensors, strict=True):
            target.copy_(tensor, non_blocking=True)
        event = _cuda.Event()
        event.record()
        return Returning(tuple(here), event)
