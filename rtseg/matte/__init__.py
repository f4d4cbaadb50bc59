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
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.decode import enlarge, read_only
from rtseg.draw import resized
from rtseg.frame import Image, Mask, Segmentation
from rtseg.matte import compositing
from rtseg.matte.fit import Fit, Plane, margin_of

SHORT_SIDE = 120
"""Shorter side of the small image that the fit is made on, in pixels."""

MIN_REACH, MAX_REACH = 2, 8
"""Limits of the distance from the mask's edge within which colours decide, in small pixels."""

_LIGHT, _DARK = np.uint8(160), np.uint8(110)
"""Greys of the checkerboard."""

_EMPTY = np.empty((0, 0), np.uint8)
"""No backdrop, or no alpha wanted."""


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
        compositing.blend(_flat(picture), alpha, read_only(_flat(backdrop)))
        return picture

    def mask(self, off: int, on: int) -> Mask:
        """(H, W) uint8: `on` where alpha is one half or more, else `off`."""
        mask = np.empty(self._image.shape[:2], np.uint8)
        image, values = read_only(_flat(self._image)), np.array([off, on], np.uint8)
        compositing.threshold(*self._enlargement(), image, values, mask)
        return mask

    def _composited(self, backdrop: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> Image:
        out = np.empty_like(self._image)
        image, behind = read_only(_flat(self._image)), read_only(backdrop)
        compositing.composite(*self._enlargement(), image, behind, alpha, _flat(out))
        return out

    def _enlargement(self) -> tuple[Any, ...]:
        """The fit, and how its rows and columns are enlarged to the image's."""
        grid, certain = self._fit.grid, self._fit.certain
        rows, columns = map(compositing.cell_edges, certain.shape, self._image.shape)
        return grid, certain, rows, columns


def write_over(picture: NDArray[np.uint8], image: Image) -> None:
    """Copy an image's colours into (H, W, 4) uint8 BGRA, in place; pixels that change become
    opaque.
    """
    compositing.write_opaque(picture.reshape(len(picture), -1), _flat(image))


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
    compositing.blend(_flat(image), alpha, read_only(_flat(backdrop)))
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
    faded = cv2.blur(alpha, (2 * round(pixels) + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
    return np.minimum(alpha, cv2.addWeighted(faded, 2.0, faded, 0.0, -255.0))
