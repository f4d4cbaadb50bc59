"""The outlines of the classes over the picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.blend import bgr_colours, blend, blend_table, foreground
from rtseg.effects import ViewOptions
from rtseg.frame import VOID, Frame, Image, Mask
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation

_SHADE = 0.5  # how dark the rim is that sets a line off from a picture of its own colour


class Contours:
    """Draws a line in each class's colour along the inside of its edge, and a shade outside it.

    Where two classes meet, each has its own line. The frame's border is no edge. Background and
    VOID get no line of their own, only the shade.
    """

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        # the shade needs an index that no line has
        self._shade = len(labels) if labels.background is None else labels.background
        colours, alphas = bgr_colours(labels), np.where(foreground(labels), 1.0, 0.0)
        if self._shade != VOID:
            colours[self._shade], alphas[self._shade] = 0, _SHADE
        self._is_class = foreground(labels).astype(np.uint8)
        self._table = blend_table(colours, alphas)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        mask, width = segmentation.mask, line_width(frame.size)
        is_class = cv2.LUT(mask, self._is_class).view(np.bool_)
        shade = np.where(edges(mask, (width + 1) // 2), np.uint8(self._shade), np.uint8(VOID))
        line = np.where(edges(mask, width), mask, np.uint8(VOID))
        return blend(frame.image, np.where(is_class, line, shade), self._table)


def line_width(size: tuple[int, int]) -> int:
    """Pixels of a contour on a frame of `size` (height, width): 4 on 720 rows."""
    return max(1, round(min(size) / 180))


def edges(mask: Mask, width: int) -> NDArray[np.bool_]:
    """(H, W) bool: pixels at most `width` from one of another class."""
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, around) > 0
