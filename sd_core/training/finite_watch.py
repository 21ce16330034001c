"""Finds losses and gradients that are not finite, without waiting for a GPU."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd_core.errors import FoundryError


class NonFiniteLossError(FoundryError):
    """A loss or gradient became infinite or NaN; names the step and the rows."""


@dataclass(frozen=True)
class _Asked:
    """Values on their way to the CPU, and what is to be said of those that are not finite."""

    values: Tensor
    copied: Any
    """An event of the GPU's; None of what was on the CPU."""
    fault: Callable[[list[float]], str]

    def is_here(self) -> bool:
        return self.copied is None or bool(self.copied.query())


class FiniteWatch:
    """Looks at what it is told of in order: on a CPU at once, on a GPU once it has come over.

    So a GPU's weights may be a step past the fault when it is found; `settle` before they are
    stored or shown.
    """

    def __init__(self) -> None:
        self._asked: deque[_Asked] = deque()

    def losses(self, losses: Tensor, keys: Sequence[str], *, step: int) -> None:
        """Watch each row's loss, (B,).

        Raises:
            NonFiniteLossError: these, or what was told before, are not finite.
        """

        def fault(values: list[float]) -> str:
            bad = [k for k, value in zip(keys, values, strict=True) if not math.isfinite(value)]
            return (
                f"step {step}: the loss of {len(bad)} row(s) is not finite: {', '.join(bad)}; "
                "lower the learning rate, or look at these rows"
            )

        self._ask(losses.detach(), fault)

    def gradient(self, norm: Tensor, keys: Sequence[str], *, name: str, step: int) -> None:
        """Watch the norm of a part's gradient, a scalar, over rows whose losses are told before.

        Raises:
            NonFiniteLossError: as `losses`.
        """

        def fault(values: list[float]) -> str:
            return (
                f"step {step}: the gradient of {name} is {values[0]}, and no loss of this worker; "
                f"the rows of its batch: {', '.join(keys)}"
            )

        self._ask(norm.detach().reshape(1), fault)

    def settle(self) -> None:
        """Wait for all that was told of; raises as `losses`."""
        for asked in self._asked:
            if asked.copied is not None:
                asked.copied.synchronize()
        self.look()

    def look(self) -> None:
        """Look at what has come over; raises as `losses`."""
        while self._asked and self._asked[0].is_here():
            asked = self._asked.popleft()
            values = asked.values.tolist()
            if not all(map(math.isfinite, values)):
                raise NonFiniteLossError(asked.fault(values))

    def _ask(self, values: Tensor, fault: Callable[[list[float]], str]) -> None:
        cuda: Any = torch.cuda
        copied = None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            values, copied = host, cuda.Event()
            copied.record()
        self._asked.append(_Asked(values, copied, fault))
        self.look()
