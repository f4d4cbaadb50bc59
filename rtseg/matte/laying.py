"""The compiled passes that enlarge a matte, and lay what is kept over something else."""

from __future__ import annotations

import numpy as np

from rtseg.jit import compiled

_LEVEL = np.float32(1 / 255)
_NONE, _ALL = np.float32(0), np.float32(1)
_HALF, _MOST = np.float32(0.5), np.float32(255)
_MIDDLE = np.float32(127.5 / 255)
"""Alpha from which `_note` gives 128 and more."""

UNSURE_YET = np.uint8(1)
"""As in `rtseg.decode`: the alpha there is neither 0 nor 255 for every colour."""


@compiled
def _stretch(grid, y, first, last, starts, weight, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One row of the grid's samples, cells `first` to `last`, as wide as their pixels.

    Args:
        out: (4, at least 3W) float32: slopes, what is kept, what is behind it, all three per
            channel; and the offset, per pixel.
    """
    origin = starts[first]
    for x in range(first, last):
        x1 = min(x + 1, grid.shape[1] - 1)
        left, right = grid[y, x], grid[y, x1]
        for k in range(starts[x], starts[x + 1]):
            aside, at = weight[k], 3 * (k - origin)
            for i in range(3):
                out[0, at + i] = left[i] + (right[i] - left[i]) * aside
                out[1, at + i] = left[4 + i] + (right[4 + i] - left[4 + i]) * aside
                out[2, at + i] = left[7 + i] + (right[7 + i] - left[7 + i]) * aside
            out[3, k - origin] = left[3] + (right[3] - left[3]) * aside


@compiled
def _keep(above, below, weight, image, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """How much of each pixel of a run is kept, 0 to 1: once per channel into `alpha`, (3n,)."""
    for j in range(image.size):
        slope = above[0, j] + (below[0, j] - above[0, j]) * weight
        alpha[j] = slope * np.float32(image[j])
    for k in range(image.size // 3):
        offset = above[3, k] + (below[3, k] - above[3, k]) * weight
        value = offset + alpha[3 * k] + alpha[3 * k + 1] + alpha[3 * k + 2]
        value = min(max(value, _NONE), _ALL)
        alpha[3 * k] = alpha[3 * k + 1] = alpha[3 * k + 2] = value


@compiled
def _lay(above, below, weight, image, behind, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The pixels of a run, in the colour of what is kept of them, over what is behind them.

    Where a pixel is kept in part, its colour is that of what is kept, without the old background.
    Both loops become vector code.
    """
    if behind.size > 0:
        for j in range(image.size):
            a, front = alpha[j], above[1, j] + (below[1, j] - above[1, j]) * weight
            back = above[2, j] + (below[2, j] - above[2, j]) * weight
            own = front + a * (np.float32(image[j]) - a * front - (_ALL - a) * back)
            own = min(max(own, _NONE), _MOST)
            out[j] = np.uint8(a * own + (_ALL - a) * np.float32(behind[j]) + _HALF)
    else:
        for j in range(image.size):
            a, front = alpha[j], above[1, j] + (below[1, j] - above[1, j]) * weight
            back = above[2, j] + (below[2, j] - above[2, j]) * weight
            own = front + a * (np.float32(image[j]) - a * front - (_ALL - a) * back)
            out[j] = np.uint8(min(max(own, _NONE), _MOST) + _HALF)


@compiled
def _note(kept, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """How much is kept of each pixel of a run, (3n,), as 0 to 255, (n,)."""
    for k in range(alpha.size):
        alpha[k] = np.uint8(kept[3 * k] * _MOST + _HALF)


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
def _run(certain, y, y1, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The cells from `x` on that are as sure as that one: where they end, and how sure."""
    width = certain.shape[1]
    value = _alike(certain, y, y1, x, min(x + 1, width - 1))
    x += 1
    while x < width and _alike(certain, y, y1, x, min(x + 1, width - 1)) == value:
        x += 1
    return x, value


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
    above = np.empty((4, image.shape[1]), np.float32)
    below, kept = np.empty_like(above), np.empty(image.shape[1], np.float32)
    for y in range(height):
        y1, x = min(y + 1, height - 1), 0
        while x < width:
            first = x
            x, value = _run(certain, y, y1, x)
            start, end = starts_x[first], starts_x[x]
            if value == UNSURE_YET:
                _stretch(grid, y, first, x, starts_x, weight_x, above)
                _stretch(grid, y1, first, x, starts_x, weight_x, below)
            for r in range(starts_y[y], starts_y[y + 1]):
                over, out = image[r, 3 * start : 3 * end], picture[r, 3 * start : 3 * end]
                under = backdrop[r, 3 * start : 3 * end] if backdrop.size > 0 else backdrop[:0, 0]
                if value == UNSURE_YET:
                    _keep(above, below, weight_y[r], over, kept)
                    _lay(above, below, weight_y[r], over, under, kept, out)
                    if alpha.size > 0:
                        _note(kept, alpha[r, start:end])
                else:
                    _copy(out, over if value == 255 else under)
                    if alpha.size > 0:
                        alpha[r, start:end] = value


@compiled
def _choose(above, below, weight, image, values, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One of two values for each pixel of a run, by whether less than half of it is kept."""
    for k in range(mask.size):
        alpha = above[3, k] + (below[3, k] - above[3, k]) * weight
        for j in range(3 * k, 3 * k + 3):
            alpha += (above[0, j] + (below[0, j] - above[0, j]) * weight) * np.float32(image[j])
        mask[k] = values[1] if alpha >= _MIDDLE else values[0]


@compiled
def choose(grid, certain, rows, columns, image, values, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Enlarge the fit and apply it to the picture: which pixels are kept, for the most part.

    Args:
        grid, certain, rows, columns, image: as of `cut`.
        values: (2,) uint8, of pixels that are not kept and that are.
        mask: (H, W) uint8, filled.
    """
    (starts_y, weight_y), (starts_x, weight_x) = rows, columns
    height, width = certain.shape
    above = np.empty((4, image.shape[1]), np.float32)
    below = np.empty_like(above)
    for y in range(height):
        y1, x = min(y + 1, height - 1), 0
        while x < width:
            first = x
            x, value = _run(certain, y, y1, x)
            start, end = starts_x[first], starts_x[x]
            if value == UNSURE_YET:
                _stretch(grid, y, first, x, starts_x, weight_x, above)
                _stretch(grid, y1, first, x, starts_x, weight_x, below)
            for r in range(starts_y[y], starts_y[y + 1]):
                out = mask[r, start:end]
                if value == UNSURE_YET:
                    over = image[r, 3 * start : 3 * end]
                    _choose(above, below, weight_y[r], over, values, out)
                else:
                    out[:] = values[1] if value == 255 else values[0]


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
