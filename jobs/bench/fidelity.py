"""How near our crops are to those of a full decode."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.steps.download.decode import crop_pixels
from pipelines.steps.download.header import read_header
from pipelines.steps.download.image_config import ImageConfig


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """PSNR in dB of our pixels, before they are encoded, against those of a full decode of the
    same square with the same interpolation; None where no image was decoded at a smaller scale."""

    num_images: int
    num_scaled: int
    """Images that we decode at 1/2, 1/4 or 1/8; the others are equal by construction."""
    mean_db: float | None
    min_db: float | None


def measure_fidelity(files: Iterable[Path], config: ImageConfig) -> Fidelity:
    """Decode each file both ways."""
    found = []
    num_images = 0
    for file in files:
        data = file.read_bytes()
        num_images += 1
        header = read_header(data)
        if min(header.width, header.height) < 2 * config.size:
            continue
        ours = crop_pixels(data, config).pixels
        full = crop_pixels(data, config, scaled=False).pixels
        found.append(float(cv2.PSNR(ours, full)))
    return Fidelity(
        num_images=num_images,
        num_scaled=len(found),
        mean_db=float(np.mean(found)) if found else None,
        min_db=min(found, default=None),
    )
