"""Where the points of a picture were in an earlier or later one: dense optical flow at low size.

The flow is OpenCV's DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image

Grey = NDArray[np.uint8]
"""(h, w) uint8: a picture, small and without colour."""

Field = NDArray[np.float32]
"""(h, w, 2) float32: for each pixel how far right and down lies what it shows, in pixels."""

SMALL_AREA = 320 * 180
LEAST_SIDE = 48
"""Of the small picture, in pixels: below it the flow has nothing to hold on to."""

LEAST_HALF = 32
"""Of a picture half as large: with fewer rows OpenCV's DIS reads beyond its memory."""

MISFIT_LEVELS = 16
"""Grey levels of 255 by which a pixel that was found again may differ; more, and it is lost."""

OUTSIDE = np.float32(255)
"""The misfit of a pixel that shows what the other picture does not hold."""

CUT_DISTANCE = 0.35
"""How much of two pictures' histograms must differ for a cut, 0 to 1."""

CUT_LEVELS = 20.0
"""By how many grey levels their pixels must differ besides, on average."""


def small_grey(image: Image) -> Grey:
    """The whole picture without colour, as `small`.

    Args:
        image: (H, W, 3) uint8 BGR.
    """
    return cv2.cvtColor(small(image), cv2.COLOR_BGR2GRAY)


def half_grey(image: Image) -> Grey:
    """Half of `small_grey`, smoothed; the whole of it where half a side would be too little."""
    grey = small_grey(image)
    return cv2.pyrDown(grey) if min(grey.shape) >= 2 * LEAST_HALF else grey


def small(image: Image) -> Image:
    """The whole picture with about `SMALL_AREA` pixels, in its own shape.

    Args:
        image: (H, W, 3) uint8 BGR.
    """
    width, height = _small_size(image.shape[1], image.shape[0])
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


@cache
def _small_size(width: int, height: int) -> tuple[int, int]:
    scale = (SMALL_AREA / (width * height)) ** 0.5
    sides = (round(side * scale) for side in (width, height))
    small_width, small_height = (min(max(LEAST_SIDE, side), SMALL_AREA // 90) for side in sides)
    return small_width, small_height


def is_cut(before: Grey, after: Grey) -> bool:
    """Whether two consecutive pictures show different scenes; another size is another scene."""
    if before.shape != after.shape:
        return True
    if cv2.absdiff(before, after).mean() < CUT_LEVELS:
        return False
    return _histogram_distance(before, after) > CUT_DISTANCE


def _histogram_distance(before: Grey, after: Grey) -> float:
    """Half the summed difference of two histograms of 32 grey levels: 0 the same, 1 disjoint."""
    first, second = (cv2.calcHist([grey], [0], None, [32], [0, 256]) for grey in (before, after))
    return float(np.abs(first - second).sum() / (2 * before.size))


class Match(NamedTuple):
    """A picture, another that it is found in, and the flow from the one to the other."""

    grey: Grey
    reference: Grey
    field: Field

    def misfit(self) -> NDArray[np.float32]:
        """(h, w) float32: grey levels between the picture and what the flow finds for it.

        Averaged over 5x5 pixels, as single ones are noise.
        """
        columns, rows = _grid(*self.grey.shape)
        x, y = columns + self.field[..., 0], rows + self.field[..., 1]
        border = cv2.BORDER_REPLICATE
        found = cv2.remap(self.reference, x, y, cv2.INTER_LINEAR, borderMode=border)
        difference = cv2.subtract(found, self.grey, dtype=cv2.CV_32F)
        # a camera that sets its exposure anew has changed every pixel, and no scene
        difference -= np.median(difference[::4, ::4])
        levels = cv2.blur(np.abs(difference), (5, 5))
        height, width = self.grey.shape
        levels[(x < -1) | (y < -1) | (x > width) | (y > height)] = OUTSIDE
        return levels

    @property
    def lost(self) -> float:
        """Share (0..1) of the picture that the other does not show."""
        return float((self.misfit() > MISFIT_LEVELS).mean())


class Motion:
    """Follows where the pixels of later (or earlier) pictures lie in one picture, the reference.

    Each flow is found anew between the two pictures, beginning at the last one: errors do not add
    up along the way.
    """

    def __init__(self, reference: Grey) -> None:
        self.match = Match(reference, reference, np.zeros((*reference.shape, 2), np.float32))
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def follow(self, grey: Grey) -> Match:
        """Find the next picture, of the reference's size, in the reference."""
        # the flow to begin with is written over
        field = self._dis.calc(grey, self.match.reference, self.match.field.copy())
        self.match = Match(grey, self.match.reference, field)
        return self.match


@cache
def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    return columns, rows
