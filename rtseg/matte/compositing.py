"""Compiled passes that enlarge a matte and composite the foreground over a background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.jit import compiled

BY_COLOUR = np.uint8(1)
"""As in `rtseg.matte.fit`: the alpha depends on the colour."""

_LEVEL = np.float32(1 / 255)
_ZERO, _ONE = np.float32(0), np.float32(1)
_HALF, _MOST = np.float32(0.5), np.float32(255)
_MIDDLE = np.float32(127.5 / 255)
"""The alpha that `_store_alpha` rounds to 128."""


def cell_edges(small: int, large: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For linear interpolation of `small` samples at `large` pixels along one axis.

    A sample lies in the centre of the block of pixels that it stands for.

    Returns:
        (small + 1,) int32: the first pixel between each sample and the next, and the end of the
        last; and (large,) float32: for each pixel the weight of the next sample.
    """
    scale = np.float32(small) / np.float32(large)
    at = (np.arange(large, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.clip(at, 0, small - 1)
    first = np.minimum(at.astype(np.int32), small - 1)
    starts = np.searchsorted(first, np.arange(small + 1)).astype(np.int32)
    return starts, at - first.astype(np.float32)


@compiled
def composite(grid, certain, rows, columns, image, backdrop, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Enlarge the fit, apply it to the image, and composite the foreground over a backdrop.

    Args:
        grid, certain: of `rtseg.matte.fit.Fit`.
        rows, columns: of `cell_edges`.
        image: (H, 3W) uint8.
        backdrop: (H, 3W) uint8; or empty, to leave the foreground in its own colour where alpha is
            above 0, and black elsewhere.
        alpha: (H, W) uint8, filled; or empty.
        out: (H, 3W) uint8, filled.
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
            if value == BY_COLOUR:
                _stretch(grid, y, first, x, starts_x, weight_x, above)
                _stretch(grid, y1, first, x, starts_x, weight_x, below)
            for r in range(starts_y[y], starts_y[y + 1]):
                source, target = image[r, 3 * start : 3 * end], out[r, 3 * start : 3 * end]
                behind = backdrop[r, 3 * start : 3 * end] if backdrop.size > 0 else backdrop[:0, 0]
                if value == BY_COLOUR:
                    _alphas(above, below, weight_y[r], source, kept)
                    _composite_run(above, below, weight_y[r], source, behind, kept, target)
                    if alpha.size > 0:
                        _store_alpha(kept, alpha[r, start:end])
                else:
                    _copy(target, source if value == 255 else behind)
                    if alpha.size > 0:
                        alpha[r, start:end] = value


@compiled
def threshold(grid, certain, rows, columns, image, values, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Enlarge the fit, apply it to the image, and compare alpha with one half.

    Args:
        grid, certain, rows, columns, image: as of `composite`.
        values: (2,) uint8, for alpha below one half, and for the rest.
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
            if value == BY_COLOUR:
                _stretch(grid, y, first, x, starts_x, weight_x, above)
                _stretch(grid, y1, first, x, starts_x, weight_x, below)
            for r in range(starts_y[y], starts_y[y + 1]):
                target = mask[r, start:end]
                if value == BY_COLOUR:
                    source = image[r, 3 * start : 3 * end]
                    _threshold_run(above, below, weight_y[r], source, values, target)
                else:
                    target[:] = values[1] if value == 255 else values[0]


@compiled
def blend(image, alpha, backdrop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Blend `image`, (H, 3W) uint8, over `backdrop` in place, by `alpha`, (H, W) uint8."""
    for y in range(alpha.shape[0]):
        x, width, keep = 0, alpha.shape[1], alpha[y]
        while x < width:
            a, start = keep[x], x
            while x < width and keep[x] == a:
                x += 1
            if a < 255:
                _blend_run(image[y, 3 * start : 3 * x], backdrop[y, 3 * start : 3 * x], a)


@compiled
def write_opaque(target, image):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy colours, (H, 3W) uint8, into `target`, (H, 4W); pixels that change become opaque."""
    for y in range(target.shape[0]):
        row, source = target[y], image[y]
        for x in range(row.size // 4):
            for i in range(3):
                if row[4 * x + i] != source[3 * x + i]:
                    row[4 * x + i] = source[3 * x + i]
                    row[4 * x + 3] = 255


@compiled
def _run(certain, y, y1, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The end of the run of cells from `x` on that are all certain, or all not; and its value."""
    width = certain.shape[1]
    value = _cell_value(certain, y, y1, x, min(x + 1, width - 1))
    x += 1
    while x < width and _cell_value(certain, y, y1, x, min(x + 1, width - 1)) == value:
        x += 1
    return x, value


@compiled
def _cell_value(certain, y, y1, x, x1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The value of all four corners of a cell; BY_COLOUR if they differ."""
    value = certain[y, x]
    same = certain[y1, x] == value and certain[y, x1] == value and certain[y1, x1] == value
    return value if same else BY_COLOUR


@compiled
def _stretch(grid, y, first, last, starts, weight, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Interpolate one row of the grid, cells `first` to `last`, to the width of their pixels.

    Args:
        out: (4, at least 3W) float32: slopes, foreground colour and background colour per channel;
            and the offset per pixel.
    """
    origin = starts[first]
    for x in range(first, last):
        x1 = min(x + 1, grid.shape[1] - 1)
        left, right = grid[y, x], grid[y, x1]
        for k in range(starts[x], starts[x + 1]):
            share, at = weight[k], 3 * (k - origin)
            for i in range(3):
                out[0, at + i] = left[i] + (right[i] - left[i]) * share
                out[1, at + i] = left[4 + i] + (right[4 + i] - left[4 + i]) * share
                out[2, at + i] = left[7 + i] + (right[7 + i] - left[7 + i]) * share
            out[3, k - origin] = left[3] + (right[3] - left[3]) * share


@compiled
def _alphas(above, below, weight, image, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The alpha of each pixel of a run, 0 to 1: once per channel into `alpha`, (3n,)."""
    for j in range(image.size):
        slope = above[0, j] + (below[0, j] - above[0, j]) * weight
        alpha[j] = slope * np.float32(image[j])
    for k in range(image.size // 3):
        offset = above[3, k] + (below[3, k] - above[3, k]) * weight
        value = offset + alpha[3 * k] + alpha[3 * k + 1] + alpha[3 * k + 2]
        value = min(max(value, _ZERO), _ONE)
        alpha[3 * k] = alpha[3 * k + 1] = alpha[3 * k + 2] = value


@compiled
def _composite_run(above, below, weight, image, behind, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The pixels of a run, in their estimated foreground colour, over what is behind them.

    The foreground colour of a partly transparent pixel excludes the old background. Both loops
    compile to vector code.
    """
    if behind.size > 0:
        for j in range(image.size):
            a, front = alpha[j], above[1, j] + (below[1, j] - above[1, j]) * weight
            back = above[2, j] + (below[2, j] - above[2, j]) * weight
            own = front + a * (np.float32(image[j]) - a * front - (_ONE - a) * back)
            own = min(max(own, _ZERO), _MOST)
            out[j] = np.uint8(a * own + (_ONE - a) * np.float32(behind[j]) + _HALF)
    else:
        for j in range(image.size):
            a, front = alpha[j], above[1, j] + (below[1, j] - above[1, j]) * weight
            back = above[2, j] + (below[2, j] - above[2, j]) * weight
            own = front + a * (np.float32(image[j]) - a * front - (_ONE - a) * back)
            out[j] = np.uint8(min(max(own, _ZERO), _MOST) + _HALF)


@compiled
def _store_alpha(kept, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The alpha of each pixel of a run, (3n,), as 0 to 255, (n,)."""
    for k in range(alpha.size):
        alpha[k] = np.uint8(kept[3 * k] * _MOST + _HALF)


@compiled
def _copy(out, source):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy a run; black if the source is empty. Compiles to vector code."""
    if source.size > 0:
        for i in range(out.size):
            out[i] = source[i]
    else:
        out[:] = np.uint8(0)


@compiled
def _threshold_run(above, below, weight, image, values, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One of two values for each pixel of a run, by whether its alpha is below one half."""
    for k in range(mask.size):
        alpha = above[3, k] + (below[3, k] - above[3, k]) * weight
        for j in range(3 * k, 3 * k + 3):
            alpha += (above[0, j] + (below[0, j] - above[0, j]) * weight) * np.float32(image[j])
        mask[k] = values[1] if alpha >= _MIDDLE else values[0]


@compiled
def _blend_run(out, behind, a):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A run of one alpha, 0 to 255, over what is behind it, in place."""
    weight = np.float32(a) * _LEVEL
    for i in range(out.size):
        old = np.float32(behind[i])
        out[i] = np.uint8(old + (np.float32(out[i]) - old) * weight + np.float32(0.5))
