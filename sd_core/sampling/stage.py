"""A part of the way from noise to image, where one model leaves the rest to another.

Source: Podell et al. 2023, section 2.5, arXiv:2307.01952 (a refiner for the last noise); the parts
are cut as diffusers' `denoising_end` and `denoising_start` cut them.
"""

from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Stage:
    """From which share of the noise's timesteps to which, 0 being noise alone and 1 the image.

    Raises:
        ValueError: not 0 <= begin < end <= 1.
    """

    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(f"a stage from {self.begin} to {self.end}; allowed: within 0 to 1")

    def timesteps(self, scheduler: Any) -> Tensor:
        """Those of its part of a scheduler whose steps are set; it is told where it begins."""
        found: Tensor = scheduler.timesteps
        if self.begin > 0:
            count = int((found < _cut(scheduler, self.begin)).sum())
            if getattr(scheduler, "order", 1) == 2 and count % 2 == 0:
                count += 1  # each timestep but the first is there twice: none is torn apart
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(len(found) - count)
            found = found[len(found) - count :]
        if self.end < 1:
            found = found[: int((found >= _cut(scheduler, self.end)).sum())]
        return found


WHOLE: Final = Stage()
"""All of the way."""


def _cut(scheduler: Any, share: float) -> int:
    count = int(scheduler.config.num_train_timesteps)
    return round(count - share * count)
