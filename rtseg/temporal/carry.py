"""Scores carried along by a flow, from one keyframe or from the two on either side."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.jit import compiled
from rtseg.temporal.motion import Field, Match

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
