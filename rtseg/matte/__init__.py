"""The matte: a soft alpha per pixel whose edges follow the image.

The network's mask is right except near its edge, whose position is known to about one cell of the
scores. So far from the edge the mask is kept, and near it colours decide: in a window around each
pixel of a small image, alpha is fitted as a linear function of the colour, and that function is
applied to the image at full size. This is the fast guided filter (He & Sun, "Fast Guided Filter",
2015; He, Sun & Tang, "Guided Image Filtering", 2013) with two differences: pixels are weighted by
their certainty, so that the uncertain edge is decided by what lies on both sides of it; and where
colours do not separate the two sides, the mask's own edge is used.

Partly transparent pixels contain some of the old background's colour. Their foreground colour is
estimated from the mean colours of both sides nearby and the pixel's own (Forte, "Approximate Fast
Foreground Colour Estimation", 2021), so that it can be composited over any other background.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.decode import enlarge, read_only
from rtseg.draw import resized
from rtseg.frame import Image, Mask, Segmentation
from rtseg.jit import compiled
from rtseg.matte.fit import BY_COLOUR, Fit, Plane, margin_of

SHORT_SIDE = 120
"""Shorter side of the small image that the fit is made on, in pixels."""

MIN_REACH, MAX_REACH = 2, 8
"""Limits of the distance from the mask's edge within which colours decide, in small pixels."""

_LIGHT, _DARK = np.uint8(160), np.uint8(110)
"""Greys of the checkerboard."""

_EMPTY = np.empty((0, 0), np.uint8)
"""No backdrop, or what is not wanted of `_composite`."""

_LEVEL = np.float32(1 / 255)
_ZERO, _ONE = np.float32(0), np.float32(1)
_HALF, _MOST = np.float32(0.5), np.float32(255)


@dataclass(frozen=True)
class MatteOptions:
    """The position and softness of a matte's edge.

    Attributes:
        threshold: probability from which a pixel is kept: below 0.5 keeps more, above keeps less.
        feather: pixels of the frame over which the edge fades inwards, besides its own softness.
    """

    threshold: float = 0.5
    feather: float = 0.0


class Cutout(NamedTuple):
    """The foreground of an image.

    Attributes:
        alpha: (H, W) uint8, 255 where a pixel is fully kept.
        picture: (H, W, 3) uint8 BGR: near the edge in foreground colour, without the old
            background; black where alpha is 0.
    """

    alpha: NDArray[np.uint8]
    picture: Image


class Matting:
    """Computes mattes one after the other; used by one thread.

    It reuses the memory of the fit, whose allocation takes longer than the fit itself.
    """

    def __init__(self, options: MatteOptions = MatteOptions()) -> None:
        self._options, self._fit = options, Fit()

    def __call__(self, image: Image, segmentation: Segmentation) -> Matte:
        """The matte of the selected classes, except the background; invalidates the one before.

        Args:
            image: (H, W, 3) uint8 BGR of the segmentation's size; not modified.
        """
        small = _shrunk(image)
        size = small.shape[0], small.shape[1]
        scores = margin_of(segmentation, self._options.threshold)
        margin = _at_size(scores, size, align_corners=segmentation.align_corners)
        self._fit.solve(small, margin, _reach(scores, size))
        return Matte(np.ascontiguousarray(image), small, self._fit, self._options.feather)


class Matte:
    """The matte of one image.

    Attributes:
        small: (h, w, 3) uint8 BGR, the small image.
        small_alpha: (h, w) float32 in 0..1, its alpha before feathering.
    """

    def __init__(self, image: Image, small: Image, fit: Fit, feather: float) -> None:
        self.small, self.small_alpha = small, fit.alpha
        self._image, self._fit, self._feather = image, fit, feather

    def cutout(self) -> Cutout:
        """The foreground and its alpha at full size."""
        alpha = np.empty(self._image.shape[:2], np.uint8)
        picture = self._composited(_EMPTY, alpha)
        return Cutout(_feathered(alpha, self._feather), picture)

    def over(self, backdrop: Image) -> Image:
        """The foreground over a backdrop, (H, W, 3) uint8 BGR of the image's size: a new image."""
        if self._feather <= 0:
            return self._composited(_flat(backdrop), _EMPTY)
        alpha, picture = self.cutout()
        _blend(_flat(picture), alpha, read_only(_flat(backdrop)))
        return picture

    def mask(self, off: int, on: int) -> Mask:
        """(H, W) uint8: `on` where alpha is one half or more, else `off`."""
        alpha = np.empty(self._image.shape[:2], np.uint8)
        self._enlarge(_EMPTY, alpha, _EMPTY)
        return cv2.LUT(alpha, np.repeat(np.array([off, on], np.uint8), 128))

    def _composited(self, backdrop: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> Image:
        out = np.empty_like(self._image)
        self._enlarge(backdrop, alpha, _flat(out))
        return out

    def _enlarge(
        self, backdrop: NDArray[np.uint8], alpha: NDArray[np.uint8], out: NDArray[np.uint8]
    ) -> None:
        """Enlarge the fit to the image's size, and use it; arguments as of `_composite`."""
        grid, certain = self._fit.grid, self._fit.certain
        rows, columns = map(_cell_edges, certain.shape, self._image.shape)
        image, behind = read_only(_flat(self._image)), read_only(backdrop)
        _composite(grid, certain, rows, columns, image, behind, alpha, out)


def write_over(picture: NDArray[np.uint8], image: Image) -> None:
    """Copy an image's colours into (H, W, 4) uint8 BGRA, in place; pixels that change become
    opaque.
    """
    _write_opaque(picture.reshape(len(picture), -1), _flat(image))


def over_black(picture: NDArray[np.uint8]) -> Image:
    """(H, W, 3) uint8 BGR: (H, W, 4) BGRA over black."""
    return _blended(picture, np.zeros((*picture.shape[:2], 3), np.uint8))


def over_checkerboard(picture: NDArray[np.uint8]) -> Image:
    """(H, W, 3) uint8 BGR: (H, W, 4) BGRA over a grey checkerboard, as image editors show
    transparency; an opaque image as it is.
    """
    if picture.shape[2] == 3:
        return picture
    return _blended(picture, _checkerboard(picture.shape[0], picture.shape[1]))


@lru_cache(maxsize=2)
def _checkerboard(height: int, width: int) -> Image:
    side = max(4, min(height, width) // 45)
    odd = (np.arange(height)[:, np.newaxis] // side + np.arange(width) // side) % 2
    return cv2.cvtColor(np.where(odd, _LIGHT, _DARK), cv2.COLOR_GRAY2BGR)


def _blended(picture: NDArray[np.uint8], backdrop: Image) -> Image:
    image = cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
    alpha = cv2.extractChannel(picture, 3)
    _blend(_flat(image), alpha, read_only(_flat(backdrop)))
    return image


def _flat(image: Image) -> NDArray[np.uint8]:
    """(H, 3W) uint8: rows of channels, as the compiled passes take them."""
    return np.ascontiguousarray(image).reshape(image.shape[0], -1)


def _shrunk(image: Image) -> Image:
    """(h, w, 3) uint8 with a shorter side of at most `SHORT_SIDE`; read-only."""
    height, width = image.shape[:2]
    factor = max(1.0, min(height, width) / SHORT_SIDE)
    return read_only(resized(image, (round(height / factor), round(width / factor))))


def _at_size(plane: Plane, size: tuple[int, int], *, align_corners: bool) -> Plane:
    """(h, w) float32 at `size`, bilinear; by OpenCV, which is faster, where the result is equal."""
    if align_corners:
        return np.ascontiguousarray(enlarge(plane, size, align_corners=True))
    return cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)


def _reach(scores: Plane, size: tuple[int, int]) -> int:
    """The size of a cell of the scores in small pixels: by how much the mask's edge can be off."""
    cell = max(size[0] / scores.shape[0], size[1] / scores.shape[1])
    return int(np.clip(round(cell), MIN_REACH, MAX_REACH))


def _feathered(alpha: NDArray[np.uint8], pixels: float) -> NDArray[np.uint8]:
    """Alpha with an edge that fades inwards over `pixels`.

    Outwards it would fade over pixels that show the old background.
    """
    if pixels <= 0:
        return alpha
    width = 2 * max(1, round(pixels)) + 1
    faded = cv2.blur(alpha, (width, width), borderType=cv2.BORDER_REPLICATE)
    inwards = np.minimum(alpha, cv2.addWeighted(faded, 2.0, faded, 0.0, -255.0))
    share = min(1.0, pixels)  # less than a pixel
    return cv2.addWeighted(inwards, share, alpha, 1 - share, 0.0).astype(np.uint8, copy=False)


def _cell_edges(small: int, large: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For linear interpolation of `small` samples at `large` pixels along one axis.

    A sample lies in the centre of the block of pixels that it stands for.

    Returns:
        (small + 1,) int32: the first pixel between each sample and the next, and the end of the
        last; and (large,) float32: for each pixel the weight of the next sample.
    """
    scale = np.float32(small) / np.float32(large)
    at = (np.arange(large, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.clip(at, 0, small - 1)
    first = np.minimum(at.astype(np.int32), small - 1)
    starts = np.searchsorted(first, np.arange(small + 1)).astype(np.int32)
    return starts, at - first.astype(np.float32)


@compiled
def _composite(grid, certain, rows, columns, image, backdrop, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Enlarge the fit, apply it to the image, and composite the foreground over a backdrop.

    Args:
        grid, certain: of `Fit`.
        rows, columns: of `_cell_edges`.
        image: (H, 3W) uint8.
        backdrop: (H, 3W) uint8; or empty, to leave the foreground in its own colour where alpha is
            above 0, and black elsewhere.
        alpha: (H, W) uint8, filled; or empty.
        out: (H, 3W) uint8, filled; or empty, to compute alpha only.
    """
    (starts_y, weight_y), (starts_x, weight_x) = rows, columns
    height, width = certain.shape
    above = np.empty((4, image.shape[1]), np.float32)
    below, kept = np.empty_like(above), np.empty(image.shape[1], np.float32)
    for y in range(height):
        y1, x = min(y + 1, height - 1), 0
        while x < width:
            first = x
            x, value = _run(certain, y, y1, x)
            start, end = starts_x[first], starts_x[x]
            if value == BY_COLOUR:
                _stretch(grid, y, first, x, starts_x, weight_x, above)
                _stretch(grid, y1, first, x, starts_x, weight_x, below)
            for r in range(starts_y[y], starts_y[y + 1]):
                source = image[r, 3 * start : 3 * end]
                if value == BY_COLOUR:
                    _alphas(above, below, weight_y[r], source, kept)
                if out.size > 0:
                    target = out[r, 3 * start : 3 * end]
                    behind = (
                        backdrop[r, 3 * start : 3 * end] if backdrop.size > 0 else backdrop[:0, 0]
                    )
                    if value == BY_COLOUR:
                        _composite_run(above, below, weight_y[r], source, behind, kept, target)
                    else:
                        _copy(target, source if value == 255 else behind)
                if alpha.size > 0:
                    if value == BY_COLOUR:
                        _store_alpha(kept, alpha[r, start:end])
                    else:
                        alpha[r, start:end] = value


@compiled
def _blend(image, alpha, backdrop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Blend `image`, (H, 3W) uint8, over `backdrop` in place, by `alpha`, (H, W) uint8."""
    for y in range(alpha.shape[0]):
        x, width, keep = 0, alpha.shape[1], alpha[y]
        while x < width:
            a, start = keep[x], x
            while x < width and keep[x] == a:
                x += 1
            if a < 255:
                _blend_run(image[y, 3 * start : 3 * x], backdrop[y, 3 * start : 3 * x], a)


@compiled
def _write_opaque(target, image):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy colours, (H, 3W) uint8, into `target`, (H, 4W); pixels that change become opaque."""
    for y in range(target.shape[0]):
        row, source = target[y], image[y]
        for x in range(row.size // 4):
            for i in range(3):
                if row[4 * x + i] != source[3 * x + i]:
                    row[4 * x + i] = source[3 * x + i]
                    row[4 * x + 3] = 255


@compiled
def _run(certain, y, y1, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The end of the run of cells from `x` on that are all certain, or all not; and its value."""
    width = certain.shape[1]
    value = _cell_value(certain, y, y1, x, min(x + 1, width - 1))
    x += 1
    while x < width and _cell_value(certain, y, y1, x, min(x + 1, width - 1)) == value:
        x += 1
    return x, value


@compiled
def _cell_value(certain, y, y1, x, x1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The value of all four corners of a cell; BY_COLOUR if they differ."""
    value = certain[y, x]
    same = certain[y1, x] == value and certain[y, x1] == value and certain[y1, x1] == value
    return value if same else BY_COLOUR


@compiled
def _stretch(grid, y, first, last, starts, weight, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Interpolate one row of the grid, cells `first` to `last`, to the width of their pixels.

    Args:
        out: (4, at least 3W) float32: slopes, foreground colour and background colour per channel;
            and the offset per pixel.
    """
    origin = starts[first]
    for x in range(first, last):
        x1 = min(x + 1, grid.shape[1] - 1)
        left, right = grid[y, x], grid[y, x1]
        for k in range(starts[x], starts[x + 1]):
            share, at = weight[k], 3 * (k - origin)
            for i in range(3):
                out[0, at + i] = left[i] + (right[i] - left[i]) * share
                out[1, at + i] = left[4 + i] + (right[4 + i] - left[4 + i]) * share
                out[2, at + i] = left[7 + i] + (right[7 + i] - left[7 + i]) * share
            out[3, k - origin] = left[3] + (right[3] - left[3]) * share


@compiled
def _alphas(above, below, weight, image, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The alpha of each pixel of a run, 0 to 1: once per channel into `alpha`, (3n,)."""
    for j in range(image.size):
        slope = above[0, j] + (below[0, j] - above[0, j]) * weight
        alpha[j] = slope * np.float32(image[j])
    for k in range(image.size // 3):
        offset = above[3, k] + (below[3, k] - above[3, k]) * weight
        value = offset + alpha[3 * k] + alpha[3 * k + 1] + alpha[3 * k + 2]
        value = min(max(value, _ZERO), _ONE)
        alpha[3 * k] = alpha[3 * k + 1] = alpha[3 * k + 2] = value


@compiled
def _composite_run(above, below, weight, image, behind, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The pixels of a run, in their estimated foreground colour, over what is behind them.

    The foreground colour of a partly transparent pixel excludes the old background. Both loops
    compile to vector code.
    """
    if behind.size > 0:
        for j in range(image.size):
            a, front = alpha[j], above[1, j] + (below[1, j] - above[1, j]) * weight
            back = above[2, j] + (below[2, j] - above[2, j]) * weight
            own = front + a * (np.float32(image[j]) - a * front - (_ONE - a) * back)
            own = min(max(own, _ZERO), _MOST)
            out[j] = np.uint8(a * own + (_ONE - a) * np.float32(behind[j]) + _HALF)
    else:
        for j in range(image.size):
            a, front = alpha[j], above[1, j] + (below[1, j] - above[1, j]) * weight
            back = above[2, j] + (below[2, j] - above[2, j]) * weight
            own = front + a * (np.float32(image[j]) - a * front - (_ONE - a) * back)
            out[j] = np.uint8(min(max(own, _ZERO), _MOST) + _HALF)


@compiled
def _store_alpha(kept, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The alpha of each pixel of a run, (3n,), as 0 to 255, (n,)."""
    for k in range(alpha.size):
        alpha[k] = np.uint8(kept[3 * k] * _MOST + _HALF)


@compiled
def _copy(out, source):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy a run; black if the source is empty. Compiles to vector code."""
    if source.size > 0:
        for i in range(out.size):
            out[i] = source[i]
    else:
        out[:] = np.uint8(0)


@compiled
def _blend_run(out, behind, a):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A run of one alpha, 0 to 255, over what is behind it, in place."""
    weight = np.float32(a) * _LEVEL
    for i in range(out.size):
        old = np.float32(behind[i])
        out[i] = np.uint8(old + (np.float32(out[i]) - old) * weight + np.float32(0.5))
