"""Where weights and batches lie in memory, which the last bit of a product follows.

A matrix product on a CPU takes other paths for operands that do not begin at a multiple of a cache
line, and on some processors (seen on AMD EPYC) another path rounds otherwise. A tensor that is
mapped from a file begins wherever the file's header ends, and one made of a numpy array wherever
numpy put it. So what a model computes with is brought to memory of torch's own, here and nowhere
else: the same weights give the same bytes, whatever file they came in.
"""

from typing import Final, TypeVar

import torch
from torch import Tensor, nn

ALIGNMENT_BYTES: Final = 64
"""What torch's own CPU memory begins at a multiple of (c10's `gAlignment`)."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def place_module(
    module: ModuleT, *, device: str | torch.device, dtype: torch.dtype | None = None
) -> ModuleT:
    """Bring a module, in place, to a device and dtype, and every tensor to torch's own memory.

    Every loader of weights ends here. On a CPU each parameter and buffer is copied once, one at a
    time (about 0.3 s a GB); tied ones stay tied, and no file needs to stay as it was.
    """
    nn.Module.to(module, device=device, dtype=dtype)  # diffusers' own warns
    if torch.device(device).type == "cpu":
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()
    return module


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy at an aligned address where it is a CPU's and is at another.

    What is handed to a model goes through here: a slice of a batch, a numpy array's memory.
    """
    if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT_BYTES:
        return tensor.clone()
    return tensor


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on a device; the CPU does not wait until a GPU has it."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu" and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
