"""Dense optical flow between images at low resolution, and detection of cuts.

The flow is OpenCV's DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image

SMALL_AREA = 320 * 180
"""Pixels of the small image, about."""

MIN_SIDE = 48
"""Shortest side of the small image: flow needs some texture to lock on to."""

MIN_HALF_SIDE = 32
"""Shortest side of an image of half that size: with fewer rows OpenCV's DIS reads out of bounds."""

MISFIT_LEVELS = 16
"""Grey levels of 255 by which a matched pixel may differ; beyond that it is lost."""

OUTSIDE = np.float32(255)
"""The misfit of a pixel whose match lies outside the reference."""

CUT_DISTANCE = 0.35
"""A cut needs histograms that differ by more than this, from 0 to 1."""

CUT_LEVELS = 20.0
"""A cut also needs pixels that differ by at least this many grey levels on average."""

Grey = NDArray[np.uint8]
"""(h, w) uint8: a small grey image."""

Field = NDArray[np.float32]
"""(h, w, 2) float32: displacement (x, y) in pixels from each pixel to its match."""


def small_grey(image: Image) -> Grey:
    """The image in grey at the size of `downscale`.

    Args:
        image: (H, W, 3) uint8 BGR.
    """
    return cv2.cvtColor(downscale(image), cv2.COLOR_BGR2GRAY)


def half_grey(image: Image) -> Grey:
    """`small_grey` smoothed and halved, unless a side would be shorter than `MIN_HALF_SIDE`."""
    grey = small_grey(image)
    return cv2.pyrDown(grey) if min(grey.shape) >= 2 * MIN_HALF_SIDE else grey


def downscale(image: Image) -> Image:
    """The image at about `SMALL_AREA` pixels, with its aspect ratio.

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
    small_width, small_height = (min(max(MIN_SIDE, side), SMALL_AREA // 90) for side in sides)
    return small_width, small_height


def is_cut(before: Grey, after: Grey) -> bool:
    """Whether two consecutive images show different scenes; a change of size is a cut."""
    if before.shape != after.shape:
        return True
    if cv2.absdiff(before, after).mean() < CUT_LEVELS:
        return False
    return _histogram_distance(before, after) > CUT_DISTANCE


def _histogram_distance(before: Grey, after: Grey) -> float:
    """Half the L1 distance of two normalised 32-bin histograms: 0 if equal, 1 if disjoint."""
    first, second = (cv2.calcHist([grey], [0], None, [32], [0, 256]) for grey in (before, after))
    return float(np.abs(first - second).sum() / (2 * before.size))


class Match(NamedTuple):
    """An image, a reference of the same size, and the flow from the image to the reference."""

    grey: Grey
    reference: Grey
    field: Field

    def misfit(self) -> NDArray[np.float32]:
        """(h, w) float32: difference in grey levels between each pixel and its match.

        Averaged over 5x5 pixels, as single ones are noisy.
        """
        columns, rows = _grid(*self.grey.shape)
        x, y = columns + self.field[..., 0], rows + self.field[..., 1]
        border = cv2.BORDER_REPLICATE
        found = cv2.remap(self.reference, x, y, cv2.INTER_LINEAR, borderMode=border)
        difference = cv2.subtract(found, self.grey, dtype=cv2.CV_32F)
        # a change of exposure shifts every pixel without changing the scene
        difference -= np.median(difference[::4, ::4])
        levels = cv2.blur(np.abs(difference), (5, 5))
        height, width = self.grey.shape
        levels[(x < -1) | (y < -1) | (x > width) | (y > height)] = OUTSIDE
        return levels

    @property
    def lost(self) -> float:
        """Share (0..1) of the image that is not in the reference."""
        return float((self.misfit() > MISFIT_LEVELS).mean())


class Motion:
    """Matches later (or earlier) images to one reference.

    Each flow is computed directly between the image and the reference, starting from the last
    flow, so errors do not accumulate.
    """

    def __init__(self, reference: Grey) -> None:
        self.match = Match(reference, reference, np.zeros((*reference.shape, 2), np.float32))
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def follow(self, grey: Grey) -> Match:
        """Match the next image, which has the reference's size."""
        # DIS overwrites the initial flow
        field = self._dis.calc(grey, self.match.reference, self.match.field.copy())
        self.match = Match(grey, self.match.reference, field)
        return self.match


@cache
def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    return columns, rows
