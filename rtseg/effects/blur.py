"""The background itself, blurred, as if nobody stood before it."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Frame, Image
from rtseg.matte import Matte, passes

_PLENTY = 2.0
"""Pixels of standard deviation that a shrunk picture keeps: fewer show its pixels."""


class Blur:
    """A Gaussian of what is not kept alone: what is kept does not shine into it.

    It is the blur of the picture times the weight of each pixel, over the blur of the weights
    (normalised convolution, Knutsson & Westin 1993).

    Args:
        strength: standard deviation in percent of the frame's shorter side.
    """

    def __init__(self, strength: float) -> None:
        self._strength = strength
        self._picture = np.empty((0, 0, 3), np.uint8)
        self._planes = np.empty((0, 0, 4), np.float32)

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """(H, W, 3) uint8 BGR of the frame's size; valid until the next call."""
        if self._picture.shape[:2] != frame.size:
            self._picture = np.empty((*frame.size, 3), np.uint8)
            self._planes = np.empty((*matte.small_alpha.shape, 4), np.float32)
        passes.behind(matte.small, matte.small_alpha, self._planes)
        blurred = _blurred(self._planes, self._strength / 100 * min(matte.small_alpha.shape))
        return cv2.resize(blurred, frame.size[::-1], dst=self._picture)


def _blurred(planes: NDArray[np.float32], deviation: float) -> Image:
    """Blur colours times their weight, and weights, (h, w, 4), over one another.

    Returns:
        uint8 BGR, smaller where the blur is wide.
    """
    if (halvings := int(math.log2(max(1.0, deviation / _PLENTY)))) > 0:
        factor = 2**halvings
        size = max(1, planes.shape[1] // factor), max(1, planes.shape[0] // factor)
        planes = cv2.resize(planes, size, interpolation=cv2.INTER_AREA)
        deviation /= factor
    planes = cv2.GaussianBlur(planes, (0, 0), max(deviation, 0.1))
    return np.rint(planes[..., :3] / planes[..., 3:]).astype(np.uint8)
