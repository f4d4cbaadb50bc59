"""The mask at frame size, decoded exactly from the network's own low-resolution scores.

Bilinear interpolation inside a cell is a convex combination of its four corners, so a cell whose
corners agree on the arg-max has that class at every point. Only cells whose corners disagree are
interpolated, and there only the classes that can win. Equal to enlarging every score plane
(bilinear, as `torch.nn.functional.interpolate`) and taking the arg-max, but for ties at float
precision.

Compiled by numba; the GIL is released, and the machine code is cached beside this file or in the
user's cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
"""(C, h, w) float32: logits, or probabilities, at the network's output stride."""


def decode_mask(
    scores: Scores,
    size: tuple[int, int],
    table: NDArray[np.uint8] | None = None,
    *,
    align_corners: bool = False,
) -> NDArray[np.uint8]:
    """Arg-max of `scores` enlarged to `size`.

    Args:
        scores: (C, h, w) float32, C from 1 to 255; any h and w, one included.
        size: (height, width) of the mask.
        table: (256,) uint8, applied to each class on its way into the mask.
        align_corners: whether the outermost scores belong to the centres of the outermost pixels,
            as for networks from TensorFlow, or to squares that tile the frame, as for PyTorch's.

    Returns:
        (height, width) uint8 class indices. Ties go to the lower index.

    Raises:
        ValueError: `scores` has another shape, dtype or number of classes.
    """
    if scores.ndim != 3 or 0 in scores.shape or scores.shape[0] > 255:
        raise ValueError(f"scores are (C, h, w) with 1 to 255 classes, got {scores.shape}")
    scores = np.ascontiguousarray(scores, np.float32)
    table = np.arange(256, dtype=np.uint8) if table is None else table
    mask = np.empty(size, np.uint8)
    rows = _axis(scores.shape[1], size[0], align_corners)
    columns = _axis(scores.shape[2], size[1], align_corners)
    _decode(scores, _argmax(scores), *rows, *columns, table, mask)
    return mask


def disagreeing_share(scores: Scores) -> float:
    """Share of cells whose corners disagree: what the decode costs depends on it."""
    top = scores.argmax(0)
    corners = np.stack([top[:-1, :-1], top[1:, :-1], top[:-1, 1:], top[1:, 1:]])
    return float((corners != corners[0]).any(0).mean()) if corners.size else 0.0


def enlarge(
    plane: NDArray[np.float32], size: tuple[int, int], *, align_corners: bool = False
) -> NDArray[np.float32]:
    """(h, w) float32 enlarged to `size` (height, width), bilinear."""
    top, weight_y = _axis(plane.shape[0], size[0], align_corners)
    left, weight_x = _axis(plane.shape[1], size[1], align_corners)
    below = np.minimum(top + 1, plane.shape[0] - 1)
    right = np.minimum(left + 1, plane.shape[1] - 1)
    rows = plane[top] * (1 - weight_y[:, None]) + plane[below] * weight_y[:, None]
    return rows[:, left] * (1 - weight_x) + rows[:, right] * weight_x


def _axis(
    small: int, large: int, align_corners: bool
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For each of `large` pixels: the sample before it among `small`, and the next one's weight."""
    # float32, in torch's order of operations: ties fall the same way
    pixels = np.arange(large, dtype=np.float32)
    if align_corners:
        at = pixels * (np.float32(small - 1) / np.float32(max(large - 1, 1)))
    else:
        scale = np.float32(small) / np.float32(large)
        at = np.maximum((pixels + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    first = np.minimum(at.astype(np.int32), small - 1)
    weight = np.where(first == small - 1, np.float32(0), at - first.astype(np.float32))
    return first, weight.astype(np.float32)


def _compiled(function: Any) -> Any:
    """Machine code without the GIL; numba infers the types, which is why none are written below."""
    return numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")(function)


@_compiled
def _argmax(scores):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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


@_compiled
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


@_compiled
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


@_compiled
def _decode(scores, top, ys, weight_y, xs, weight_x, table, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `mask` cell by cell; `top` is the arg-max of `scores`."""
    classes, h, w = scores.shape
    height, width = mask.shape
    found = np.zeros(classes, np.int32)
    left, right = np.empty(classes, np.float32), np.empty(classes, np.float32)
    best = np.empty(width, np.float32)
    row = 0
    while row < height:
        y = ys[row]
        y1 = min(y + 1, h - 1)
        row_end = row + 1
        while row_end < height and ys[row_end] == y:
            row_end += 1
        column = 0
        while column < width:
            x = xs[column]
            x1 = min(x + 1, w - 1)
            column_end = column + 1
            while column_end < width and xs[column_end] == x:
                column_end += 1
            winner = top[y, x]
            if winner == top[y1, x] and winner == top[y, x1] and winner == top[y1, x1]:
                for r in range(row, row_end):
                    mask[r, column:column_end] = table[winner]
            else:
                count = _contenders(scores, y, y1, x, x1, found)
                weight = weight_x[column:column_end]
                for r in range(row, row_end):
                    below = weight_y[r]
                    for k in range(count):
                        c = found[k]
                        left[k] = scores[c, y, x] + (scores[c, y1, x] - scores[c, y, x]) * below
                        right[k] = scores[c, y, x1] + (scores[c, y1, x1] - scores[c, y, x1]) * below
                    out = mask[r, column:column_end]
                    _decide_row(left, right, found, count, weight, table, best, out)
            column = column_end
        row = row_end
