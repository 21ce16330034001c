"""Which worker of a training this is."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which worker this is, and on what device."""

    rank: int
    world_size: int
    device: torch.device
