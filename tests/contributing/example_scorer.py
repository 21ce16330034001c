"""How colourful an image is: 0 for greys, above 80 for very colourful ones.

Source: Hasler & Süsstrunk 2003, "Measuring colourfulness in natural images".
"""

from collections.abc import Mapping
from typing import Self

import pyarrow as pa
import torch

from pipelines.steps.score.scorer import Batch, Scorer, ScorerConfig, Values
from sd_core.model.clip import Clip


class Colourfulness(Scorer):
    """Reads the pixels; needs no weights and no options."""

    columns = (pa.field("colourfulness", pa.float32()),)

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls()

    def score(self, batch: Batch) -> Mapping[str, Values]:
        red, green, blue = batch.pixels.float().flatten(2).unbind(dim=1)  # each (B, pixels)
        red_green, yellow_blue = red - green, (red + green) / 2 - blue
        spread = torch.hypot(red_green.std(dim=1), yellow_blue.std(dim=1))
        shift = torch.hypot(red_green.mean(dim=1), yellow_blue.mean(dim=1))
        return {"colourfulness": (spread + 0.3 * shift).cpu().numpy()}
