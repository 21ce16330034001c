"""The pixel-level judge of drawn pictures: it names what a picture shows from its pixels alone.

It fits a smooth surface to the border (the background), measures how far each pixel has gone
from it to the color of what stands out, and compares that mask with the rendered masks of all
shapes. Where nothing fits well it answers None, which never agrees with a caption.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from jobs.tiny.drawing import (
    BACKGROUNDS,
    COLORS,
    MAX_TILT_DEGREES,
    POSITIONS,
    SIZES,
    SUPERSAMPLING,
    Subject,
    shape_coverage,
)

ATTRIBUTES = ("color", "background", "shape", "size", "position")
MIN_FIT = {  # of a mask with its best shape's, as intersection over union
    "circle": 0.90,
    "square": 0.89,
    "triangle": 0.81,
    "star": 0.74,
    "ring": 0.80,
    "cross": 0.80,
}
_SCALES = (0.92, 0.96, 1.04, 1.08)
_MAX_COLOR_DISTANCE = 50.0  # Euclidean, of 0..255 RGB, from a name's color
_MIN_CONTRAST = 35.0  # of what stands out, to the background
_BORDER_PX = 2
_SMOOTHING_PX = 0.7
_POSITION_TOLERANCE = 0.09  # in sides; the grid's step is 0.22
_SIZE_TOLERANCE = 0.2  # of the radius; drawing varies it by 0.08
_OUTLIER = 40.0  # color distance from which a pixel is of neither color nor between them
_MAX_OUTLIERS = 0.02  # share of the picture
_MIN_WHOLE = 0.93  # share of the standing-out pixels that lie in one piece
_TILTS = tuple(math.radians(MAX_TILT_DEGREES * step) for step in (-0.9, -0.3, 0.3, 0.9))

Colors = npt.NDArray[np.float64]
PixelMask = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a picture shows; None where nothing allowed fits. `fit` is the best shape's, 0 to 1."""

    color: str | None = None
    background: str | None = None
    shape: str | None = None
    size: str | None = None
    position: str | None = None
    fit: float = 0.0


@dataclass(frozen=True)
class _Outline:
    """A shape to lay over a mask, in pixels of the picture; `hole` is a ring's, in radii."""

    shape: str
    tilt: float = 0.0
    hole: float = 0.0
    x: float = 0.0
    y: float = 0.0
    radius: float = 1.0


@dataclass(frozen=True)
class _Fit:
    """An outline and its intersection over union with a picture's mask."""

    outline: _Outline
    overlap: float

    @property
    def margin(self) -> float:
        """Over the least overlap of its shape; decoders blur a star more than a circle."""
        return self.overlap - MIN_FIT[self.outline.shape]


_OUTLINES = (
    _Outline("circle"),
    *(_Outline("ring", hole=hole) for hole in (0.45, 0.55, 0.65)),
    *(
        _Outline(shape, tilt=tilt)
        for shape in ("square", "triangle", "star", "cross")
        for tilt in _TILTS
    ),
)


def judge_picture(image: npt.NDArray[np.uint8]) -> Judgement:
    """Name color, background, shape, size and position of a picture.

    Args:
        image: uint8 (side, side, 3) RGB, at least 32 pixels a side.

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; judge uint8 (side, side, 3)")
    if image.shape[0] != image.shape[1] or image.shape[0] < 32:
        raise ValueError(f"image is {image.shape[:2]}; judge squares of 32 pixels and up")
    pixels = image.astype(np.float64)
    surface = _background_surface(pixels)
    if surface is None:
        return Judgement()
    background = _nearest_color(surface.mean(axis=(0, 1)), BACKGROUNDS)
    front = _standing_out(_smoothed(pixels - surface))
    if front is None:
        return Judgement(background=background)
    place = _largest_piece(front.mask)
    color = _nearest_color(_front_color(pixels, front.mask), COLORS)
    if place is None or front.outliers > _MAX_OUTLIERS:
        return Judgement(background=background, color=color)
    best = _best_fit(front.mask)
    shape, radius = best.outline.shape, best.outline.radius / len(pixels)
    fitting = best.margin >= 0
    return Judgement(
        color=color,
        background=background,
        shape=shape if fitting else None,
        size=_size_of(radius) if fitting else None,
        position=_position_of(front.mask),
        fit=best.overlap,
    )


def agreement(judgement: Judgement, subject: Subject) -> dict[str, bool]:
    """Which of the ATTRIBUTES of a picture are as they should be."""
    return {name: getattr(judgement, name) == getattr(subject, name) for name in ATTRIBUTES}


@dataclass(frozen=True)
class _Front:
    """`mask` (side, side): 0 is background, 1 what stands out; the share of other pixels."""

    mask: PixelMask
    outliers: float


def _background_surface(pixels: Colors) -> Colors | None:
    """A color plane through most of the border, (side, side, 3); None where there is none."""
    side = len(pixels)
    down, across = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    basis = np.stack([np.ones_like(down), down, across], axis=-1)
    border = np.ones((side, side), dtype=bool)
    border[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = False
    points, colors = basis[border], pixels[border]
    keep = np.linalg.norm(colors - np.median(colors, axis=0), axis=1) < 2 * _OUTLIER
    for _ in range(2):
        if keep.mean() < 0.8:
            return None
        plane, *_ = np.linalg.lstsq(points[keep], colors[keep], rcond=None)
        keep = np.linalg.norm(colors - points @ plane, axis=1) < _OUTLIER
    return None if keep.mean() < 0.8 else basis @ plane


def _standing_out(difference: Colors) -> _Front | None:
    """How far each pixel has gone from the background to the commonest color that is not it."""
    distance = np.linalg.norm(difference, axis=-1)
    contrast = float(np.quantile(distance, 0.985))
    if contrast < _MIN_CONTRAST:
        return None
    step = np.median(difference[distance > 0.75 * contrast], axis=0)
    blend = np.clip(difference @ step / (step @ step), 0, 1)
    rest = np.linalg.norm(difference - blend[..., None] * step, axis=-1)
    return _Front(_sharpened(blend), float((rest > _OUTLIER).mean()))


def _smoothed(pixels: Colors) -> Colors:
    """Through a Gaussian, as both sides of a comparison are: decoders round off corners."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), _SMOOTHING_PX), dtype=np.float64)


def _sharpened(coverage: PixelMask) -> PixelMask:
    """Coverage without the surfaces' texture: under a quarter is 0, over three quarters 1."""
    return np.clip(2 * coverage - 0.5, 0, 1)


def _largest_piece(mask: PixelMask) -> PixelMask | None:
    """The connected piece that holds nearly all of the mask; None where there is none."""
    solid = (mask > 0.5).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0 or areas.max() < _MIN_WHOLE * areas.sum():
        return None
    return np.asarray(labels == 1 + int(areas.argmax()), dtype=np.float64)


def _front_color(pixels: Colors, mask: PixelMask) -> Colors:
    inside = mask > 0.85
    color: Colors = np.median(pixels[inside], axis=0)
    return color


def _nearest_color(color: Colors, names: Mapping[str, tuple[int, int, int]]) -> str | None:
    distances = {name: float(np.linalg.norm(color - rgb)) for name, rgb in names.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= _MAX_COLOR_DISTANCE else None


def _best_fit(mask: PixelMask) -> _Fit:
    """Lay every shape over the mask at its centroid, first with its area, then near it."""
    x, y = _centroid(mask)
    outlines = [
        replace(outline, x=x, y=y, radius=math.sqrt(mask.sum() / _unit_area(outline)))
        for outline in _OUTLINES
    ]
    by_shape: dict[str, _Fit] = {}
    for outline in outlines:
        _keep_best(by_shape, _fit(mask, outline))
    for fit in list(by_shape.values()):
        for scale in _SCALES:
            tried = replace(fit.outline, radius=fit.outline.radius * scale)
            _keep_best(by_shape, _fit(mask, tried))
    return max(by_shape.values(), key=lambda fit: fit.margin)


def _keep_best(by_shape: dict[str, _Fit], fit: _Fit) -> None:
    shape = fit.outline.shape
    if shape not in by_shape or by_shape[shape].overlap < fit.overlap:
        by_shape[shape] = fit


def _fit(mask: PixelMask, outline: _Outline) -> _Fit:
    other = _sharpened(_smoothed(_coverage(outline, side=len(mask))))
    overlap = np.minimum(mask, other).sum() / np.maximum(mask, other).sum()
    return _Fit(outline, float(overlap))


def _coverage(outline: _Outline, *, side: int) -> PixelMask:
    middle = SUPERSAMPLING // 2
    centre = (SUPERSAMPLING * outline.x + middle, SUPERSAMPLING * outline.y + middle)
    radius = SUPERSAMPLING * outline.radius
    if outline.shape != "ring":
        return shape_coverage(
            outline.shape,
            centre=centre,
            radius=radius,
            tilt=outline.tilt,
            width=side,
            height=side,
        )
    inner = radius * outline.hole
    disc, hole = (
        shape_coverage("circle", centre=centre, radius=reach, tilt=0, width=side, height=side)
        for reach in (radius, inner)
    )
    return disc - hole


@cache
def _unit_area(outline: _Outline) -> float:
    """The area of the outline with radius 1."""
    large = replace(outline, x=32.0, y=32.0, radius=20.0)
    return float(_coverage(large, side=64).sum()) / large.radius**2


def _centroid(mask: PixelMask) -> tuple[float, float]:
    """(x, y) in pixel indices."""
    down, across = np.indices(mask.shape)
    return float((across * mask).sum() / mask.sum()), float((down * mask).sum() / mask.sum())


def _size_of(radius: float) -> str | None:
    for name, allowed in SIZES.items():
        if abs(radius / allowed - 1) <= _SIZE_TOLERANCE:
            return name
    return None


def _position_of(mask: PixelMask) -> str | None:
    across, down = _centroid(mask)
    x, y = (across + 0.5) / len(mask), (down + 0.5) / len(mask)
    for name, (at_x, at_y) in POSITIONS.items():
        if max(abs(x - at_x), abs(y - at_y)) <= _POSITION_TOLERANCE:
            return name
    return None
