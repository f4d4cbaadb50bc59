"""Which of several input sizes keeps a frame rate: a controller without a clock or a network.

The time that a frame takes at one size tells what it would take at another, as a network's work
grows with its pixels. It goes down as soon as the rate is lost, and up only when the larger size
would leave room to spare and the time before has been quiet; a size that was tried and lost the
rate is left alone for a while, each time for twice as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from rtseg.backends.sizes import SMALLEST, fit_size
from rtseg.zoo import ModelSpec

Size = tuple[int, int]
"""(height, width) in pixels."""

FACTORS = (1.0, 0.8, 0.64, 0.5)
"""Of the first size's sides."""

FRAMES = 15
"""Of this many at the most, the median time counts: a hiccup of a few frames moves nothing."""

FEWEST_FRAMES, FEWEST_SECONDS = 5, 0.3
"""At a size, before anything is decided."""

FAR = 1.2
"""A rate that is missed by so much is lost at once; by less, when that lasts `LOST_SECONDS`."""

LOST_SECONDS = 0.7

ROOM = 0.85
"""Of a frame's time at the rate asked for, what a size may be expected to take to be chosen."""

CALM_SECONDS = 2.0
"""So long is it at a size before it tries a larger one."""

SHUN_SECONDS = 8.0
"""So long is a larger size left alone when it has just lost the rate; then twice as long, ..."""

LONGEST_SHUN_SECONDS = 120.0


def ladder_sizes(spec: ModelSpec, first: Size) -> list[Size]:
    """Input sizes of the shape of `first`, from it downwards; one only where the network has one.

    Both sides are multiples of 16, as `fit_size` chooses them.
    """
    if spec.input.fixed:
        return [first]
    height, width = first
    sizes = [first]
    for factor in FACTORS[1:]:
        area = round(height * factor), round(width * factor)
        size = fit_size(replace(spec, input=replace(spec.input, size=area)), width, height)
        if min(size) >= SMALLEST and size[0] * size[1] < sizes[-1][0] * sizes[-1][1]:
            sizes.append(size)
    return sizes


class Ladder:
    """Chooses among sizes, the largest first, so that a frame takes no longer than it may.

    Args:
        sizes: (height, width), each of less area than the one before.
        frame_rate: frames per second to keep.
    """

    def __init__(self, sizes: Sequence[Size], frame_rate: float) -> None:
        self.rung = 0
        self._areas = [height * width for height, width in sizes]
        self.keep(frame_rate)
        self._recent: deque[float] = deque(maxlen=FRAMES)
        self._here_since: float | None = None
        self._late_since: float | None = None
        self._shunned_until = [0.0] * len(sizes)
        self._shun = [SHUN_SECONDS] * len(sizes)
        self._climbed = False

    def keep(self, frame_rate: float) -> None:
        """Keep another frame rate from the next frame on."""
        self._most = 1.0 / frame_rate

    def take(self, seconds: float, now: float) -> int:
        """Count a frame that took `seconds` and was done at `now`; the rung for the next one."""
        self._recent.append(seconds)
        if self._here_since is None:
            self._here_since = now
        here = now - self._here_since
        if len(self._recent) >= FEWEST_FRAMES and here >= FEWEST_SECONDS:
            took = median(self._recent)
            if self._is_late(took, now):
                self._fall(took, now)
            elif here >= CALM_SECONDS:
                self._climb(took, now)
        return self.rung

    def _is_late(self, took: float, now: float) -> bool:
        if took <= self._most:
            self._late_since = None
            return False
        self._late_since = now if self._late_since is None else self._late_since
        return took > FAR * self._most or now - self._late_since >= LOST_SECONDS

    def _fall(self, took: float, now: float) -> None:
        """To the largest size that should keep the rate, or the smallest."""
        last = len(self._areas) - 1
        if self.rung == last:
            return
        if self._climbed:  # it was tried, and failed
            self._shunned_until[self.rung] = now + self._shun[self.rung]
            self._shun[self.rung] = min(2 * self._shun[self.rung], LONGEST_SHUN_SECONDS)
        fits = (
            rung
            for rung in range(self.rung + 1, last)
            if self._expected(took, rung) <= ROOM * self._most
        )
        self._step(next(fits, last), climbed=False)

    def _climb(self, took: float, now: float) -> None:
        """One size up, if there is room for it and it has not just failed."""
        if self.rung == 0:
            return
        above = self.rung - 1
        room = self._expected(took, above) <= ROOM * self._most
        if room and now >= self._shunned_until[above]:
            self._step(above, climbed=True)

    def _expected(self, took: float, rung: int) -> float:
        return took * self._areas[rung] / self._areas[self.rung]

    def _step(self, rung: int, *, climbed: bool) -> None:
        self.rung, self._climbed = rung, climbed
        self._recent.clear()
        self._here_since = self._late_since = None
