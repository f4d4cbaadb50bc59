"""Masks that hold still where the picture does: scores averaged over time, before the arg-max.

The average follows the picture's motion (optical flow), and gives way to the new scores where the
picture changed in a way that the flow does not explain. A class that holds a cell is replaced only
by one that leads by a margin.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.temporal.carry import Scores, compiled, corner, in_cells
from rtseg.temporal.motion import MISFIT_LEVELS, Grey, Match, is_cut, small_grey

PATIENCE_SECONDS = 0.5
"""After a gap so long, or a step back in time, nothing of the past counts."""

LEAST_RATE = 0.06
"""Weight of the new scores where the picture stands still, at strength 1."""

NOISE_LEVELS = 3.0
"""Grey levels of misfit that are noise, if the picture as a whole does not have more."""

CHANGE_LEVELS = 10.0
"""Grey levels above the noise at which only the new scores count."""

LOST_SHARE = 0.5
"""A picture of which more is not to be found in the one before is another scene."""

LEAD = 0.5
"""The margin that a new class needs at strength 1, in mean margins of a cell's winner."""


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
        grey = cv2.pyrDown(small_grey(image))
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
        grey = match.grey
        rate = self._rates(levels, height, width)
        now = _Past(np.empty_like(scores), grey, pts, np.empty_like(past.held))
        out = np.empty_like(scores)
        lead = np.float32(LEAD * self.strength * past.margin)
        cells = in_cells(match.field, height, width)
        known = past.scores, past.held
        now.margin = float(_average(*known, scores, cells, rate, lead, now.scores, now.held, out))
        return now, out

    def _rates(self, levels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """(height, width) float32: the weight of each cell's new scores, from its misfit."""
        noise = max(NOISE_LEVELS, 1.5 * float(np.median(levels)))
        change = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
        # a network sees beyond a cell: what changes beside it changes its scores
        change = cv2.dilate(change.reshape(height, width), np.ones((3, 3), np.uint8))
        moved = np.clip((change - noise) / CHANGE_LEVELS, 0, 1)
        return np.asarray(self._rate + (1 - self._rate) * moved, np.float32)


class _Past:
    """What a smoother knows of the frame before.

    Attributes:
        held: (h, w) uint8, the class that holds each cell.
        margin: of a cell's winner over its second, on average.
    """

    def __init__(
        self, scores: Scores, grey: Grey, pts: float, held: NDArray[np.uint8] | None = None
    ) -> None:
        self.scores, self.grey, self.pts = scores, grey, pts
        self.held = scores.argmax(0).astype(np.uint8) if held is None else held
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


@compiled
def _average(past, held, scores, cells, rate, lead, state, holds, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `state` (the average), `holds` (who holds each cell) and `out` (what is shown).

    Returns the mean margin of a cell's winner over its second.
    """
    classes, height, width = scores.shape
    margins = np.float64(0)
    for y in range(height):
        for x in range(width):
            top, bottom, down = corner(np.float32(y) + cells[y, x, 1], height)
            left, right, along = corner(np.float32(x) + cells[y, x, 0], width)
            new = rate[y, x]
            first = second = np.float32(-np.inf)
            winner = 0
            for c in range(classes):
                plane = past[c]
                above = plane[top, left] + (plane[top, right] - plane[top, left]) * along
                below = plane[bottom, left] + (plane[bottom, right] - plane[bottom, left]) * along
                old = above + (below - above) * down
                score = old + (scores[c, y, x] - old) * new
                state[c, y, x] = score
                out[c, y, x] = score
                if score > first:
                    first, second, winner = score, first, c
                elif score > second:
                    second = score
            margins += first - second if classes > 1 else 0.0
            holder = held[bottom if down > 0.5 else top, right if along > 0.5 else left]
            needed = lead * (np.float32(1) - new)
            if holder != winner and first - state[holder, y, x] < needed:
                out[holder, y, x] = first + np.float32(0.01) * needed
                winner = holder
            holds[y, x] = winner
    return margins / (height * width)
