"""What one item of the measurement is, and what it finds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sd_core.training.flops import count_flops


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One thing that was found.

    Attributes:
        value: None where it only says that something held.
        limit: Of the value, by the device's product of matrices and the work's operations.
        peak_bytes: Of the device's memory while it was measured; None on a CPU.
    """

    name: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    peak_bytes: int | None = None

    @property
    def share(self) -> float | None:
        """Of the limit."""
        return self.value / self.limit if self.value is not None and self.limit else None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the items work, and with what.

    Attributes:
        is_tiny: The presets, a few rows; else the sizes of Stable Diffusion 1.5 and CLIP L/14 with
            random weights.
        peak_flops: What `product` found; None before.
    """

    device: torch.device
    is_tiny: bool
    peak_flops: float | None = None

    @property
    def side_px(self) -> int:
        return 64 if self.is_tiny else 512

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], *, repeats: int = 3) -> float:
        """Of the fastest of several times, after a first that warms up."""
        work()
        best = float("inf")
        for _ in range(1 if self.is_tiny else repeats):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - started)
        return best

    def rate(
        self,
        name: str,
        work: Callable[[], object],
        *,
        rows: int,
        flops: float | None = None,
        repeats: int = 3,
        unit: str = "images/s",
    ) -> Figure:
        """Rows a second of some work.

        Args:
            flops: Operations of one row, by which its limit is computed.
        """
        self.forget_peak()
        per_second = rows / self.seconds(work, repeats=repeats)
        return self.figure(name, per_second, flops=flops, unit=unit)

    def figure(self, name: str, per_second: float, *, flops: float | None, unit: str) -> Figure:
        """A rate beside its limit, with the peak of memory since `forget_peak`."""
        limit = self.peak_flops / flops if self.peak_flops and flops else None
        return Figure(
            name=name, value=per_second, unit=unit, limit=limit, peak_bytes=self.peak_bytes()
        )

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        on_gpu = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if on_gpu else None


def held(name: str, is_true: bool) -> Figure:
    """That something held.

    Raises:
        AssertionError: it did not.
    """
    if not is_true:
        raise AssertionError(f"{name}: it did not hold")
    return Figure(name=name)


def flops_of(work: Callable[[], Any]) -> float:
    """Operations of some work, which is done once."""
    return float(count_flops(work))
