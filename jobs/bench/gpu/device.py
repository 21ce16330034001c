"""The device itself: the product of matrices that limits are computed by, and its copies."""

from collections.abc import Iterator
from functools import partial

import torch

from jobs.bench.gpu.item import Figure, Place
from sd_core.model.precision import model_dtype

_COPIED_BYTES = 1 << 28


def product(place: Place) -> Iterator[Figure]:
    """Of random matrices: on ones or zeros a GPU draws less power and reads 12% high."""
    side = 256 if place.is_tiny else 8192
    dtype = model_dtype("auto", place.device)
    one, other = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    seconds = place.seconds(lambda: torch.mm(one, other, out=out), repeats=20)
    name = f"product of {side}x{side} in {str(dtype).removeprefix('torch.')}"
    yield Figure(name=name, value=2 * side**3 / seconds / 1e12, unit="TFLOP/s")


def copies(place: Place) -> Iterator[Figure]:
    """Between pageable or pinned memory and the device, and within it."""
    count = 1 << 16 if place.is_tiny else _COPIED_BYTES
    there = torch.zeros(count, dtype=torch.uint8, device=place.device)
    again = torch.zeros_like(there)
    here = torch.zeros(count, dtype=torch.uint8)
    kinds = {"pageable": here}
    if place.device.type == "cuda":
        kinds["pinned"] = here.pin_memory()
    for kind, memory in kinds.items():
        to = place.seconds(partial(there.copy_, memory, non_blocking=True))
        back = place.seconds(partial(memory.copy_, there, non_blocking=True))
        yield Figure(name=f"{kind} to the device", value=count / to / 1e9, unit="GB/s")
        yield Figure(name=f"the device to {kind}", value=count / back / 1e9, unit="GB/s")
    within = place.seconds(lambda: again.copy_(there))
    yield Figure(name="within the device", value=2 * count / within / 1e9, unit="GB/s")
