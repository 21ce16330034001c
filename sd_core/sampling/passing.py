"""A sampler's step on a GPU for which the CPU does not wait."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sd_core.model.memory import to_device


def without_waiting(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, what diffusers' schedulers bring to a GPU goes by way of pinned memory.

    In their steps they make small tensors on the sample's device (the noise that they draw, the
    coefficients of UniPC), for each of which the CPU would wait until the GPU has done all that it
    was given before, and only then prepare more. On a CPU nothing is changed.
    """
    return _Passing() if device.type == "cuda" else nullcontext()


class _Passing(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.tensor and _is_gpu(device := options.pop("device", None)):
            return to_device(torch.tensor(*args, **options), device)
        if func is Tensor.to and not _is_gpu(args[0]):
            if any(_is_gpu(one) for one in (*args[1:], *options.values())):
                return func(args[0].pin_memory(), *args[1:], **{**options, "non_blocking": True})
        elif func is Tensor.__getitem__ and _is_gpu(args[0]) and isinstance(args[1], list):
            return args[0][to_device(torch.tensor(args[1]), args[0].device)]
        if func is torch.linalg.solve:  # which reads back whether it could
            return torch.linalg.solve_ex(*args, **options).result
        return func(*args, **(kwargs or {}))


def _is_gpu(target: Any) -> bool:
    """Whether a tensor's, a name or a device is a GPU."""
    if isinstance(target, Tensor):
        return target.device.type == "cuda"
    if isinstance(target, str):
        return target.startswith("cuda")
    return isinstance(target, torch.device) and target.type == "cuda"
