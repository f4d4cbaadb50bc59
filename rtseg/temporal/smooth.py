"""Masks that hold still where the picture does: scores averaged over time, before the arg-max.

The average follows the picture's motion (optical flow), and gives way to the new scores where the
picture changed in a way that the flow does not explain. Where it stands still, the flow's own noise
is left out, scores that differ by little change nothing, and a class that holds a
cell is replaced only by one that leads by a margin. Scores that tremble are told from those that
drift: news that point the same way for several frames count for more.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.temporal.keyframes import Scores, compiled, corner, in_cells
from rtseg.temporal.motion import MISFIT_LEVELS, Field, Grey, Match, half_grey, is_cut

PATIENCE_SECONDS = 0.5
"""After a gap so long, or a step back in time, nothing of the past counts."""

LEAST_RATE = 0.06
"""Weight of the new scores where the picture stands still, at strength 1."""

NOISE_LEVELS = 3.0
"""Grey levels of misfit that are noise, if the picture as a whole does not have more."""

CHANGE_LEVELS = 10.0
"""Grey levels above the noise at which only the new scores count."""

STILL_PIXELS = 0.3
"""Motion below this, in pixels of the small picture, is noise of the flow; from twice as much on it
counts in full. Taken 30 times a second, it would wash the average out."""

LOST_SHARE = 0.5
"""A picture of which more is not to be found in the one before is another scene."""

LEAD = 0.5
"""The margin that a new class needs at strength 1, in mean margins of a cell's winner."""

SLACK = 0.1
"""By how much scores may differ from the average before it follows them, at strength 1, in the
same margins: an edge that trembles about its place stays there."""

TREND_RATE = 0.2
"""Weight of the last frame in the mean of what the frames bring that is new."""

TREMBLES, DRIFTS = 0.6, 0.95
"""That mean, as a share of the mean of its size: of news that point now one way, now the other,
up to the first; of news that all point one way, from the second on."""

DRIFT_RATE = 0.5
"""Weight of the new scores where they drift: the average is not to trail what moves slowly."""


class Smoother:
    """Smooths the scores of consecutive frames; one for each stream.

    Args:
        strength: 0 changes nothing, 1 is the strongest.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._rate = max(LEAST_RATE, (1.0 - strength) ** 2)
        self._past: _Past | None = None
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, scores: Scores, image: Image, pts: float) -> Scores:
        """The smoothed scores of one frame; at strength 0 the same object.

        Args:
            scores: (C, h, w) float32, logits or probabilities; they stay untouched.
            image: (H, W, 3) uint8 BGR, what they were made from.
            pts: seconds.
        """
        if self.strength == 0.0:
            return scores
        scores = np.ascontiguousarray(scores, np.float32)
        grey = half_grey(image)
        past = self._past
        if past is None or not past.leads_to(scores, grey, pts):
            self._past = _Past(scores, grey, pts)
            return scores
        match = Match(grey, past.grey, self._dis.calc(grey, past.grey, None))
        levels = match.misfit()
        if (levels > MISFIT_LEVELS).mean() > LOST_SHARE:
            self._past = _Past(scores, grey, pts)
            return scores
        self._past, out = self._averaged(past, scores, match, levels, pts)
        return out

    def _averaged(
        self, past: _Past, scores: Scores, match: Match, levels: NDArray[np.float32], pts: float
    ) -> tuple[_Past, Scores]:
        height, width = scores.shape[1:]
        news = _changed(levels, height, width)
        rate = (self._rate + (1 - self._rate) * news).astype(np.float32)
        now = _Past(np.empty_like(scores), match.grey, pts, np.empty_like(past.held))
        now.news = np.empty_like(past.news)
        out = np.empty_like(scores)
        cells = in_cells(_without_noise(match.field), height, width)
        lead, slack = (np.float32(x * self.strength * past.margin) for x in (LEAD, SLACK))
        known, new = (past.scores, past.held, past.news), (now.scores, now.held, now.news)
        now.margin = float(_average(*known, scores, cells, rate, lead, slack, *new, out))
        return now, out


def _changed(levels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(height, width) in 0..1: where the picture became another one, by its misfit."""
    noise = max(NOISE_LEVELS, 1.5 * float(np.median(levels)))
    # a network sees beyond a cell: what changes beside it changes its scores
    change = cv2.dilate(_to_cells(levels, height, width), np.ones((3, 3), np.uint8))
    return np.clip((change - noise) / CHANGE_LEVELS, 0, 1)


def _without_noise(field: Field) -> Field:
    """The flow, none where it is so small that it is noise."""
    speed: NDArray[np.float32] = np.hypot(field[..., 0], field[..., 1])
    return field * np.clip(speed / STILL_PIXELS - 1, 0, 1)[..., None]


def _to_cells(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(height, width): the mean over each cell."""
    cells = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cells.reshape(height, width), np.float32)


class _Past:
    """What a smoother knows of the frame before.

    Attributes:
        held: (h, w) uint8, the class that holds each cell.
        news: (2, h, w) float32: by how much new scores changed the lead of the class that holds a
            cell, on average of late; and the size of that, likewise.
        margin: of a cell's winner over its second, on average.
    """

    def __init__(
        self, scores: Scores, grey: Grey, pts: float, held: NDArray[np.uint8] | None = None
    ) -> None:
        self.scores, self.grey, self.pts = scores, grey, pts
        self.held = scores.argmax(0).astype(np.uint8) if held is None else held
        self.news = np.zeros((2, *scores.shape[1:]), np.float32)
        self.margin = 0.0 if held is not None else _margin(scores)

    def leads_to(self, scores: Scores, grey: Grey, pts: float) -> bool:
        """Whether a frame goes on where this one ended."""
        return (
            scores.shape == self.scores.shape
            and 0 <= pts - self.pts <= PATIENCE_SECONDS
            and not is_cut(self.grey, grey)
        )


def _margin(scores: Scores) -> float:
    if len(scores) < 2:
        return 0.0
    second, first = np.partition(scores, -2, axis=0)[-2:]
    return float((first - second).mean())


TREND, SOON = np.float32(TREND_RATE), np.float32(DRIFT_RATE)


@compiled
def _lead_of(holder, scores, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Of a class over the best of the others, in one cell."""
    best = np.float32(-np.inf)
    for c in range(scores.shape[0]):
        if c != holder and scores[c, y, x] > best:
            best = scores[c, y, x]
    return scores[holder, y, x] - best if scores.shape[0] > 1 else scores[holder, y, x]


@compiled
def _drift(mean, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """0 (news tremble) to 1 (they drift)."""
    share = abs(mean) / (size + np.float32(1e-9))
    part = (share - np.float32(TREMBLES)) / np.float32(DRIFTS - TREMBLES)
    return min(max(part, np.float32(0)), np.float32(1))


@compiled
def _average(past, held, news, scores, cells, rate, lead, slack, state, holds, now, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `state` (the average), `holds` (who holds each cell), `now` (the news) and `out` (what
    is shown).

    Returns the mean margin of a cell's winner over its second.
    """
    classes, height, width = scores.shape
    margins = np.float64(0)
    for y in range(height):
        for x in range(width):
            top, bottom, down = corner(np.float32(y) + cells[y, x, 1], height)
            left, right, along = corner(np.float32(x) + cells[y, x, 0], width)
            row, column = bottom if down > 0.5 else top, right if along > 0.5 else left
            holder = held[row, column]
            for c in range(classes):
                plane = past[c]
                above = plane[top, left] + (plane[top, right] - plane[top, left]) * along
                below = plane[bottom, left] + (plane[bottom, right] - plane[bottom, left]) * along
                state[c, y, x] = above + (below - above) * down
            change = _lead_of(holder, scores, y, x) - _lead_of(holder, state, y, x)
            now[0, y, x] = news[0, row, column] + (change - news[0, row, column]) * TREND
            now[1, y, x] = news[1, row, column] + (abs(change) - news[1, row, column]) * TREND
            soon = _drift(now[0, y, x], now[1, y, x]) * SOON
            new = rate[y, x] + (np.float32(1) - rate[y, x]) * soon
            still = np.float32(1) - new
            idle = slack * still * (np.float32(1) - soon)
            first = second = np.float32(-np.inf)
            winner = 0
            for c in range(classes):
                step = scores[c, y, x] - state[c, y, x]
                step -= min(max(step, -idle), idle)
                score = state[c, y, x] + step * new
                state[c, y, x] = score
                out[c, y, x] = score
                if score > first:
                    first, second, winner = score, first, c
                elif score > second:
                    second = score
            margins += first - second if classes > 1 else 0.0
            needed = lead * still
            if holder != winner and first - state[holder, y, x] < needed:
                out[holder, y, x] = first + np.float32(0.01) * needed
                winner = holder
            holds[y, x] = winner
    return margins / (height * width)
