"""What the network says of one point of a picture."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.clock import Clock
from rtseg.contracts import Rendered
from rtseg.decode import cell_at
from rtseg.segmentation import Segmentation

Point = tuple[float, float]
"""(x, y), each 0..1: from the left and from the top of the finished picture."""

HOVER_SECONDS = 5.0


class Pointer:
    """Where a person points; one that has not moved for a while is not asking."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._since = clock, 0.0
        self._at: Point | None = None

    def move(self, at: Point | None) -> None:
        """It is there now; None is beside the picture."""
        self._at, self._since = at, self._clock.now()

    @property
    def asks(self) -> Point | None:
        """Where it is, if it moved of late."""
        return self._at if self._clock.now() - self._since < HOVER_SECONDS else None


class Found(NamedTuple):
    """A class, and how probable it is at a point, 0..1."""

    name: str
    number: int
    probability: float


def class_at(segmentation: Segmentation, x: int, y: int) -> Found:
    """The most probable of all classes at a pixel, whether it is drawn or not.

    The probability is the one that `Segmentation.probability` has there.

    Args:
        x, y: column and row of the frame.
    """
    corners, weights = cell_at(
        segmentation.scores, segmentation.size, x, y, align_corners=segmentation.align_corners
    )
    scores = (corners * weights).sum((1, 2))
    index = int(scores.argmax())
    if segmentation.kind == "probabilities":
        probability = float(np.clip(scores[index], 0, 1))
    else:
        margin = float((_margins(corners, index) * weights).sum())
        probability = 0.5 * (1 + float(np.tanh(0.5 * margin)))
    return Found(segmentation.labels.names[index], index, probability)


def class_under(rendered: Rendered, at: Point) -> Found:
    """The most probable class under a point of a finished picture."""
    column, row = pixel_at(at, rendered.image.shape[:2], rendered.frame.size)
    return class_at(rendered.segmentation, column, row)


def pixel_at(point: Point, picture: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """(column, row) of the frame that lies under a point of the finished picture.

    A picture that is as high as the frame and several times as wide shows it several times, side
    by side; any other shows it whole.

    Args:
        picture, frame: (height, width).
    """
    (height, width), (x, y) = frame, point
    times = picture[1] // width if picture[0] == height and picture[1] % width == 0 else 1
    column, row = int((x * times % 1.0) * width), int(y * height)
    return min(max(column, 0), width - 1), min(max(row, 0), height - 1)


def _margins(corners: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """(2, 2) logits of one class against all others together."""
    others = np.delete(corners, index, axis=0)
    top = others.max(0)
    rest = top + np.log(np.exp(others - top).sum(0))
    return np.asarray(corners[index] - rest, np.float32)
