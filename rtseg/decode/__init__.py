"""The mask at frame size, decoded exactly from the network's low-resolution scores.

Bilinear interpolation inside a cell is a convex combination of its four corners, so a cell whose
corners agree on the arg-max has that class at every point. Only cells whose corners disagree are
interpolated, and there only the classes that can win. The result equals enlarging every score plane
(bilinear, as `torch.nn.functional.interpolate`) and taking the arg-max, but for ties at float
precision. The mask is counted, and painted over an image, in the same pass over memory.

The second half is compiled by numba without the GIL. It is all in this file because numba's cache
of compiled code watches only the file of the function that it belongs to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.jit import compiled, literal_unroll

Scores = NDArray[np.float32]
"""(C, h, w) float32: logits, or probabilities, at the network's output stride."""

Counts = NDArray[np.int64]
"""(256,) int64: how many pixels of a mask have each value."""

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
F32 = NDArray[np.float32]

ONE = 1 << 16
"""Blending weights are whole numbers of 1/65536."""

PERIOD = 3 * 64
"""Channels over which a colour is repeated, so that a vector loop reads it in line."""

BLOCKS = 128, 16
"""Pixels that are compared together, in vector code: first as many as possible, then fewer."""


class BlendTable(NamedTuple):
    """What becomes of a pixel of each class: `(pixel * weight + offset) // 65536` per channel.

    All are whole numbers below 2**24, which float32 holds exactly.

    Attributes:
        weight: (256,) float32, how much of the image stays, in 1/65536.
        offset: (256, 192) float32, the colour's part in 1/65536 plus one half to round: BGR,
            repeated.
    """

    weight: F32
    offset: F32


class Painting(NamedTuple):
    """An image on a canvas, to be painted over by class.

    Attributes:
        weight, offset: of a `BlendTable`.
        canvas: (H, at least left + 3W) uint8, interleaved channels; nothing is painted if empty.
        left: the image's first channel on the canvas.
    """

    weight: F32
    offset: F32
    canvas: U8
    left: int


NOTHING = Painting(np.empty(0, np.float32), np.empty((0, 0), np.float32), np.empty((0, 0), "u1"), 0)
"""Paints nothing."""


def decode(
    scores: Scores,
    size: tuple[int, int],
    table: U8 | None = None,
    painting: Painting = NOTHING,
    *,
    align_corners: bool = False,
) -> tuple[U8, Counts]:
    """Arg-max of `scores` enlarged to `size`; in the same pass, pixels are counted and painted.

    Args:
        scores: (C, h, w) float32, C from 1 to 255; h and w at least 1.
        size: (height, width) of the mask.
        table: (256,) uint8, applied to each class on its way into the mask.
        painting: of an image of `size`.
        align_corners: whether the outermost scores belong to the centres of the outermost pixels,
            as for networks from TensorFlow, or to squares that tile the frame, as for PyTorch's.

    Returns:
        (height, width) uint8 class indices, ties going to the lower index; and how many of its
        pixels have each value.

    Raises:
        ValueError: `scores` has another shape or number of classes.
    """
    if scores.ndim != 3 or 0 in scores.shape or scores.shape[0] > 255:
        raise ValueError(f"scores are (C, h, w) with 1 to 255 classes, got {scores.shape}")
    scores = np.ascontiguousarray(scores, np.float32)
    table = np.arange(256, dtype=np.uint8) if table is None else table
    mask = np.empty(size, np.uint8)
    rows = axis(scores.shape[1], size[0], align_corners)
    columns = axis(scores.shape[2], size[1], align_corners)
    return mask, _decode(scores, rows, columns, table, mask, painting)


def paint(mask: U8, painting: Painting) -> Counts:
    """Paint an image by the classes of `mask`, (H, W) uint8; counts its pixels."""
    counts: Counts = _paint_mask(read_only(mask), painting)
    return counts


def start_painting(
    image: U8, table: BlendTable, canvas: U8 | None = None, left: int = 0
) -> tuple[Painting, U8]:
    """Copy `image` to a canvas, to be painted over there; the canvas is the second result.

    Args:
        image: (H, W, 3) uint8 BGR.
        canvas: (H, at least left + W, 3) uint8, C-contiguous; None makes a new one.
        left: the canvas's column at which the image starts.

    Raises:
        ValueError: the image does not fit on the canvas.
    """
    height, width = image.shape[:2]
    if canvas is None:
        canvas = np.empty((height, left + width, 3), np.uint8)
    if canvas.shape[0] != height or left < 0 or left + width > canvas.shape[1]:
        raise ValueError(f"an image {image.shape} at {left} does not fit on {canvas.shape}")
    canvas[:, left : left + width] = image
    return Painting(*table, canvas.reshape(height, -1), 3 * left), canvas


def read_only(array: U8) -> U8:
    """A contiguous read-only view: frames are read-only, and one type is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def enlarge(plane: F32, size: tuple[int, int], *, align_corners: bool = False) -> F32:
    """(h, w) float32 enlarged to `size` (height, width), bilinear."""
    top, weight_y = axis(plane.shape[0], size[0], align_corners)
    left, weight_x = axis(plane.shape[1], size[1], align_corners)
    below = np.minimum(top + 1, plane.shape[0] - 1)
    right = np.minimum(left + 1, plane.shape[1] - 1)
    rows = plane[top] * (1 - weight_y[:, None]) + plane[below] * weight_y[:, None]
    return rows[:, left] * (1 - weight_x) + rows[:, right] * weight_x


@lru_cache(maxsize=64)
def axis(small: int, large: int, align_corners: bool) -> tuple[I32, F32]:
    """For each of `large` pixels: the sample before it among `small`, and the next one's weight."""
    # float32, in torch's order of operations: ties fall the same way; kept, so not to be changed
    pixels = np.arange(large, dtype=np.float32)
    if align_corners:
        at = pixels * (np.float32(small - 1) / np.float32(max(large - 1, 1)))
    else:
        scale = np.float32(small) / np.float32(large)
        at = np.maximum((pixels + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    first = np.minimum(at.astype(np.int32), small - 1)
    weight = np.where(first == small - 1, np.float32(0), at - first.astype(np.float32))
    return first, weight.astype(np.float32)


# --- compiled: the decode ------------------------------------------------------------------------


@compiled
def _decode(
    scores: Scores,
    rows: tuple[I32, F32],
    columns: tuple[I32, F32],
    table: U8,
    mask: U8,
    painting: Painting,
) -> Counts:
    """Fill `mask` and paint by it; return the counts.

    Cell by cell, in bands of rows. Neighbouring cells that agree on one class are finished as one
    block, and so are neighbours whose corners disagree.

    Args:
        rows, columns: of `axis`.
    """
    (ys, weight_y), (xs, weight_x) = rows, columns
    classes, h, w = scores.shape
    height, width = mask.shape
    top = _argmax(scores)
    counts = np.zeros(256, np.int64)
    scratch = (
        np.zeros(classes, np.int32),
        np.empty(classes, np.float32),
        np.empty(classes, np.float32),
        np.empty(width, np.float32),
    )
    row_ends, column_ends = _cell_ends(ys), _cell_ends(xs)
    row = 0
    while row < height:
        y, row_end = ys[row], row_ends[row]
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
            block, mixed, column_end = table[winner], not agree, column_ends[column]
            if mixed:
                below, across = weight_y[row:row_end], weight_x[column:column_end]
                cell = mask[row:row_end, column:column_end]
                _interpolate(scores, y, y1, x, x1, below, across, table, cell, scratch)
            column = column_end
        row = row_end
    return counts


@compiled
def _argmax(scores: Scores) -> U8:
    """(h, w) uint8: the lowest index of the largest score."""
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
def _cell_ends(samples: I32) -> I32:
    """For each pixel, the first one after it that lies on another sample."""
    ends = np.full(samples.size, samples.size, np.int32)
    for at in range(samples.size - 2, -1, -1):
        ends[at] = ends[at + 1] if samples[at] == samples[at + 1] else at + 1
    return ends


@compiled
def _interpolate(
    scores: Scores,
    y: int,
    y1: int,
    x: int,
    x1: int,
    weight_y: F32,
    weight_x: F32,
    table: U8,
    out: U8,
    scratch: tuple[I32, F32, F32, F32],
) -> None:
    """Fill a cell whose corners disagree, pixel by pixel: `out`, a part of the mask."""
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
def _contenders(scores: Scores, y: int, y1: int, x: int, x1: int, found: I32) -> int:
    """Fill `found` with the classes that can win inside the cell; return how many there are.

    A class cannot win if another one's lowest corner exceeds its highest corner."""
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
def _decide_row(
    left: F32, right: F32, found: I32, count: int, weight: F32, table: U8, best: F32, out: U8
) -> None:
    """One row of one cell: each contender's score is a straight line from `left` to `right`."""
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


# --- compiled: counting and painting -------------------------------------------------------------


@compiled
def _paint_mask(mask: U8, painting: Painting) -> Counts:
    counts = np.zeros(256, np.int64)
    _finish_mixed(mask, 0, mask.shape[0], 0, mask.shape[1], counts, painting)
    return counts


@compiled
def _finish_block(
    mask: U8,
    top: int,
    bottom: int,
    start: int,
    end: int,
    value: int,
    counts: Counts,
    painting: Painting,
) -> None:
    """Write a block of one class into the mask, count it and paint it."""
    for r in range(top, bottom):
        mask[r, start:end] = value
    counts[value] += (bottom - top) * (end - start)
    if painting.canvas.size > 0 and painting.weight[value] != ONE:
        kept, offset = painting.weight[value], painting.offset[value]
        first, last = painting.left + 3 * start, painting.left + 3 * end
        for r in range(top, bottom):
            _paint_run(painting.canvas[r], first, last, kept, offset)


@compiled
def _finish_mixed(
    mask: U8, top: int, bottom: int, start: int, end: int, counts: Counts, painting: Painting
) -> None:
    """Count and paint a block of several classes that is already in the mask."""
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
def _run_end(row: U8, start: int, end: int) -> int:
    """The first pixel after `start` and before `end` that has another class; else `end`."""
    value, stop = row[start], start + 1
    for block in literal_unroll(BLOCKS):  # known to the compiler
        while stop + block <= end:
            pixels, different = row[stop : stop + block], np.uint8(0)
            for i in range(block):
                different |= pixels[i] ^ value
            if different:
                break
            stop += block
    while stop < end and row[stop] == value:
        stop += 1
    return stop


@compiled
def _paint_run(row: U8, start: int, end: int, kept: float, offset: F32) -> None:
    """Channels from `start` to before `end` of a row, all of one class."""
    if kept != ONE:
        for first in range(start, end, PERIOD):
            _paint(row[first : min(first + PERIOD, end)], kept, offset)


_BACK = np.float32(1 / ONE)


@compiled
def _paint(out: U8, kept: float, offset: F32) -> None:
    """At most `PERIOD` channels of one class, in place; becomes vector code.

    Whole numbers below 2**24 are exact in float32, of which a register holds twice as many as of
    the 64 bits in which numba would multiply whole numbers."""
    for i in range(out.size):
        out[i] = np.uint8(np.int32((np.float32(out[i]) * kept + offset[i]) * _BACK))
