"""Temporal smoothing: scores are averaged over time before the arg-max, so that masks hold still.

The average is warped along the optical flow, and the new scores replace it where the image changed
in a way that the flow does not explain. Where the image is static, flow below the noise is ignored,
small differences in the scores are ignored, and a new class needs a margin to replace the class
that holds a cell. Scores that drift are told apart from scores that tremble: changes that point in
the same direction for several frames get a larger weight.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.jit import compiled
from rtseg.temporal.keyframes import Scores, corner, in_cells
from rtseg.temporal.motion import MISFIT_LEVELS, Field, Grey, Match, half_grey, is_cut

MAX_GAP_SECONDS = 0.5
"""After a longer gap, or a step back in time, the average starts anew."""

MIN_RATE = 0.06
"""Weight of the new scores where the image is static, at strength 1."""

NOISE_LEVELS = 3.0
"""Grey levels of misfit that count as noise, if the image as a whole does not have more."""

CHANGE_LEVELS = 10.0
"""Grey levels above the noise at which the new scores replace the average."""

STILL_PIXELS = 0.3
"""Motion below this, in pixels of the small image, is noise of the flow; motion of twice as much
counts in full. Applied 30 times a second, the noise would blur the average."""

LOST_SHARE = 0.5
"""If more than this share of an image is not in the one before, it shows another scene."""

LEAD = 0.5
"""Margin by which a new class must lead at strength 1, as a multiple of the mean margin."""

SLACK = 0.1
"""Difference between scores and average that is ignored at strength 1, as a multiple of the mean
margin: an edge that trembles about its position stays there."""

TREND_RATE = np.float32(0.2)
"""Weight of the newest frame in the running means of the change and of its size."""

TREMBLING, DRIFTING = 0.6, 0.95
"""The mean change over its mean size, 0..1: up to the first the scores tremble, from the second on
they drift."""

DRIFT_RATE = np.float32(0.5)
"""Weight of the new scores where they drift, so that the average does not trail slow motion."""


class Smoother:
    """Smooths the scores of consecutive frames; one for each stream.

    Args:
        strength: 0 changes nothing, 1 is the strongest.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._rate = max(MIN_RATE, (1.0 - strength) ** 2)
        self._past: _Past | None = None
        self._followed: tuple[Image, Grey, Match | None] | None = None
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, scores: Scores, image: Image, pts: float) -> Scores:
        """The smoothed scores of one frame; at strength 0 the same object.

        Args:
            scores: (C, h, w) float32, logits or probabilities; not modified.
            image: (H, W, 3) uint8 BGR, the image that they belong to.
            pts: seconds.
        """
        if self.strength == 0.0:
            return scores
        scores = np.ascontiguousarray(scores, np.float32)
        if self._followed is None or self._followed[0] is not image:
            self.follow(image)
        assert self._followed is not None
        _, grey, match = self._followed
        past, self._followed = self._past, None
        if past is None or match is None or not past.leads_to(scores, pts):
            self._past = _Past(scores, grey, pts)
            return scores
        levels = match.misfit()
        if (levels > MISFIT_LEVELS).mean() > LOST_SHARE:
            self._past = _Past(scores, grey, pts)
            return scores
        self._past, out = self._averaged(past, scores, match, levels, pts)
        return out

    def forget(self) -> None:
        """Begin anew, as with scores of other classes."""
        self._past = None

    def follow(self, image: Image) -> None:
        """Find the motion since the last frame, which needs no scores: while they are awaited.

        Args:
            image: (H, W, 3) uint8 BGR, given to the next call too.
        """
        grey, past = half_grey(image), self._past
        match = None
        if past is not None and not is_cut(past.grey, grey):
            match = Match(grey, past.grey, self._dis.calc(grey, past.grey, None))
        self._followed = image, grey, match

    def _averaged(
        self, past: _Past, scores: Scores, match: Match, levels: NDArray[np.float32], pts: float
    ) -> tuple[_Past, Scores]:
        height, width = scores.shape[1:]
        change = _changed(levels, height, width)
        rate = (self._rate + (1 - self._rate) * change).astype(np.float32)
        now = _Past(np.empty_like(scores), match.grey, pts, np.empty_like(past.holders))
        now.trend = np.empty_like(past.trend)
        out = np.empty_like(scores)
        cells = in_cells(_without_noise(match.field), height, width)
        lead, slack = (np.float32(x * self.strength * past.margin) for x in (LEAD, SLACK))
        before, after = (
            (past.scores, past.holders, past.trend),
            (now.scores, now.holders, now.trend),
        )
        now.margin = float(_average(*before, scores, cells, rate, lead, slack, *after, out))
        return now, out


class _Past:
    """The smoother's state after a frame.

    Attributes:
        scores: (C, h, w) float32, the average.
        grey: the small image.
        pts: seconds.
        holders: (h, w) uint8, the class that holds each cell.
        trend: (2, h, w) float32: running mean of the change that new scores make to the lead of
            the class that holds a cell, and of the size of that change.
        margin: mean over all cells of the best score minus the second.
    """

    def __init__(
        self, scores: Scores, grey: Grey, pts: float, holders: NDArray[np.uint8] | None = None
    ) -> None:
        self.scores, self.grey, self.pts = scores, grey, pts
        self.holders = scores.argmax(0).astype(np.uint8) if holders is None else holders
        self.trend = np.zeros((2, *scores.shape[1:]), np.float32)
        self.margin = 0.0 if holders is not None else _mean_margin(scores)

    def leads_to(self, scores: Scores, pts: float) -> bool:
        """Whether a frame of the same scene continues this one."""
        return scores.shape == self.scores.shape and 0 <= pts - self.pts <= MAX_GAP_SECONDS


def _mean_margin(scores: Scores) -> float:
    if len(scores) < 2:
        return 0.0
    second, first = np.partition(scores, -2, axis=0)[-2:]
    return float((first - second).mean())


def _changed(levels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(height, width) in 0..1: how much each cell of the image changed, from its misfit."""
    noise = max(NOISE_LEVELS, 1.5 * float(np.median(levels)))
    cells = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
    # receptive fields are larger than a cell: a change next to it changes its scores
    change = cv2.dilate(cells.reshape(height, width), np.ones((3, 3), np.uint8))
    return np.clip((change - noise) / CHANGE_LEVELS, 0, 1)


def _without_noise(field: Field) -> Field:
    """The flow, set to zero where it is so small that it is noise."""
    speed: NDArray[np.float32] = np.hypot(field[..., 0], field[..., 1])
    return field * np.clip(speed / STILL_PIXELS - 1, 0, 1)[..., None]


@compiled
def _average(past, held, trend, scores, cells, rate, lead, slack, average, holders, new_trend, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `average`, `holders`, `new_trend` (see `_Past`) and `out`, the scores to show.

    Returns the mean margin of a cell's best score over its second.
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
                average[c, y, x] = above + (below - above) * down
            change = _lead_of(holder, scores, y, x) - _lead_of(holder, average, y, x)
            mean, size = trend[0, row, column], trend[1, row, column]
            new_trend[0, y, x] = mean + (change - mean) * TREND_RATE
            new_trend[1, y, x] = size + (abs(change) - size) * TREND_RATE
            drift = _drift(new_trend[0, y, x], new_trend[1, y, x]) * DRIFT_RATE
            new = rate[y, x] + (np.float32(1) - rate[y, x]) * drift
            old = np.float32(1) - new
            ignored = slack * old * (np.float32(1) - drift)
            first = second = np.float32(-np.inf)
            winner = 0
            for c in range(classes):
                step = scores[c, y, x] - average[c, y, x]
                step -= min(max(step, -ignored), ignored)
                score = average[c, y, x] + step * new
                average[c, y, x] = score
                out[c, y, x] = score
                if score > first:
                    first, second, winner = score, first, c
                elif score > second:
                    second = score
            margins += first - second if classes > 1 else 0.0
            needed = lead * old
            if holder != winner and first - average[holder, y, x] < needed:
                out[holder, y, x] = first + np.float32(0.01) * needed
                winner = holder
            holders[y, x] = winner
    return margins / (height * width)


@compiled
def _lead_of(holder, scores, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Score of one class minus the best of the others, in one cell."""
    best = np.float32(-np.inf)
    for c in range(scores.shape[0]):
        if c != holder and scores[c, y, x] > best:
            best = scores[c, y, x]
    return scores[holder, y, x] - best if scores.shape[0] > 1 else scores[holder, y, x]


@compiled
def _drift(mean, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """0 (the scores tremble) to 1 (they drift), from the mean change and its mean size."""
    share = abs(mean) / (size + np.float32(1e-9))
    part = (share - np.float32(TREMBLING)) / np.float32(DRIFTING - TREMBLING)
    return min(max(part, np.float32(0)), np.float32(1))
