"""The view "contours": outlines of the classes over the image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.decode import read_only
from rtseg.draw import bgr_colours, blend, blend_table, foreground
from rtseg.effects import ViewOptions
from rtseg.frame import Frame, Image, Mask, Segmentation
from rtseg.jit import compiled
from rtseg.labels import VOID, LabelSet

BLOCK = 128
"""Pixels that are compared together, in vector code."""

SHADE = 0.5
"""Darkness of the rim around a line, which sets it off from an image of its own colour."""


class Contours:
    """Draws a line in each class's colour along the inside of its edge, and a shade outside it.

    Where two classes meet, each has its own line. The frame's border is not an edge. Background and
    VOID have no line, only the shade.
    """

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        # the shade needs an index that is not the index of a line
        shade = len(labels) if labels.background is None else labels.background
        self._has_line = foreground(labels)
        colours, alphas = bgr_colours(labels), np.where(self._has_line, 1.0, 0.0)
        if shade != VOID:
            colours[shade], alphas[shade] = 0, SHADE
        self._shade = np.uint8(shade)
        self._table = blend_table(colours, alphas)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        lines = self._lines(segmentation.mask, line_width(frame.size))
        return blend(frame.image, lines, self._table)

    def _lines(self, mask: Mask, width: int) -> Mask:
        """(H, W) uint8: the class whose line covers a pixel, the shade's index, or VOID."""
        lines = np.full(mask.shape, VOID, np.uint8)
        discs = disc(width), disc((width + 1) // 2)
        outline(read_only(mask), discs, self._has_line, self._shade, lines)
        return lines


def line_width(size: tuple[int, int]) -> int:
    """Width in pixels of a contour on a frame of (height, width): 4 at 720 rows."""
    return max(1, round(min(size) / 180))


def disc(width: int) -> NDArray[np.int32]:
    """(2 * width + 1,) int32: half the width of OpenCV's ellipse of that radius, by row."""
    size = 2 * width + 1
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).sum(axis=1, dtype=np.int32)
    return reach // 2


@compiled
def _any_edge(here, after, below):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether any of these pixels has another class than the one after or below it."""
    different = np.uint8(0)
    for i in range(here.size):
        different |= (here[i] ^ after[i]) | (here[i] ^ below[i])
    return different != 0


@compiled
def _surround(mask, y, x, discs, has_line, shade, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Mark the pixels of other classes around a pixel at an edge."""
    (height, width), (wide, narrow) = mask.shape, discs
    own, far, near = mask[y, x], wide.size // 2, narrow.size // 2
    for r in range(max(y - far, 0), min(y + far + 1, height)):
        reach = wide[r - y + far]
        dark = narrow[r - y + near] if abs(r - y) <= near else -1
        for c in range(max(x - reach, 0), min(x + reach + 1, width)):
            there = mask[r, c]
            if there != own:
                if has_line[there]:
                    out[r, c] = there
                elif abs(c - x) <= dark:
                    out[r, c] = shade


@compiled
def outline(mask, discs, has_line, shade, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write into `out` the lines of the classes and the shade outside them.

    A pixel is on a line where a pixel of another class lies in the disc around it. The way there
    within the disc crosses an edge, so a pixel of another class with a neighbour of its own lies
    there too: only those need to be visited.

    Args:
        mask: (H, W) uint8.
        discs: `disc` of the width of a line, and of a shade, which is no wider.
        has_line: (256,) bool, by class.
        shade: index written beside a line, and between two classes without lines.
        out: (H, W) uint8, changed where there is a line or a shade.
    """
    height, width = mask.shape
    for y in range(height):
        here, below = mask[y], mask[min(y + 1, height - 1)]
        for start in range(0, width, BLOCK):
            end = min(start + BLOCK, width)
            inner = min(end, width - 1)  # the last column has none after it
            last = inner < end and here[inner] != below[inner]
            after = here[start + 1 : inner + 1]
            if not last and not _any_edge(here[start:inner], after, below[start:inner]):
                continue
            for x in range(start, end):
                if x + 1 < width and here[x] != here[x + 1]:
                    _surround(mask, y, x, discs, has_line, shade, out)
                    _surround(mask, y, x + 1, discs, has_line, shade, out)
                if here[x] != below[x]:
                    _surround(mask, y, x, discs, has_line, shade, out)
                    _surround(mask, y + 1, x, discs, has_line, shade, out)
