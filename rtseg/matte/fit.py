"""The fit of the mask to the colours of a small picture, in memory that is used again."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.matte import passes
from rtseg.matte.margin import Plane

_PLANES = {
    "moments": passes.MOMENTS,
    "sums": passes.MOMENTS,
    "lines": passes.FIT,
    "mean_lines": passes.FIT,
    "spread": passes.SPREAD,
    "mean_spread": passes.SPREAD,
    "grid": passes.GRID,
}


class Fit:
    """How what is kept of a pixel follows from its colour, everywhere in a small picture.

    Attributes:
        grid: (h, w, 10) float32, see `passes.settle` and `passes.sides`.
        certain: (h, w) uint8, see `passes.settle`.
        alpha: (h, w) float32 in 0..1, of the small picture itself.
    """

    grid: Plane
    certain: NDArray[np.uint8]
    alpha: Plane

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()

    def solve(self, small: Image, margin: Plane, reach: int) -> None:
        """Fit.

        Args:
            small: (h, w, 3) uint8 BGR.
            margin: (h, w) float32, above 0 where the mask is.
            reach: pixels from the mask's edge within which the colours decide.
        """
        if margin.shape != self._size:
            self._allot(margin)
        planes = self._planes
        near = cv2.blur((margin > 0).astype(np.float32), _square(reach))
        far = cv2.blur(near, _square(reach + 1))
        passes.moments(small, margin, near, planes["moments"])
        passes.solve(self._mean("moments", "sums", reach + 1), far, planes["lines"])
        lines, ramp = self._mean("lines", "mean_lines", reach + 1), np.float32(reach)
        spread = planes["spread"]
        passes.settle(lines, margin, near, ramp, small, self.grid, self.certain, spread, self.alpha)
        passes.sides(self._mean("spread", "mean_spread", reach + 2), small, self.grid)

    def _allot(self, like: Plane) -> None:
        self._size = size = like.shape
        self._planes = {n: np.empty((*size, count), np.float32) for n, count in _PLANES.items()}
        self.grid = self._planes["grid"]
        self.certain, self.alpha = np.empty(size, np.uint8), np.empty(size, np.float32)

    def _mean(self, name: str, into: str, radius: int) -> Plane:
        """Means over squares of pixels at most `radius` away."""
        out = self._planes[into]
        cv2.blur(self._planes[name], _square(radius), dst=out)
        return out


def _square(radius: int) -> tuple[int, int]:
    return 2 * radius + 1, 2 * radius + 1


def cells(small: int, large: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where the pixels between each sample and the next start, their end last; and for each pixel
    the weight of the next sample. Samples lie in the middle of the blocks of pixels they stand for.
    """
    scale = np.float32(small) / np.float32(large)
    at = (np.arange(large, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.clip(at, 0, small - 1)
    first = np.minimum(at.astype(np.int32), small - 1)
    starts = np.searchsorted(first, np.arange(small + 1)).astype(np.int32)
    return starts, at - first.astype(np.float32)
