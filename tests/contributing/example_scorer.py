"""How colourful an image is: 0 for greys, above 80 for very colourful ones.

Source: Hasler & Süsstrunk 2003, "Measuring colourfulness in natural images".
"""

from collections.abc import Mapping
from typing import Self

import pyarrow as pa
import torch

from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Values
from sd_core.model.clip import Clip


class Colourfulness(Scorer):
    """Reads the pixels; needs no weights and no options."""

    columns = (pa.field("colourfulness", pa.float32()),)

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls()

    def score(self, batch: ScoreBatch) -> Mapping[str, Values]:
        red, green, blue = batch.pixels.float().flatten(2).unbind(dim=1)  # each (B, pixels)
        red_green, yellow_blue = red - green, (red + green) / 2 - blue
        one_var, one_mean = torch.var_mean(red_green, dim=1, correction=0)
        two_var, two_mean = torch.var_mean(yellow_blue, dim=1, correction=0)
        spread, shift = (one_var + two_var).sqrt(), torch.hypot(one_mean, two_mean)
        return {"colourfulness": (spread + 0.3 * shift).cpu().numpy()}
