"""The square that is kept of an image, and how it is resized and turned upright."""

from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from pipelines.steps.download.image_config import Enlarge
from pipelines.steps.download.lanczos import enlarge_square

_STRIP_REDUCTIONS = (8, 4, 2)
_BLEND_BELOW = 1.6  # shrinking by less, a once-reduced image is resampled, not averaged again


@dataclass(frozen=True, kw_only=True)
class Square:
    """A square window, in whole pixels."""

    left: int
    top: int
    side: int

    def reduced(self, denominator: int) -> "Square":
        """The same square in an image of 1/denominator the size; exact on aligned squares."""
        return Square(
            left=self.left // denominator,
            top=self.top // denominator,
            side=self.side // denominator,
        )


def centre_square(width: int, height: int, *, align: int = 1) -> Square:
    """The largest square in the middle whose bounds are multiples of `align` pixels.

    Its left and top are the multiples nearest to the middle, the smaller one of two as near.
    """
    side = min(width, height) // align * align
    left, top = (
        (room + align - 1) // (2 * align) * align for room in (width - side, height - side)
    )
    return Square(left=left, top=top, side=side)


def strip_reduction(side: int, size: int) -> int:
    """By how much strips of a square of `side` pixels may be averaged before it is made of them:
    the mean that follows still takes two of their pixels for one of `size`."""
    return next((k for k in _STRIP_REDUCTIONS if side >= 2 * k * size), 1)


def resize_square(
    image: NDArray[np.uint8],
    square: Square,
    *,
    size: int,
    enlarge: Enlarge = "lanczos",
    reduced: bool = False,
) -> NDArray[np.uint8]:
    """Cuts the square and resizes it; area to shrink, as img2dataset does.

    Args:
        image: [height, width, 3] RGB or [height, width, 1] grey, uint8.
        square: the window to read.
        size: side of the result, in pixels.
        enlarge: how a smaller square is resampled.
        reduced: the image was itself averaged from one 2, 4 or 8 times as large, so that
            another mean would blur twice: on photographs at 1,024 to 1,600 px the mean of a linear
            and a cubic resampling comes 3 dB nearer to the area mean of the large one.

    Returns:
        [size, size, 3], uint8; grey is repeated in its three channels.
    """
    window = image[square.top : square.top + square.side, square.left : square.left + square.side]
    target = (size, size)
    result: MatLike
    if square.side == size:
        result = window
    elif square.side < size and enlarge == "lanczos":
        result = enlarge_square(window, size=size)
    elif square.side < size:
        result = cv2.resize(window, target, interpolation=cv2.INTER_LINEAR)
    elif reduced and square.side < _BLEND_BELOW * size:
        linear = cv2.resize(window, target, interpolation=cv2.INTER_LINEAR)
        cubic = cv2.resize(window, target, interpolation=cv2.INTER_CUBIC)
        result = cv2.addWeighted(linear, 0.5, cubic, 0.5, 0.0)
    else:
        result = cv2.resize(window, target, interpolation=cv2.INTER_AREA)
    if result.size == size * size:
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
