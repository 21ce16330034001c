"""Number formats of models on each device, and random weights that repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
"""`auto` is bf16 on a GPU and fp32 on a CPU; fp16 is not offered (autoencoders overflow in it)."""


def model_dtype(precision: Precision, device: str | torch.device) -> torch.dtype:
    if precision == "auto":
        precision = "bf16" if torch.device(device).type == "cuda" else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random weights on the CPU from `seed`, leaving the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
