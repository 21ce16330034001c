"""Number formats of models on each device, and random weights that repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
"""`auto` is bf16 on a GPU that computes in it (Ampere and later), and fp32 on others and on a CPU;
fp16 is not offered (autoencoders overflow in it)."""
_RECORDED: Final = ContextVar[str | None]("recorded", default=None)


def model_dtype(precision: Precision, device: str | torch.device) -> torch.dtype:
    """What a model's weights are on a device, which is asked where the precision is `auto`."""
    if precision == "auto" and (recorded := _RECORDED.get()) is not None:
        return torch.bfloat16 if recorded == str(torch.bfloat16) else torch.float32
    if precision == "auto":
        precision = "bf16" if _has_bf16(torch.device(device)) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


@contextmanager
def auto_is(recorded: str | None) -> Iterator[None]:
    """What `auto` is inside: as recorded by who loaded the models before; None: as the GPU has it.

    Args:
        recorded: `str` of the dtype.
    """
    before = _RECORDED.set(recorded)
    try:
        yield
    finally:
        _RECORDED.reset(before)


def _has_bf16(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    # Not in emulation, which older GPUs offer too, and which is slower there than float32.
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random weights on the CPU from `seed`, leaving the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
