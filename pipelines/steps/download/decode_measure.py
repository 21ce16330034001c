"""What our decode costs beside img2dataset's resizer, and how near it is to a full decode."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.steps.download.decode import crop_pixels, decode_crop
from pipelines.steps.download.image_config import ImageConfig


@dataclass(frozen=True, kw_only=True)
class DecodeMeasure:
    """CPU milliseconds an image (mean over the images of each one's best), and fidelity."""

    ours_cpu_ms: float
    img2dataset_cpu_ms: float
    psnr_mean_db: float
    psnr_min_db: float
    """Our pixels before encoding, against those of a full decode of the same square."""

    @property
    def speedup(self) -> float:
        """img2dataset's time over ours."""
        return self.img2dataset_cpu_ms / self.ours_cpu_ms


def measure_decode(
    images: Sequence[bytes], config: ImageConfig, *, repeats: int = 5
) -> DecodeMeasure:
    """Runs both on every image in turn, in this process, so that a busy machine troubles both.

    Args:
        images: JPEG files.
        config: our configuration; img2dataset gets the same size, format and quality.
        repeats: times each image is decoded by each; the best counts.
    """
    from img2dataset.resizer import Resizer  # heavy, and only wanted here

    resizer = Resizer(
        config.size,
        "center_crop",
        resize_only_if_bigger=False,
        encode_format=config.format,
        encode_quality=config.quality,
    )
    cv2.setNumThreads(1)
    ours, theirs = [], []
    for data in images:
        pairs = [
            (_cpu_s(decode_crop, data, config), _cpu_s(resizer, io.BytesIO(data)))
            for _ in range(repeats)
        ]
        ours.append(min(pair[0] for pair in pairs))
        theirs.append(min(pair[1] for pair in pairs))
    psnr = [scaled_decode_psnr(data, config) for data in images]
    return DecodeMeasure(
        ours_cpu_ms=1000 * float(np.mean(ours)),
        img2dataset_cpu_ms=1000 * float(np.mean(theirs)),
        psnr_mean_db=float(np.mean(psnr)),
        psnr_min_db=min(psnr),
    )


def scaled_decode_psnr(data: bytes, config: ImageConfig) -> float:
    """PSNR in dB, at most 100, of the square with scaled decoding against without."""
    scaled = crop_pixels(data, config).pixels
    full = crop_pixels(data, config, scaled=False).pixels
    return min(100.0, float(cv2.PSNR(scaled, full)))


def _cpu_s(work: Callable[..., object], *arguments: object) -> float:
    begin = time.process_time()
    work(*arguments)
    return time.process_time() - begin
