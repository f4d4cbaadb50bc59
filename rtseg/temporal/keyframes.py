"""Chooses the keyframes of a recording, and carries their scores to other frames.

A frame is a keyframe when the last one is too old, or when too little of that one is left in the
image. Scores follow the optical flow between a frame and its keyframes (`rtseg.temporal.motion`).
"""

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
"""Default interval between keyframes, in seconds of the recording."""

LOST_SHARE = 0.45
"""A frame becomes a keyframe if more than this share of it is not in the last keyframe."""

LOST_AT_ONCE = 0.6
"""If that share rises by more than this from one frame to the next, the scene was cut."""

SPAN_BYTES = 128 * 2**20
"""Limit for the images of frames that wait for the next keyframe's scores."""

FADE_LEVELS = 8.0
"""Grey levels of misfit that reduce the weight of a keyframe's scores by a factor of e."""

Scores = NDArray[np.float32]
"""(C, h, w) float32, at the network's output stride."""


@dataclass
class Step:
    """A frame between two keyframes, matched to the first of them."""

    frame: Frame
    match: Match


@dataclass
class Span:
    """A keyframe and the frames between it and the previous keyframe.

    Attributes:
        key: the keyframe at the end of the span.
        grey: its small grey image.
        cause: why it is a keyframe: "first", "age", "memory", "motion", "cut", or "end" for the
            last frame.
        before: index of the previous keyframe; its own for the first.
        steps: the frames between, in order.
    """

    key: Frame
    grey: Grey
    cause: str
    before: int
    steps: list[Step] = field(default_factory=list)

    def matches_to_key(self) -> list[Match]:
        """Each step matched to the keyframe at the end; empty if that shows another scene."""
        if self.cause in ("first", "cut"):
            return []
        motion = Motion(self.grey)
        return [motion.follow(step.match.grey) for step in reversed(self.steps)][::-1]


class Keyframes:
    """Divides a recording into spans; its images and times alone decide where.

    Args:
        every: frames from one keyframe to the next at most; None means `KEY_SECONDS`.
    """

    def __init__(self, every: int | None = None) -> None:
        self._every = every
        self._key: Frame | None = None
        self._motion: Motion | None = None
        self._steps: list[Step] = []
        self._lost = 0.0

    def add(self, frame: Frame) -> Span | None:
        """Add the next frame; return the span that it ends if it is a keyframe."""
        grey = small_grey(frame.image)
        if self._motion is None:
            return self._end(frame, grey, "first")
        if is_cut(self._motion.match.grey, grey):
            return self._end(frame, grey, "cut")
        if (len(self._steps) + 1) * frame.image.nbytes > SPAN_BYTES:
            return self._end(frame, grey, "memory")
        if self._is_due(frame):
            return self._end(frame, grey, "age")
        match = self._motion.follow(grey)
        before, self._lost = self._lost, match.lost
        if self._lost > LOST_SHARE:
            is_new_scene = self._lost - before > LOST_AT_ONCE
            return self._end(frame, grey, "cut" if is_new_scene else "motion")
        self._steps.append(Step(frame, match))
        return None

    def flush(self) -> Span | None:
        """The span at the end of the recording, whose last frame is a keyframe; None if empty."""
        if not self._steps:
            return None
        last = self._steps.pop()
        return self._end(last.frame, last.match.grey, "end")

    def _is_due(self, frame: Frame) -> bool:
        count = len(self._steps) + 1
        if self._every is not None:
            return count >= self._every
        return self._key is None or not 0 <= frame.pts - self._key.pts < KEY_SECONDS

    def _end(self, frame: Frame, grey: Grey, cause: str) -> Span:
        before = frame.index if self._key is None else self._key.index
        span = Span(frame, grey, cause, before, self._steps)
        self._key, self._motion, self._steps, self._lost = frame, Motion(grey), [], 0.0
        return span


def carry(scores: Scores, field: Field) -> Scores:
    """Warp scores to another image.

    Args:
        scores: (C, h, w) float32 of a reference image.
        field: (H, W, 2) flow from the other image to the reference, of any size.

    Returns:
        (C, h, w) float32, sampled bilinearly; beyond the border, the nearest cell.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    height, width = scores.shape[1:]
    out = np.empty_like(scores)
    _carry(scores, in_cells(field, height, width), out)
    return out


def interpolate(before: Scores, after: Scores, back: Match, ahead: Match, share: float) -> Scores:
    """The scores of a frame between two keyframes, from both.

    In each cell a keyframe weighs more the nearer it is in time and the better its image fits
    there: what is hidden in one may be visible in the other.

    Args:
        before, after: (C, h, w) scores of the two keyframes.
        back, ahead: the frame matched to each of them.
        share: position of the frame from the first keyframe (0) to the second (1).
    """
    height, width = before.shape[1:]
    first = (1.0 - share) * _fit(back, height, width)
    second = share * _fit(ahead, height, width)
    weight = (first / (first + second)).astype(np.float32)
    return weight * carry(before, back.field) + (1 - weight) * carry(after, ahead.field)


def in_cells(field: Field, height: int, width: int) -> Field:
    """(height, width, 2): the mean flow in each cell of the scores, in cells."""
    scale = np.array([width / field.shape[1], height / field.shape[0]], np.float32)
    cells = cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cells.reshape(height, width, 2) * scale, np.float32)


def _fit(match: Match, height: int, width: int) -> NDArray[np.float32]:
    """(height, width) in 0..1: how well each cell of the image fits its match."""
    levels = cv2.resize(match.misfit(), (width, height), interpolation=cv2.INTER_AREA)
    return np.exp(-levels.reshape(height, width) / FADE_LEVELS) + np.float32(1e-6)


@compiled
def corner(place, side) -> Any:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Two indices around `place` on an axis of `side` cells, and the second's bilinear weight."""
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
