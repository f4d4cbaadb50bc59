"""The matte: how much of each pixel is kept, with soft edges that follow the picture.

The network's mask is right but for its edge, which it knows to a cell of its scores. So far from
the edge the mask is kept as it is, and near it the colours decide: in a window around each pixel
of a small picture, alpha is fitted as a linear function of the colour, and that function is then
applied to the picture itself at full size. This is the fast guided filter (He & Sun, "Fast Guided
Filter", 2015; He, Sun & Tang, "Guided Image Filtering", 2013) with two differences: pixels count
by how sure they are, so that the edge itself, of which least is known, is told by what lies on
both sides of it; and where colours do not tell the two sides apart, the mask's own edge is taken.

Pixels that are kept in part show the old background in their colour. Theirs is estimated from the
mean colours of both sides nearby and the pixel's own (Forte, "Approximate Fast Foreground Colour
Estimation", 2021), so that it can lie over any other background.
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
from rtseg.frame import Image, Mask
from rtseg.matte import laying
from rtseg.matte.fit import Fit, Plane, cells, margin_of
from rtseg.segmentation import Segmentation

SHORT_SIDE = 120
"""The fit is made on a picture shrunk to so many pixels."""

NARROWEST, WIDEST = 2, 8
"""How far from the mask's edge colours decide, in pixels of the small picture."""


@dataclass(frozen=True)
class MatteOptions:
    """How the edge lies.

    Attributes:
        threshold: probability at which something is kept: below 0.5 keeps more, above less.
        feather: pixels of the frame over which the edge fades, inwards, on top of its own softness.
    """

    threshold: float = 0.5
    feather: float = 0.0


class Cut(NamedTuple):
    """What is kept of a picture, and nothing else.

    Attributes:
        alpha: (H, W) uint8, 255 where all of a pixel is kept.
        picture: (H, W, 3) uint8 BGR: near the edge the colours of what is kept, without what lay
            behind; black where nothing is kept.
    """

    alpha: NDArray[np.uint8]
    picture: Image


class Matting:
    """Finds mattes, one after the other; used by one thread.

    It keeps the memory that a fit takes, which costs more to get from the system than the fit does.
    """

    def __init__(self, options: MatteOptions = MatteOptions()) -> None:
        self._options, self._fit = options, Fit()

    def __call__(self, image: Image, segmentation: Segmentation) -> Matte:
        """Find what is kept of `image`: the classes that are selected and not the background.

        The matte before it is no longer valid.

        Args:
            image: (H, W, 3) uint8 BGR, of the size that `segmentation` is for; untouched.
        """
        small = shrunk(image)
        size = small.shape[0], small.shape[1]
        scores = margin_of(segmentation, self._options.threshold)
        margin = _at_size(scores, size, align_corners=segmentation.align_corners)
        self._fit.solve(small, margin, _reach(scores, size))
        return Matte(np.ascontiguousarray(image), small, self._fit, self._options.feather)


class Matte:
    """What is kept of one picture.

    Attributes:
        small: (h, w, 3) uint8 BGR, the picture shrunk.
        small_alpha: (h, w) float32 in 0..1, alpha of the shrunk picture, before it is feathered.
    """

    def __init__(self, image: Image, small: Image, fit: Fit, feather: float) -> None:
        self.small, self.small_alpha = small, fit.alpha
        self._image, self._fit, self._feather = image, fit, feather

    def cut(self) -> Cut:
        """What is kept, at full size."""
        alpha = np.empty(self._image.shape[:2], np.uint8)
        picture = self._drawn(NOWHERE, alpha)
        return Cut(feathered(alpha, self._feather), picture)

    def over(self, backdrop: Image) -> Image:
        """What is kept, over (H, W, 3) uint8 BGR of the picture's size: a new picture."""
        if self._feather <= 0:
            return self._drawn(flat(backdrop), NOWHERE)
        alpha, picture = self.cut()
        laying.put(flat(picture), alpha, read_only(flat(backdrop)))
        return picture

    def mask(self, off: int, on: int) -> Mask:
        """(H, W) uint8: `on` where half of a pixel or more is kept, else `off`."""
        mask = np.empty(self._image.shape[:2], np.uint8)
        rows, columns = map(cells, self._fit.certain.shape, mask.shape)
        grid, certain, image = self._fit.grid, self._fit.certain, read_only(flat(self._image))
        laying.choose(grid, certain, rows, columns, image, np.array([off, on], np.uint8), mask)
        return mask

    def _drawn(self, backdrop: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> Image:
        picture = np.empty_like(self._image)
        rows, columns = map(cells, self._fit.certain.shape, picture.shape)
        grid, certain = self._fit.grid, self._fit.certain
        image, behind = read_only(flat(self._image)), read_only(backdrop)
        laying.cut(grid, certain, rows, columns, image, behind, alpha, flat(picture))
        return picture


NOWHERE = np.empty((0, 0), np.uint8)
"""No backdrop, or no alpha wanted."""


def flat(image: Image) -> NDArray[np.uint8]:
    """(H, 3W) uint8: rows of channels, as the compiled passes run over them."""
    return np.ascontiguousarray(image).reshape(image.shape[0], -1)


def shrunk(image: Image) -> Image:
    """(h, w, 3) uint8, its shorter side `SHORT_SIDE` or less; read-only."""
    height, width = image.shape[:2]
    factor = max(1.0, min(height, width) / SHORT_SIDE)
    return read_only(resized(image, (round(height / factor), round(width / factor))))


def _at_size(plane: Plane, size: tuple[int, int], *, align_corners: bool) -> Plane:
    """(h, w) float32 at `size`, bilinear; by OpenCV, which is quicker, where it means the same."""
    if align_corners:
        return np.ascontiguousarray(enlarge(plane, size, align_corners=True))
    return cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)


def feathered(alpha: NDArray[np.uint8], pixels: float) -> NDArray[np.uint8]:
    """Alpha that fades to 0 where it did before, and began to `pixels` further in.

    Outwards it would fade over pixels that show the old background.
    """
    if pixels <= 0:
        return alpha
    faded = cv2.blur(alpha, (2 * round(pixels) + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
    return np.minimum(alpha, cv2.addWeighted(faded, 2.0, faded, 0.0, -255.0))


def _reach(scores: Plane, size: tuple[int, int]) -> int:
    """Pixels of the small picture that a cell of the scores covers: what the network can be off."""
    cell = max(size[0] / scores.shape[0], size[1] / scores.shape[1])
    return int(np.clip(round(cell), NARROWEST, WIDEST))


def write_over(picture: NDArray[np.uint8], image: Image) -> None:
    """Give (H, W, 4) uint8 BGRA the colours of `image`, in place, and hide nothing where they are
    others.
    """
    laying.write(picture.reshape(len(picture), -1), flat(image))


def over_black(picture: NDArray[np.uint8]) -> Image:
    """(H, W, 3) uint8 BGR: a picture (H, W, 4) BGRA as it is seen over black."""
    return _laid_over(picture, np.zeros((*picture.shape[:2], 3), np.uint8))


def over_checkerboard(picture: NDArray[np.uint8]) -> Image:
    """(H, W, 3) uint8 BGR: a picture (H, W, 4) BGRA over squares of two greys, as image programs
    show what is transparent; any other picture as it is.
    """
    if picture.shape[2] == 3:
        return picture
    return _laid_over(picture, _checkerboard(picture.shape[0], picture.shape[1]))


@lru_cache(maxsize=2)
def _checkerboard(height: int, width: int) -> Image:
    side = max(4, min(height, width) // 45)
    odd = (np.arange(height)[:, np.newaxis] // side + np.arange(width) // side) % 2
    return cv2.cvtColor(np.where(odd, _LIGHT, _DARK), cv2.COLOR_GRAY2BGR)


def _laid_over(picture: NDArray[np.uint8], backdrop: Image) -> Image:
    image = cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
    laying.put(flat(image), cv2.extractChannel(picture, 3), read_only(flat(backdrop)))
    return image


_LIGHT, _DARK = np.uint8(160), np.uint8(110)
"""Greys of the checkerboard."""
