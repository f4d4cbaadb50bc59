"""The mask at frame size, decoded exactly from the network's own low-resolution scores.

Bilinear interpolation inside a cell is a convex combination of its four corners, so a cell whose
corners agree on the arg-max has that class at every point. Only cells whose corners disagree are
interpolated, and there only the classes that can win. Equal to enlarging every score plane
(bilinear, as `torch.nn.functional.interpolate`) and taking the arg-max, but for ties at float
precision.

Compiled by numba (passes.py); the GIL is released, and the machine code is kept (jit.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.decode import passes
from rtseg.decode.passes import NOTHING, Painting, read_only

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
    return decode(scores, size, table, align_corners=align_corners)[0]


def decode(
    scores: Scores,
    size: tuple[int, int],
    table: NDArray[np.uint8] | None = None,
    painting: Painting = NOTHING,
    *,
    align_corners: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """As `decode_mask`, and in the same pass over memory: pixels counted, and a picture painted.

    Args:
        painting: of a picture of `size`; what is painted is what `blend` would paint.

    Returns:
        The mask, and (256,) int64: how many of its pixels have each value.
    """
    if scores.ndim != 3 or 0 in scores.shape or scores.shape[0] > 255:
        raise ValueError(f"scores are (C, h, w) with 1 to 255 classes, got {scores.shape}")
    scores = np.ascontiguousarray(scores, np.float32)
    table = np.arange(256, dtype=np.uint8) if table is None else table
    mask = np.empty(size, np.uint8)
    rows = axis(scores.shape[1], size[0], align_corners)
    columns = axis(scores.shape[2], size[1], align_corners)
    return mask, passes.decode(scores, rows, columns, table, mask, painting)


def tally(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,) int64: how many pixels of `mask`, (H, W) uint8, have each value."""
    counts: NDArray[np.int64] = passes.paint(read_only(mask), NOTHING)
    return counts


def disagreeing_share(scores: Scores) -> float:
    """Share of cells whose corners disagree: what the decode costs depends on it."""
    top = scores.argmax(0)
    corners = np.stack([top[:-1, :-1], top[1:, :-1], top[:-1, 1:], top[1:, 1:]])
    return float((corners != corners[0]).any(0).mean()) if corners.size else 0.0


def enlarge(
    plane: NDArray[np.float32], size: tuple[int, int], *, align_corners: bool = False
) -> NDArray[np.float32]:
    """(h, w) float32 enlarged to `size` (height, width), bilinear."""
    top, weight_y = axis(plane.shape[0], size[0], align_corners)
    left, weight_x = axis(plane.shape[1], size[1], align_corners)
    below = np.minimum(top + 1, plane.shape[0] - 1)
    right = np.minimum(left + 1, plane.shape[1] - 1)
    rows = plane[top] * (1 - weight_y[:, None]) + plane[below] * weight_y[:, None]
    return rows[:, left] * (1 - weight_x) + rows[:, right] * weight_x


def cell_at(
    scores: Scores, size: tuple[int, int], x: int, y: int, *, align_corners: bool = False
) -> tuple[Scores, NDArray[np.float32]]:
    """The four samples around one pixel of `size` (height, width), and their weights in it.

    Returns:
        (C, 2, 2) float32, and (2, 2) float32 that sum to 1.
    """
    tops, weights_y = axis(scores.shape[1], size[0], align_corners)
    lefts, weights_x = axis(scores.shape[2], size[1], align_corners)
    rows = np.minimum(tops[y] + np.arange(2), scores.shape[1] - 1)
    columns = np.minimum(lefts[x] + np.arange(2), scores.shape[2] - 1)
    across = np.array([1 - weights_x[x], weights_x[x]])
    down = np.array([1 - weights_y[y], weights_y[y]])
    return scores[:, rows[:, None], columns], np.outer(down, across).astype(np.float32)


def axis(
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
