"""One compiled pass that draws a mask over a picture; every view is a table for it.

Compiled by numba; the GIL is released, and the machine code is cached beside this file or in the
user's cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import VOID, Image, Mask
from rtseg.labels import LabelSet

ONE = 1 << 16
"""Weights are whole numbers of 1/65536."""

_LONG_RUN = 16  # pixels from which a vector loop beats the start it costs
_PERIOD = 3 * 64  # channels for which an offset is held, so that a vector loop reads it in line


class BlendTable(NamedTuple):
    """What becomes of a pixel of each class: `(pixel * weight + offset) >> 16` per channel.

    Attributes:
        weight: (256,) int32, how much of the picture stays, in 1/65536.
        offset: (256, 192) int32, the colour's part in 1/65536 and the half that rounds: BGR, again
            and again.
    """

    weight: NDArray[np.int32]
    offset: NDArray[np.int32]


def blend_table(colours: NDArray[np.uint8], alphas: NDArray[np.float64]) -> BlendTable:
    """A table that mixes each class's colour into the picture with the class's alpha.

    Args:
        colours: (256, 3) uint8 BGR.
        alphas: (256,) float in 0..1: 0 leaves the picture as it is, 1 paints over it, exactly.
    """
    parts = np.rint(alphas * ONE).astype(np.int32)
    offset = colours.astype(np.int32) * parts[:, np.newaxis] + ONE // 2
    return BlendTable(ONE - parts, np.tile(offset, (1, _PERIOD // 3)))


def overlay_table(labels: LabelSet, alpha: float) -> BlendTable:
    """Every class in its colour with one alpha; background and VOID leave the picture alone."""
    return blend_table(bgr_colours(labels), np.where(foreground(labels), alpha, 0.0))


def bgr_colours(labels: LabelSet) -> NDArray[np.uint8]:
    """(256, 3) uint8 BGR: the colour of each class; black for what is no class."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(labels)] = np.array(labels.colours, np.uint8)[:, ::-1]
    return colours


def foreground(labels: LabelSet) -> NDArray[np.bool_]:
    """(256,) bool: which values of a mask are classes, and not background."""
    index = np.arange(256)
    found = (index < len(labels)) & (index != VOID)
    return found if labels.background is None else found & (index != labels.background)


def blend(
    image: Image, mask: Mask, table: BlendTable, canvas: Image | None = None, left: int = 0
) -> Image:
    """Draw `mask` over `image`.

    With alpha a a channel becomes `image * (1 - a) + colour * a`, rounded to the nearest level,
    halves up; a is held in 1/65536, so the sum is off by less than 0.004 levels before rounding.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (H, W) uint8.
        canvas: (H, at least left + W, 3) uint8 to draw into, C-contiguous; None makes a new one.
        left: the canvas's column at which the picture starts.

    Returns:
        The canvas.

    Raises:
        ValueError: the mask is not of the picture's size, or the canvas cannot hold it.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} does not fit a picture of {image.shape[:2]}")
    if canvas is None:
        canvas = np.empty(image.shape, np.uint8)
    height, width = canvas.shape[:2]
    if height != mask.shape[0] or left < 0 or left + mask.shape[1] > width:
        raise ValueError(f"a canvas of {canvas.shape} does not hold {image.shape} from {left}")
    rows = _read_only(image).reshape(mask.shape[0], -1)
    _blend(rows, _read_only(mask), *table, canvas.reshape(height, -1), 3 * left)
    return canvas


def _read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A contiguous read-only view: frames are such, and one type is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _compiled(function: Any) -> Any:
    """Machine code without the GIL; numba infers the types, which is why none are written below."""
    return numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")(function)


@_compiled
def _paint(source, weight, offset, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A run of one class, channel by channel; becomes vector code."""
    for i in range(source.size):
        out[i] = (source[i] * weight + offset[i]) >> 16


@_compiled
def _blend(rows, mask, weight, offset, canvas, left):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """`rows` (H, 3W) and `canvas` (H, at least left + 3W) hold interleaved channels."""
    height, width = mask.shape
    for y in range(height):
        start = 0
        while start < width:
            value = mask[y, start]
            end = start + 1
            while end < width and mask[y, end] == value:
                end += 1
            kept = weight[value]
            if end - start < _LONG_RUN:
                for i in range(3 * start, 3 * end, 3):
                    for channel in range(3):
                        mixed = rows[y, i + channel] * kept + offset[value, channel]
                        canvas[y, left + i + channel] = mixed >> 16
            else:
                for first in range(3 * start, 3 * end, _PERIOD):
                    last = min(first + _PERIOD, 3 * end)
                    out = canvas[y, left + first : left + last]
                    _paint(rows[y, first:last], kept, offset[value], out)
            start = end
