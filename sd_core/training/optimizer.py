"""AdamW, its learning rate at each step, its state as named tensors; and the moving average."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sd_core.training.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that ask for gradients."""
    parameters = [value for value in module.parameters() if value.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate_at(step: int, config: OptimizerConfig, *, steps: int) -> float:
    """The learning rate of `step` (from 0) of a training of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """AdamW's state by parameter: `<parameter>/exp_avg`, `/exp_avg_sq` and `/step`."""
    names = {id(value): name for name, value in module.named_parameters()}
    return {
        f"{names[id(parameter)]}/{field}": value.detach()
        for parameter, state in optimizer.state.items()
        for field, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put saved state back, in the memory layout that the parameters have now.

    A fused AdamW goes through weights and moments by their places in memory: where the layouts
    differ (`channels_last`), it takes the moments of other elements.

    Raises:
        KeyError: a moment is missing, or of another shape. A parameter that never had a gradient
            has no state at all.
    """
    for name, parameter in module.named_parameters():
        if f"{name}/step" not in tensors:
            continue
        state: dict[str, Any] = {}
        for field in ("exp_avg", "exp_avg_sq"):
            value = tensors[f"{name}/{field}"]
            if value.shape != parameter.shape:
                raise KeyError(f"{name}/{field} of shape {tuple(value.shape)}")
            state[field] = torch.empty_like(parameter).copy_(value)
        # A fused AdamW keeps its count beside the weights.
        state["step"] = tensors[f"{name}/step"].to(parameter.device).clone()
        optimizer.state[parameter] = state


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
