"""The compiled pass that finds the lines along the edges of a mask.

Almost all of a mask is far from any edge. So pixels with a neighbour of another class are looked
for, many at once, and only around those something is written; morphology would look at every pixel
as often as a line is wide.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.decode.passes import BLOCK
from rtseg.jit import compiled


def disc(width: int) -> NDArray[np.int32]:
    """(2 * width + 1,) int32: how far OpenCV's ellipse of that radius reaches in each row."""
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
    """Mark the pixels of other classes around one that lies at an edge."""
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
    """Write into `out` the lines of classes, and a shade outside them, wherever there are any.

    A pixel is on a line where a pixel of another class lies in the disc around it. The way there
    within the disc crosses an edge, so a pixel of another class with a neighbour of its own lies
    there too: those alone have to be looked at.

    Args:
        mask: (H, W) uint8.
        discs: `disc` of the width of a line, and of a shade, which is no wider.
        has_line: (256,) bool, by class.
        shade: written beside a line, and between two classes that have none.
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
