"""The window that is kept of an image, and how it is resized and turned upright."""

from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from pipelines.steps.download.image_config import Enlarge
from pipelines.steps.download.lanczos import enlarge_image
from sd_core.model.buckets import Bucket

_STRIP_REDUCTIONS = (8, 4, 2)
_BLEND_BELOW = 1.6  # shrinking by less, a once-reduced image is resampled, not averaged again


@dataclass(frozen=True, kw_only=True)
class CropWindow:
    """A window, in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    def covers(self, size: Bucket, *, times: int) -> bool:
        """Whether it holds at least `times` pixels a side for each of the stored picture's."""
        return self.width >= times * size.width and self.height >= times * size.height

    def reduced(self, denominator: int) -> "CropWindow":
        """The same window in an image of 1/denominator the size; exact on aligned windows."""
        return CropWindow(
            left=self.left // denominator,
            top=self.top // denominator,
            width=self.width // denominator,
            height=self.height // denominator,
        )


def centre_window(width: int, height: int, size: Bucket, *, align: int = 1) -> CropWindow:
    """The largest window of the stored picture's aspect in the middle whose bounds are multiples
    of `align` pixels; the side that is cut is the nearest such multiple.

    Its left and top are the multiples nearest to the middle, the smaller one of two as near.
    """
    wide, high = width // align, height // align
    if wide * size.height > high * size.width:
        wide = max(1, (2 * high * size.width + size.height) // (2 * size.height))
    else:
        high = max(1, (2 * wide * size.height + size.width) // (2 * size.width))
    found = wide * align, high * align
    left, top = (
        (room + align - 1) // (2 * align) * align for room in (width - found[0], height - found[1])
    )
    return CropWindow(left=left, top=top, width=found[0], height=found[1])


def strip_reduction(window: CropWindow, size: Bucket) -> int:
    """By how much strips of a window may be averaged before a picture is made of them: the mean
    that follows still takes two of their pixels for one of the picture's."""
    return next((k for k in _STRIP_REDUCTIONS if window.covers(size, times=2 * k)), 1)


def resize_window(
    image: NDArray[np.uint8],
    window: CropWindow,
    *,
    size: Bucket,
    enlarge: Enlarge = "lanczos",
    reduced: bool = False,
) -> NDArray[np.uint8]:
    """Cuts the window and resizes it; area to shrink, as img2dataset does.

    Args:
        image: [height, width, 3] RGB or [height, width, 1] grey, uint8.
        window: what to read.
        size: of the result.
        enlarge: how a smaller window is resampled.
        reduced: the image was itself averaged from one 2, 4 or 8 times as large, so that
            another mean would blur twice: on photographs at 1,024 to 1,600 px the mean of a linear
            and a cubic resampling comes 3 dB nearer to the area mean of the large one.

    Returns:
        [size.height, size.width, 3], uint8; grey is repeated in its three channels.
    """
    bottom, right = window.top + window.height, window.left + window.width
    cut = image[window.top : bottom, window.left : right]
    target = (size.width, size.height)
    result: MatLike
    if (window.width, window.height) == target:
        result = cut
    elif not window.covers(size, times=1) and enlarge == "lanczos":
        result = enlarge_image(cut, size=size)
    elif not window.covers(size, times=1):
        result = cv2.resize(cut, target, interpolation=cv2.INTER_LINEAR)
    elif reduced and window.width < _BLEND_BELOW * size.width:
        linear = cv2.resize(cut, target, interpolation=cv2.INTER_LINEAR)
        cubic = cv2.resize(cut, target, interpolation=cv2.INTER_CUBIC)
        result = cv2.addWeighted(linear, 0.5, cubic, 0.5, 0.0)
    else:
        result = cv2.resize(cut, target, interpolation=cv2.INTER_AREA)
    if result.size == size.width * size.height:
        result = cv2.cvtColor(result, cv2.COLOR_GRAY2RGB)
    return np.asarray(result, np.uint8)


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns [height, width, 3] as EXIF orientation 1 to 8 asks."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
