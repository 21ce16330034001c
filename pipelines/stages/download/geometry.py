"""The square that is kept of an image, and how an EXIF orientation turns it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square, in pixels; fractions are allowed after scaled decoding."""

    left: float
    top: float
    side: float

    def scaled(self, denominator: int) -> "Window":
        """The same square in an image of 1/denominator the size."""
        return Window(
            left=self.left / denominator,
            top=self.top / denominator,
            side=self.side / denominator,
        )


def centre_square(width: int, height: int) -> Window:
    """The largest square in the middle; an odd remainder leaves the extra pixel right or below."""
    side = min(width, height)
    return Window(left=(width - side) // 2, top=(height - side) // 2, side=side)


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns [height, width, ...] as EXIF orientation 1 to 8 asks; other values change nothing."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
