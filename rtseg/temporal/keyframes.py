"""Where the keyframes of a recording are: every so often, and where a picture is a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Frame
from rtseg.jit import compiled
from rtseg.temporal.motion import Field, Grey, Match, Motion, is_cut, small_grey

KEY_SECONDS = 1.5
"""Without a number of frames: from one keyframe to the next, in seconds of the recording."""

LOST_SHARE = 0.45
"""A frame of which more is not to be found in the last keyframe becomes one itself."""

LOST_AT_ONCE = 0.6
"""A frame that loses so much more than the one before it is the first of another scene."""

SPAN_BYTES = 128 * 2**20
"""Of pictures that wait for a keyframe's scores; more of them are not held back."""


@dataclass
class Step:
    """A frame between two keyframes, found in the first of them."""

    frame: Frame
    match: Match


@dataclass
class Span:
    """A keyframe, and the frames between the one before and it.

    Attributes:
        cause: why it is one: "first", "age", "motion", "cut", or "end" for the last frame.
        before: number of the keyframe before; its own for the first.
    """

    key: Frame
    grey: Grey
    cause: str
    before: int
    steps: list[Step] = field(default_factory=list)

    def ahead(self) -> list[Match]:
        """Each step, found in the keyframe at the end; none where that is another scene."""
        if self.cause in ("first", "cut"):
            return []
        motion = Motion(self.grey)
        return [motion.follow(step.match.grey) for step in reversed(self.steps)][::-1]


class Keyframes:
    """Finds the keyframes of a recording; which they are, its pictures and times alone decide.

    Args:
        every: frames from one keyframe to the next at the most; None goes by `KEY_SECONDS`.
    """

    def __init__(self, every: int | None = None) -> None:
        self._every = every
        self._key: Frame | None = None
        self._motion: Motion | None = None
        self._steps: list[Step] = []
        self._lost = 0.0

    def take(self, frame: Frame) -> Span | None:
        """The next frame; the span that it ends, if it is a keyframe."""
        grey = small_grey(frame.image)
        if self._motion is None:
            return self._end(frame, grey, "first")
        if is_cut(self._motion.match.grey, grey):
            return self._end(frame, grey, "cut")
        if self._is_due(frame):
            return self._end(frame, grey, "age")
        match = self._motion.follow(grey)
        before, self._lost = self._lost, match.lost
        if self._lost > LOST_SHARE:
            is_new = self._lost - before > LOST_AT_ONCE
            return self._end(frame, grey, "cut" if is_new else "motion")
        self._steps.append(Step(frame, match))
        return None

    def rest(self) -> Span | None:
        """What is left at the end: the last frame is a keyframe, too."""
        if not self._steps:
            return None
        last = self._steps.pop()
        return self._end(last.frame, last.match.grey, "end")

    def _is_due(self, frame: Frame) -> bool:
        count = len(self._steps) + 1
        if count * frame.image.nbytes > SPAN_BYTES:
            return True
        if self._every is not None:
            return count >= self._every
        return self._key is None or not 0 <= frame.pts - self._key.pts < KEY_SECONDS

    def _end(self, frame: Frame, grey: Grey, cause: str) -> Span:
        before = frame.index if self._key is None else self._key.index
        span = Span(frame, grey, cause, before, self._steps)
        self._key, self._motion, self._steps, self._lost = frame, Motion(grey), [], 0.0
        return span


Scores = NDArray[np.float32]
"""(C, h, w) float32, at the network's output stride."""

FADE_LEVELS = 8.0
"""Grey levels of misfit that cost a keyframe's scores a factor of e against the other one's."""


def carry(scores: Scores, field: Field) -> Scores:
    """What the scores become where `field` says that each place of the new picture came from.

    Args:
        field: (H, W, 2), of any size; the flow from the new picture to that of the scores.

    Returns:
        (C, h, w) float32, bilinear between the cells of `scores`, and at the rim the nearest.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    height, width = scores.shape[1:]
    out = np.empty_like(scores)
    _carry(scores, in_cells(field, height, width), out)
    return out


def between(before: Scores, after: Scores, back: Match, ahead: Match, share: float) -> Scores:
    """The scores of a picture that lies between two keyframes, from both.

    Each cell trusts a keyframe the more the nearer it is, and the better its picture fits there:
    what one keyframe hides, the other may show.

    Args:
        before, after: (C, h, w) scores of the two keyframes.
        back, ahead: the picture, found in them.
        share: of the way from the first to the second, 0..1.
    """
    height, width = before.shape[1:]
    first = (1.0 - share) * _fit(back, height, width)
    second = share * _fit(ahead, height, width)
    weight = (first / (first + second)).astype(np.float32)
    return weight * carry(before, back.field) + (1 - weight) * carry(after, ahead.field)


def in_cells(field: Field, height: int, width: int) -> Field:
    """(height, width, 2): the mean flow of each cell, in cells."""
    scale = np.array([width / field.shape[1], height / field.shape[0]], np.float32)
    cells = cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cells.reshape(height, width, 2) * scale, np.float32)


def _fit(match: Match, height: int, width: int) -> NDArray[np.float32]:
    """(height, width) in 0..1: how well each cell of the picture fits what it was found in."""
    levels = cv2.resize(match.misfit(), (width, height), interpolation=cv2.INTER_AREA)
    return np.exp(-levels.reshape(height, width) / FADE_LEVELS) + np.float32(1e-6)


@compiled
def corner(place, side) -> Any:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """The sample before `place` on an axis of `side` cells, the next one, and that one's weight."""
    place = min(max(place, np.float32(0)), np.float32(side - 1))
    first = int(place)
    return first, min(first + 1, side - 1), place - np.float32(first)


@compiled
def _carry(scores, cells, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    classes, height, width = scores.shape
    for y in range(height):
        for x in range(width):
            top, bottom, down = corner(np.float32(y) + cells[y, x, 1], height)
            left, right, along = corner(np.float32(x) + cells[y, x, 0], width)
            for c in range(classes):
                plane = scores[c]
                above = plane[top, left] + (plane[top, right] - plane[top, left]) * along
                below = plane[bottom, left] + (plane[bottom, right] - plane[bottom, left]) * along
                out[c, y, x] = above + (below - above) * down
