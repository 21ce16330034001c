"""An exponential moving average of a model's weights."""

import torch
from torch import Tensor, nn


class Ema:
    """Keeps float32 averages of a module's parameters.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that a short training
    is not an average of its random start.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights: dict[str, Tensor] = {
            name: value.detach().float().clone() for name, value in module.named_parameters()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the averages towards the module's present weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        fresh = [value.detach().float() for value in module.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), fresh, 1 - decay)

    def load(self, weights: dict[str, Tensor], *, num_updates: int) -> None:
        """Go on from saved averages; raises KeyError where one is missing."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
        self.num_updates = num_updates
