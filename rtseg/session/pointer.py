"""The class under the pointer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Rendered
from rtseg.decode import F32, Scores, axis
from rtseg.frame import Segmentation
from rtseg.matte.fit import log_sum_exp
from rtseg.stats import Clock

Point = tuple[float, float]
"""(x, y), each 0 to 1: from the left and from the top of the finished image."""

HOVER_SECONDS = 5.0


class Pointer:
    """Pointer position; ignored after 5 s without movement."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._since = clock, 0.0
        self._at: Point | None = None

    def move(self, at: Point | None) -> None:
        """Set the position; None is outside the image."""
        self._at, self._since = at, self._clock.now()

    @property
    def position(self) -> Point | None:
        """Where it is, if it moved recently."""
        return self._at if self._clock.now() - self._since < HOVER_SECONDS else None


class PointedClass(NamedTuple):
    """A class, and how probable it is at a point, 0..1."""

    name: str
    number: int
    probability: float


def class_at(segmentation: Segmentation, x: int, y: int) -> PointedClass:
    """The most probable of all classes at a pixel, whether it is drawn or not.

    The probability is the one that `Segmentation.probability` has there.

    Args:
        x, y: column and row of the frame.
    """
    corners, weights = _cell_at(
        segmentation.scores, segmentation.size, x, y, align_corners=segmentation.align_corners
    )
    scores = (corners * weights).sum((1, 2))
    index = int(scores.argmax())
    if segmentation.kind == "probabilities":
        probability = float(np.clip(scores[index], 0, 1))
    else:
        margin = float((_margins(corners, index) * weights).sum())
        probability = 0.5 * (1 + float(np.tanh(0.5 * margin)))
    return PointedClass(segmentation.labels.names[index], index, probability)


def class_under(rendered: Rendered, at: Point) -> PointedClass:
    """The most probable class under a point of a finished image."""
    column, row = pixel_at(at, rendered.image.shape[:2], rendered.frame.size)
    return class_at(rendered.segmentation, column, row)


def pixel_at(point: Point, picture: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """(column, row) of the frame under a point of the finished image.

    An image as high as the frame and several times as wide shows it several times, side by side;
    any other shows it once.

    Args:
        picture, frame: (height, width).
    """
    (height, width), (x, y) = frame, point
    times = picture[1] // width if picture[0] == height and picture[1] % width == 0 else 1
    column, row = int((x * times % 1.0) * width), int(y * height)
    return min(max(column, 0), width - 1), min(max(row, 0), height - 1)


def _margins(corners: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """(2, 2) logits of one class against all others together."""
    return corners[index] - log_sum_exp(np.delete(corners, index, axis=0))


def _cell_at(
    scores: Scores, size: tuple[int, int], x: int, y: int, *, align_corners: bool = False
) -> tuple[Scores, F32]:
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
