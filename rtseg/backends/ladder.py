"""One network open at several input sizes, of which the frame rate chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import fit_size
from rtseg.backends.options import SMALLEST
from rtseg.contracts import Backend
from rtseg.errors import UsageError
from rtseg.frame import Picture
from rtseg.segmentation import HeldScores
from rtseg.stats import Clock, Stats
from rtseg.threads import one_at_a_time
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


BESIDE = ("preprocess", "smooth")
"""Stages that the network's thread has besides it."""


class AdaptiveBackend(Backend):
    """Runs a network at the largest input size that keeps a frame rate.

    All sizes are loaded and warm beforehand. `input_size` changes between frames, in a thread that
    runs the network; everything else is that of the first size. What counts is the time that a
    frame takes in such a thread, of which there may be as many as `lanes`: waiting for a camera is
    no reason to shrink.

    Args:
        rungs: the same network at its sizes, the largest first.
        frame_rate: frames per second to keep, of all sources together.
    """

    def __init__(
        self,
        rungs: Sequence[Backend],
        frame_rate: float,
        *,
        clock: Clock | None = None,
    ) -> None:
        first = rungs[0]
        self.spec, self.info, self.input_size = first.spec, first.info, first.input_size
        self.sizes = [rung.input_size for rung in rungs]
        self.lanes = min(rung.lanes for rung in rungs)
        self._rungs = list(rungs)
        self._ladder = Ladder(self.sizes, frame_rate)
        self._clock = clock or Clock()
        self._stats: Stats | None = None
        self._sources: Sequence[Stats] = ()
        self._lock = one_at_a_time()
        if all(rung.see is not None for rung in rungs):
            self.see = self._see

    def attend(self, stats: Stats, sources: Sequence[Stats] = ()) -> None:
        """Let it know the figures of a run: what a frame takes beside the network is read there,
        and each frame's size is written.

        Args:
            stats: of the run.
            sources: of each source where there are several: they have the times.
        """
        self._stats, self._sources = stats, sources or (stats,)

    def keep(self, frame_rate: float) -> None:
        """Keep another rate, of all sources together: one has ended, say."""
        with self._lock:
            self._ladder.keep(frame_rate)

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; `input_size` may be another one afterwards."""
        since = self._clock.now()
        size = (batch.shape[1], batch.shape[2])  # another lane may have changed it since
        scores = self._rungs[self.sizes.index(size)](batch)
        self._count(self._clock.now() - since, size)
        return scores

    def _see(self, pictures: Sequence[Picture]) -> list[HeldScores]:
        rung = self._ladder.rung
        see = self._rungs[rung].see
        assert see is not None
        *others, last = see(pictures)
        return [*others, Counted(last, lambda seconds: self._count(seconds, self.sizes[rung]))]

    def _count(self, seconds: float, size: Size) -> None:
        """Note what the network took for a frame, and choose the size for the next one.

        What was begun at a size that it has left since says nothing about the present one.
        """
        with self._lock:
            if self._stats is not None:
                self._stats.count_input(size)
            if size == self.input_size:
                took = (seconds + self._beside()) / self.lanes
                self.input_size = self.sizes[self._ladder.take(took, self._clock.now())]

    def _beside(self) -> float:
        """Seconds that a frame takes in this thread beside the network, of late."""
        each = [sum(dict(s.recent).get(stage, 0.0) for stage in BESIDE) for s in self._sources]
        return sum(each) / len(each) if each else 0.0

    def close(self) -> None:
        """Free all of them."""
        for rung in self._rungs:
            rung.close()


class Counted:
    """Scores on a device that tell, when they are first waited for, how long it took for them."""

    def __init__(self, held: HeldScores, count: Callable[[float], None]) -> None:
        self._held = held
        self._count: Callable[[float], None] | None = count

    def wait(self) -> float:
        """Return once they are complete: the seconds that the device took for them."""
        seconds = self._held.wait()
        count, self._count = self._count, None
        if count is not None:
            count(seconds)
        return seconds

    def __getattr__(self, name: str) -> Any:
        """All else is theirs."""
        return getattr(self._held, name)


def open_adaptive(
    first: Backend, opened: Callable[[Size], Backend], frame_rate: float
) -> AdaptiveBackend:
    """The network at the sizes below the first one's, too.

    Args:
        first: the network at its largest size; it is closed with the others, also on failure.
        opened: loads it at another size.

    Raises:
        UsageError: the network takes one size only.
        RtsegError: what `opened` raises.
    """
    rungs = [first]
    try:
        sizes = ladder_sizes(first.spec, first.input_size)
        if len(sizes) == 1:
            height, width = sizes[0]
            raise UsageError(
                f"a frame rate to keep with {first.spec.name}",
                found=f"its input is {height}x{width}, and there is no smaller one",
                do="Leave --target-fps out",
            )
        for size in sizes[1:]:
            rungs.append(opened(size))
    except BaseException:
        for rung in rungs:
            rung.close()
        raise
    return AdaptiveBackend(rungs, frame_rate)
