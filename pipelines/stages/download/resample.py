"""Separable resizing of a square window: Lanczos up, area down, in exact integer arithmetic.

The kernels are OpenCV's (`INTER_LANCZOS4`, `INTER_AREA`), which img2dataset uses by default. Both
passes are banded matrix products. Weights are whole multiples of 1/2048 and the rows between the
passes whole multiples of 1/8, so every partial sum is an integer below 2^24 times a power of two:
float32 holds it exactly, and any BLAS, in any order of summation, gives the same bytes.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.stages.download.geometry import Window

_WEIGHT_UNIT = 2048
_ROW_UNIT = 8
_BLOCK = 32  # output rows per matrix product
_LANCZOS_TAPS = 8


@dataclass(frozen=True)
class _Band:
    """Output samples `first_out` to `last_out` need input samples `first_in` to `last_in`."""

    first_out: int
    last_out: int
    first_in: int
    last_in: int
    weights: NDArray[np.float32]  # [outputs, inputs], whole numbers of 1/2048


def resize_square(
    image: NDArray[np.uint8], *, window: Window, size: int, edge_order: int = 2
) -> NDArray[np.uint8]:
    """Resizes a square window of an image to `size` x `size`.

    Args:
        image: [height, width, channels] or [height, width], uint8.
        window: the square to read, in pixels of `image`; its bounds may be fractions.
        size: side of the result.
        edge_order: when shrinking, how many neighbours stand for what happens inside a pixel
            that a boundary cuts: 2 takes it as constant (plain area averaging); 4 suits an image
            that was itself averaged from a larger one.

    Returns:
        [size, size, 3], uint8; a grey image is repeated in its three channels.
    """
    columns = _bands(image.shape[1], window.left, window.side, size, edge_order)
    rows = _bands(image.shape[0], window.top, window.side, size, edge_order)
    left, right = columns[0].first_in, columns[-1].last_in
    top, bottom = rows[0].first_in, rows[-1].last_in
    planes = cv2.split(image[top:bottom, left:right])
    source = np.empty((len(planes), bottom - top, right - left), np.float32)
    for target, plane in zip(source, planes, strict=True):
        target[...] = plane

    between = np.empty((len(planes), size, right - left), np.float32)
    for band in rows:
        np.matmul(
            band.weights * np.float32(_ROW_UNIT / _WEIGHT_UNIT),
            source[:, band.first_in - top : band.last_in - top],
            out=between[:, band.first_out : band.last_out],
        )
    np.rint(between, out=between)
    between = between.reshape(len(planes) * size, right - left)

    result = np.empty((len(planes) * size, size), np.float32)
    for band in columns:
        np.matmul(
            between[:, band.first_in - left : band.last_in - left],
            (band.weights * np.float32(1 / (_ROW_UNIT * _WEIGHT_UNIT))).T,
            out=result[:, band.first_out : band.last_out],
        )
    pixels = cv2.add(result, 0.0, dtype=cv2.CV_8U).reshape(len(planes), size, size)
    return np.asarray(cv2.merge(list(pixels) if len(pixels) == 3 else [pixels[0]] * 3), np.uint8)


@lru_cache(maxsize=64)
def _bands(
    num_inputs: int, start: float, length: float, size: int, edge_order: int
) -> tuple[_Band, ...]:
    if length <= size:
        first, weights = _lanczos_weights(start, length, size)
    else:
        first, weights = _area_weights(num_inputs, start, length, size, edge_order)
    weights = np.rint(weights / weights.sum(axis=1, keepdims=True) * _WEIGHT_UNIT)
    largest = weights.argmax(axis=1)
    weights[np.arange(size), largest] += _WEIGHT_UNIT - weights.sum(axis=1)

    taps = weights.shape[1]
    padded = np.zeros((size, num_inputs + 2 * taps), np.float32)
    np.put_along_axis(padded, first[:, None] + np.arange(taps) + taps, weights, axis=1)
    dense = padded[:, taps : taps + num_inputs]
    dense[:, 0] += padded[:, :taps].sum(axis=1)  # beyond the border, the border's own pixel
    dense[:, -1] += padded[:, taps + num_inputs :].sum(axis=1)

    bands = []
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        low = max(0, int(first[begin]))
        high = min(num_inputs, int(first[end - 1]) + taps)
        low, high = min(low, num_inputs - 1), max(high, 1)
        bands.append(_Band(begin, end, low, high, dense[begin:end, low:high]))
    return tuple(bands)


def _lanczos_weights(
    start: float, length: float, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First input and weights of the 8-tap Lanczos kernel (a = 4) for each output sample."""
    centre = start + (np.arange(size) + 0.5) * (length / size) - 0.5
    first = np.floor(centre).astype(np.int64) - _LANCZOS_TAPS // 2 + 1
    offset = first[:, None] + np.arange(_LANCZOS_TAPS) - centre[:, None]
    return first, np.sinc(offset) * np.sinc(offset / (_LANCZOS_TAPS // 2))


def _area_weights(
    num_inputs: int, start: float, length: float, size: int, order: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First input and weights of the mean over each output's share of the window.

    The mean is the difference of a running sum between two boundaries; between whole pixels the
    running sum is interpolated through `order` neighbours (Lagrange).
    """
    order = min(order, num_inputs + 1)
    step = length / size
    edges = start + np.arange(size + 1) * step
    knots = np.floor(edges).astype(np.int64) - order // 2 + 1
    knots = np.clip(knots, 0, num_inputs + 1 - order)
    position = edges - knots
    lagrange = np.ones((size + 1, order))
    for i in range(order):
        for j in range(order):
            if i != j:
                lagrange[:, i] *= (position - j) / (i - j)
    # share[:, m + 1]: what pixel (knot + m) adds to the running sum at the edge
    tails = np.cumsum(lagrange[:, ::-1], axis=1)[:, ::-1][:, 1:]
    share = np.hstack([np.ones((size + 1, 1)), tails, np.zeros((size + 1, 1))])

    first = knots[:-1]
    pixels = first[:, None] + np.arange(int(np.ceil(step)) + order)
    lower = np.clip(pixels - knots[:-1, None], -1, order - 1) + 1
    upper = np.clip(pixels - knots[1:, None], -1, order - 1) + 1
    return first, np.take_along_axis(share[1:], upper, 1) - np.take_along_axis(share[:-1], lower, 1)
