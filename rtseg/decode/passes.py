"""The compiled passes: arg-max of enlarged scores, and colours over a picture, together or apart.

They stand in one file because the cache of compiled code looks only at the file of the function
it belongs to: a pass must not keep an older version of another one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.jit import compiled

ONE = 1 << 16
"""Weights are whole numbers of 1/65536."""

PERIOD = 3 * 64
"""Channels for which an offset is held, so that a vector loop reads it in line."""

BLOCK = 128
"""Pixels that are looked at together, in vector code."""

_BACK = np.float32(1 / ONE)


@compiled
def argmax(scores):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """(C, h, w) -> (h, w) uint8, the lowest index of the largest score."""
    classes, height, width = scores.shape
    top = np.zeros((height, width), np.uint8)
    best = scores[0].copy()
    for c in range(1, classes):
        for y in range(height):
            for x in range(width):
                if scores[c, y, x] > best[y, x]:
                    best[y, x] = scores[c, y, x]
                    top[y, x] = c
    return top


@compiled
def _contenders(scores, y, y1, x, x1, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `found` with the classes that can win inside the cell; return how many there are.

    A class cannot win where another one's lowest corner exceeds its highest corner.
    """
    classes = scores.shape[0]
    bar = np.float32(-np.inf)
    for c in range(classes):
        low = min(min(scores[c, y, x], scores[c, y, x1]), min(scores[c, y1, x], scores[c, y1, x1]))
        bar = max(bar, low)
    count = 0
    for c in range(classes):
        high = max(max(scores[c, y, x], scores[c, y, x1]), max(scores[c, y1, x], scores[c, y1, x1]))
        if high >= bar:
            found[count] = c
            count += 1
    return count


@compiled
def _decide_row(left, right, found, count, weight, table, best, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One row of one cell: each contender is a straight line from `left` to `right`."""
    first = table[found[0]]
    for i in range(out.size):
        best[i] = left[0] + (right[0] - left[0]) * weight[i]
        out[i] = first
    for k in range(1, count):
        start, slope, value = left[k], right[k] - left[k], table[found[k]]
        for i in range(out.size):
            score = start + slope * weight[i]
            wins = score > best[i]
            best[i] = score if wins else best[i]
            out[i] = value if wins else out[i]


@compiled
def _paint(out, kept, offset):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A run of one class, channel by channel, in place; becomes vector code.

    Whole numbers below 2**24 are exact in float32, of which a register holds twice as many as of
    the 64 bits that numba would multiply whole numbers in.
    """
    for i in range(out.size):
        out[i] = np.uint8(np.int32((np.float32(out[i]) * kept + offset[i]) * _BACK))


@compiled
def _paint_run(row, start, end, kept, offset):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Channels `start` to before `end` of a row, all of one class."""
    if kept != ONE:
        for first in range(start, end, PERIOD):
            _paint(row[first : min(first + PERIOD, end)], kept, offset)


@compiled
def _alike(pixels, value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether pixels are all of one class; becomes vector code."""
    different = np.uint8(0)
    for i in range(pixels.size):
        different |= pixels[i] ^ value
    return different == 0


@compiled
def _run_end(row, start, end):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The first pixel, after `start` and before `end`, of another class; else `end`."""
    value, stop = row[start], start + 1
    while stop + BLOCK <= end and _alike(row[stop : stop + BLOCK], value):
        stop += BLOCK
    while stop < end and row[stop] == value:
        stop += 1
    return stop


@compiled
def _finish_block(mask, top, bottom, start, end, value, counts, painting):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A block of one class: into the mask, counted, and over the canvas."""
    for r in range(top, bottom):
        mask[r, start:end] = value
    counts[value] += (bottom - top) * (end - start)
    if painting.canvas.size > 0 and painting.weight[value] != ONE:
        kept, offset = painting.weight[value], painting.offset[value]
        first, last = painting.left + 3 * start, painting.left + 3 * end
        for r in range(top, bottom):
            _paint_run(painting.canvas[r], first, last, kept, offset)


@compiled
def _finish_mixed(mask, top, bottom, start, end, counts, painting):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A block of several classes, already in the mask: counted, and over the canvas."""
    drawn, left = painting.canvas.size > 0, painting.left
    for r in range(top, bottom):
        at = start
        while at < end:
            value, stop = mask[r, at], _run_end(mask[r], at, end)
            counts[value] += stop - at
            if drawn:
                kept, offset = painting.weight[value], painting.offset[value]
                _paint_run(painting.canvas[r], left + 3 * at, left + 3 * stop, kept, offset)
            at = stop


@compiled
def paint(mask, painting):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Paint by the classes of `mask`; return how many of its pixels each class has."""
    counts = np.zeros(256, np.int64)
    _finish_mixed(mask, 0, mask.shape[0], 0, mask.shape[1], counts, painting)
    return counts


@compiled
def _next(samples, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The first place after `at` that lies on another sample."""
    end = at + 1
    while end < samples.size and samples[end] == samples[at]:
        end += 1
    return end


@compiled
def _interpolate(scores, y, y1, x, x1, weight_y, weight_x, table, out, scratch):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A cell whose corners disagree, pixel by pixel: its part `out` of the mask."""
    found, left, right, best = scratch
    count = _contenders(scores, y, y1, x, x1, found)
    for r in range(out.shape[0]):
        below = weight_y[r]
        for k in range(count):
            c = found[k]
            left[k] = scores[c, y, x] + (scores[c, y1, x] - scores[c, y, x]) * below
            right[k] = scores[c, y, x1] + (scores[c, y1, x1] - scores[c, y, x1]) * below
        _decide_row(left, right, found, count, weight_x, table, best, out[r])


@compiled
def decode(scores, rows, columns, table, mask, painting):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Fill `mask`, and paint by it; return how many of its pixels each class has.

    Cell by cell, in bands of rows; neighbouring cells that agree, within and with one another, are
    finished as one block, and so are neighbours that do not.

    Args:
        rows, columns: for each pixel the sample before it, and the weight of the next.
        painting: a `Painting`; nothing is painted on a canvas without pixels.
    """
    (ys, weight_y), (xs, weight_x) = rows, columns
    classes, h, w = scores.shape
    height, width = mask.shape
    top = argmax(scores)
    counts = np.zeros(256, np.int64)
    scratch = (
        np.zeros(classes, np.int32),
        np.empty(classes, np.float32),
        np.empty(classes, np.float32),
        np.empty(width, np.float32),
    )
    row = 0
    while row < height:
        y, row_end = ys[row], _next(ys, row)
        y1 = min(y + 1, h - 1)
        # cells from `start` on are one block, of one class or mixed, not yet finished
        column = start = 0
        block, mixed = table[0], False
        while column <= width:
            x = xs[min(column, width - 1)]
            x1 = min(x + 1, w - 1)
            winner = top[y, x]
            agree = winner == top[y1, x] and winner == top[y, x1] and winner == top[y1, x1]
            same = mixed if not agree else not mixed and table[winner] == block
            if start < column and (column == width or not same):
                if mixed:
                    _finish_mixed(mask, row, row_end, start, column, counts, painting)
                else:
                    _finish_block(mask, row, row_end, start, column, block, counts, painting)
                start = column
            if column == width:
                break
            block, mixed = table[winner], not agree
            column_end = _next(xs, column)
            if mixed:
                below, across = weight_y[row:row_end], weight_x[column:column_end]
                cell = mask[row:row_end, column:column_end]
                _interpolate(scores, y, y1, x, x1, below, across, table, cell, scratch)
            column = column_end
        row = row_end
    return counts


class BlendTable(NamedTuple):
    """What becomes of a pixel of each class: `(pixel * weight + offset) // 65536` per channel.

    All are whole numbers below 2**24, which float32 holds exactly.

    Attributes:
        weight: (256,) float32, how much of the picture stays, in 1/65536.
        offset: (256, 192) float32, the colour's part in 1/65536 and the half that rounds: BGR,
            again and again.
    """

    weight: NDArray[np.float32]
    offset: NDArray[np.float32]


class Painting(NamedTuple):
    """A picture on a canvas, as the compiled passes paint over it.

    Attributes:
        weight, offset: of a `BlendTable`.
        canvas: (H, at least left + 3W) uint8, interleaved channels; where it is empty nothing is
            painted.
        left: the picture's first channel on the canvas.
    """

    weight: NDArray[np.float32]
    offset: NDArray[np.float32]
    canvas: NDArray[np.uint8]
    left: int


def blend_table(colours: NDArray[np.uint8], alphas: NDArray[np.float64]) -> BlendTable:
    """A table that mixes each class's colour into the picture with the class's alpha.

    Args:
        colours: (256, 3) uint8 BGR.
        alphas: (256,) float in 0..1: 0 leaves the picture as it is, 1 paints over it, exactly.
    """
    parts = np.rint(alphas * ONE).astype(np.int32)
    offset = colours.astype(np.int32) * parts[:, np.newaxis] + ONE // 2
    tiled = np.tile(offset, (1, PERIOD // 3))
    return BlendTable((ONE - parts).astype(np.float32), tiled.astype(np.float32))


def painting(
    image: Image, table: BlendTable, canvas: Image | None = None, left: int = 0
) -> tuple[Painting, Image]:
    """Put `image` on a canvas, to be painted over there; the canvas is the second result.

    Args:
        image: (H, W, 3) uint8 BGR.
        canvas: (H, at least left + W, 3) uint8 to paint into, C-contiguous; None makes a new one.
        left: the canvas's column at which the picture starts.

    Raises:
        ValueError: the canvas cannot hold the picture.
    """
    height, width = image.shape[:2]
    if canvas is None:
        canvas = np.empty((height, left + width, 3), np.uint8)
    if canvas.shape[0] != height or left < 0 or left + width > canvas.shape[1]:
        raise ValueError(f"a canvas of {canvas.shape} does not hold {image.shape} from {left}")
    canvas[:, left : left + width] = image
    return Painting(*table, canvas.reshape(height, -1), 3 * left), canvas


def read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A contiguous read-only view: frames are such, and one type is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


NOTHING = Painting(
    np.empty(0, np.float32), np.empty((0, 0), np.float32), np.empty((0, 0), np.uint8), 0
)
"""Paints nothing."""
