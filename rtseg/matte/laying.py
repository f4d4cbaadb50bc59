"""The compiled passes that enlarge a matte, and lay what is kept over something else."""

from __future__ import annotations

import numpy as np

from rtseg.decode.passes import compiled

_LEVEL = np.float32(1 / 255)
_NONE, _ALL = np.float32(0), np.float32(1)

UNSURE_YET = np.uint8(1)
"""As in `passes.py`: the alpha there is neither 0 nor 255 for every colour."""


@compiled
def _rounded(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return np.uint8(min(max(value + np.float32(0.5), _NONE), np.float32(255)))


@compiled
def _row(left, step, across, image, behind, alpha, picture):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One row of a cell: every plane of the grid is a straight line from `left`.

    Where a pixel is kept in part, its colour is that of what is kept, without the old background.
    """
    for k in range(across.size):
        aside, at = across[k], 3 * k
        value = left[3] + step[3] * aside
        for i in range(3):
            value += (left[i] + step[i] * aside) * np.float32(image[at + i])
        a = min(max(value, _NONE), _ALL)
        if alpha.size > 0:
            alpha[k] = _rounded(a * np.float32(255))
        for i in range(3):
            own = np.float32(image[at + i])
            if a < _ALL and (a > _NONE or behind.size == 0):
                front = left[4 + i] + step[4 + i] * aside
                back = left[7 + i] + step[7 + i] * aside
                own = front + a * (own - a * front - (_ALL - a) * back)
                own = min(max(own, _NONE), np.float32(255))
            if behind.size > 0:
                own = a * own + (_ALL - a) * np.float32(behind[at + i])
            picture[at + i] = _rounded(own)


@compiled
def _copy(out, source):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One row of many pixels; black where there is no source. Becomes vector code."""
    if source.size > 0:
        for i in range(out.size):
            out[i] = source[i]
    else:
        out[:] = np.uint8(0)


@compiled
def _alike(certain, y, y1, x, x1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """What is sure of a whole cell: what all its corners say."""
    value = certain[y, x]
    same = certain[y1, x] == value and certain[y, x1] == value and certain[y1, x1] == value
    return value if same else UNSURE_YET


@compiled
def _side(above, below, weight, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Every plane of the grid between two samples, one above the other."""
    for i in range(out.size):
        out[i] = above[i] + (below[i] - above[i]) * weight


@compiled
def cut(grid, certain, rows, columns, image, backdrop, alpha, picture):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Enlarge the fit, apply it to the picture, and lay what is kept over a backdrop.

    Args:
        grid, certain: of `passes.settle` and `passes.sides`.
        rows, columns: where each sample's pixels start, and their end last; and for each pixel
            the weight of the next sample.
        image: (H, 3W) uint8.
        backdrop: (H, 3W) uint8, or empty: then the picture has what is kept in its own colour, as
            if nothing else were seen through it, and is black where nothing is kept.
        alpha: (H, W) uint8, filled; or empty.
        picture: (H, 3W) uint8, filled.
    """
    (starts_y, weight_y), (starts_x, weight_x) = rows, columns
    height, width = certain.shape
    left, step = np.empty(grid.shape[2], np.float32), np.empty(grid.shape[2], np.float32)
    for y in range(height):
        y1, x = min(y + 1, height - 1), 0
        while x < width:
            first, start, x1 = x, starts_x[x], min(x + 1, width - 1)
            value = _alike(certain, y, y1, x, x1)
            x += 1
            while value != UNSURE_YET and x < width:
                if _alike(certain, y, y1, x, min(x + 1, width - 1)) != value:
                    break
                x += 1
            end = starts_x[x]
            for r in range(starts_y[y], starts_y[y + 1]):
                over, out = image[r, 3 * start : 3 * end], picture[r, 3 * start : 3 * end]
                under = backdrop[r, 3 * start : 3 * end] if backdrop.size > 0 else backdrop[:0, 0]
                keep = alpha[r, start:end] if alpha.size > 0 else alpha[:0, 0]
                if value == UNSURE_YET:
                    _side(grid[y, first], grid[y1, first], weight_y[r], left)
                    _side(grid[y, x1], grid[y1, x1], weight_y[r], step)
                    step -= left
                    _row(left, step, weight_x[start:end], over, under, keep, out)
                else:
                    _copy(out, over if value == 255 else under)
                    keep[:] = value


@compiled
def _mix(out, behind, a):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A run of one alpha, 0 to 255, over what is behind it, in place."""
    weight = np.float32(a) * _LEVEL
    for i in range(out.size):
        old = np.float32(behind[i])
        out[i] = np.uint8(old + (np.float32(out[i]) - old) * weight + np.float32(0.5))


@compiled
def put(picture, alpha, backdrop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Lay `picture`, (H, 3W) uint8, over `backdrop` of its shape, in place, by `alpha`, (H, W)."""
    for y in range(alpha.shape[0]):
        x, width, keep = 0, alpha.shape[1], alpha[y]
        while x < width:
            a, start = keep[x], x
            while x < width and keep[x] == a:
                x += 1
            if a < 255:
                _mix(picture[y, 3 * start : 3 * x], backdrop[y, 3 * start : 3 * x], a)


@compiled
def write(picture, image):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Put colours, (H, 3W) uint8, into `picture`, (H, 4W); all of it is seen where they are new."""
    for y in range(picture.shape[0]):
        row, source = picture[y], image[y]
        for x in range(row.size // 4):
            for i in range(3):
                if row[4 * x + i] != source[3 * x + i]:
                    row[4 * x + i] = source[3 * x + i]
                    row[4 * x + 3] = 255
