"""One network open at input sizes of several areas; the frame rate decides which one runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import fit_size, odd_pixel
from rtseg.backends.fitted import FittedBackend
from rtseg.backends.options import STRIDE
from rtseg.contracts import Backend
from rtseg.errors import UsageError
from rtseg.frame import HeldScores, Picture
from rtseg.options import MIN_SIDE, Size
from rtseg.stats import Clock, Stats
from rtseg.zoo import ModelSpec

FACTORS = (1.0, 0.8, 0.64, 0.5)
"""Of the largest size's sides."""

WINDOW = 15
"""The median of this many frames counts: a hiccup of a few changes nothing."""

MIN_FRAMES, MIN_SECONDS = 5, 0.3
"""At a size, before it may be left."""

MISS_FACTOR, MISS_SECONDS = 1.2, 0.7
"""A frame time over the limit by this factor counts as a miss at once; by less, once it lasts."""

HEADROOM = 0.85
"""A size is chosen if its expected frame time is at most this share of the limit."""

SETTLE_SECONDS = 2.0
"""At a size, before a larger one is tried."""

AVOID_SECONDS, MAX_AVOID_SECONDS = 8.0, 120.0
"""How long a size is avoided after it was tried and missed the rate; doubled each time."""

OTHER_STAGES = ("preprocess", "smooth")
"""Stages that run in the network's thread beside it."""


def ladder_sizes(spec: ModelSpec, first: Size) -> list[Size]:
    """Input sizes of the shape of `first`, from it downwards; it alone if the network has one size.

    Sides are such as `fit_size` chooses them.
    """
    if spec.input.fixed:
        return [first]
    height, width = first
    sizes = [first]
    for factor in FACTORS[1:]:
        area = round(height * factor), round(width * factor)
        if odd_pixel(spec.input.size):
            area = area[0] // STRIDE * STRIDE + 1, area[1] // STRIDE * STRIDE + 1
        size = fit_size(replace(spec, input=replace(spec.input, size=area)), width, height)
        if min(size) >= MIN_SIDE and size[0] * size[1] < sizes[-1][0] * sizes[-1][1]:
            sizes.append(size)
    return sizes


def open_adaptive(
    first: Backend, load: Callable[[Size], Backend], frame_rate: float, size: Size | None = None
) -> AdaptiveBackend:
    """The network at the sizes below the first one's, too; at each, in the shape of the frame.

    Args:
        first: the network at its largest size; closed with the others, also on failure.
        load: loads it at another size.
        frame_rate: frames per second to keep.
        size: (height, width) of the largest input for all frames; None follows their shape.

    Raises:
        UsageError: the network takes one size only.
        RtsegError: what `load` raises.
    """
    opened = [first]
    try:
        spec, sizes = first.spec, ladder_sizes(first.spec, first.input_size)
        if len(sizes) == 1:
            height, width = sizes[0]
            raise UsageError(
                f"a target frame rate with {spec.name}",
                found=f"its input is {height}x{width}, and there is no smaller one",
                do="Remove --target-fps",
            )
        for smaller in sizes[1:]:
            opened.append(load(smaller))
    except BaseException:
        for backend in opened:
            backend.close()
        raise

    def fitted(rung: int) -> Backend:
        def fit(height: int, width: int) -> Size:
            found = ladder_sizes(spec, size or fit_size(spec, width, height))
            return found[min(rung, len(found) - 1)]

        return FittedBackend(opened[rung], load, fit)

    return AdaptiveBackend([fitted(rung) for rung in range(len(opened))], frame_rate)


class AdaptiveBackend(Backend):
    """Runs a network at the largest input size that keeps a frame rate.

    The sizes of all rungs are loaded and warm beforehand; those for frames of another shape when
    the first one comes, unless they are prepared. `input_size` changes between frames, in a thread
    that runs the network; everything else is that of the first size. What counts is the time that a
    frame takes in such a thread, of which there are up to `lanes`: waiting for a camera is no
    reason to shrink.

    Args:
        rungs: the same network at its sizes, the largest first; each may fit the frame's shape.
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
        self._lock = threading.Lock()
        self._rung_of = {size: rung for rung, size in enumerate(self.sizes)}
        self._frame_size: Size | None = None
        if all(rung.segment is not None for rung in rungs):
            self.segment = self._segment

    def size_for(self, frame_size: Size) -> Size:
        """(height, width) of the input for the next frame, of this (height, width)."""
        rung = self._ladder.rung
        size = self._rungs[rung].size_for(frame_size)
        self._rung_of[size], self._frame_size = rung, frame_size
        return size

    def prepare(self, frame_sizes: Sequence[Size]) -> None:
        """Open all rungs for frames of these (height, width); raises as `FittedBackend.prepare`."""
        for rung in self._rungs:
            if isinstance(rung, FittedBackend):
                rung.prepare(frame_sizes)

    def attend(self, stats: Stats, sources: Sequence[Stats] = ()) -> None:
        """Read a frame's time beside the network from a run's figures, and count each frame's size.

        Args:
            stats: of the run.
            sources: of each source if there are several: they have the times.
        """
        self._stats, self._sources = stats, sources or (stats,)

    def keep(self, frame_rate: float) -> None:
        """Keep another rate, of all sources together, as when one has ended."""
        with self._lock:
            self._ladder.keep(frame_rate)

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the contract says; `input_size` may be another one afterwards."""
        start = self._clock.now()
        size = (batch.shape[1], batch.shape[2])  # another lane may have changed it since
        rung = self._rung_of[size]
        scores = self._rungs[rung](batch)
        self._count(self._clock.now() - start, rung, size)
        return scores

    def close(self) -> None:
        """Free all sizes."""
        for rung in self._rungs:
            rung.close()

    def _segment(self, pictures: Sequence[Picture]) -> list[HeldScores]:
        rung = self._ladder.rung
        segment = self._rungs[rung].segment
        assert segment is not None
        *others, last = segment(pictures)
        self._frame_size = pictures[-1].shape[0], pictures[-1].shape[1]
        size = self._rungs[rung].size_for(self._frame_size)
        return [*others, TimedScores(last, lambda took: self._count(took, rung, size))]

    def _count(self, seconds: float, rung: int, size: Size) -> None:
        """Note the network's time for a frame, and choose the size for the next one.

        A frame that began at a rung that has been left since says nothing about the present one.
        """
        with self._lock:
            if self._stats is not None:
                self._stats.count_input(size)
            if rung == self._ladder.rung:
                took = (seconds + self._other_seconds()) / self.lanes
                rung = self._ladder.take(took, self._clock.now())
                frame = self._frame_size
                self.input_size = self._rungs[rung].size_for(frame) if frame else self.sizes[rung]

    def _other_seconds(self) -> float:
        """Recent seconds that a frame takes in this thread beside the network."""
        each = [
            sum(dict(s.recent).get(stage, 0.0) for stage in OTHER_STAGES) for s in self._sources
        ]
        return sum(each) / len(each) if each else 0.0


class TimedScores:
    """Scores on a device that report their time when they are first waited for."""

    def __init__(self, held: HeldScores, report: Callable[[float], None]) -> None:
        self._held = held
        self._report: Callable[[float], None] | None = report

    def wait(self) -> float:
        """Return once they are complete: the seconds that the device took for them."""
        seconds = self._held.wait()
        report, self._report = self._report, None
        if report is not None:
            report(seconds)
        return seconds

    def __getattr__(self, name: str) -> Any:
        """Everything else is theirs."""
        return getattr(self._held, name)


class Ladder:
    """Chooses among sizes, largest first, so that a frame takes no longer than the rate allows.

    Args:
        sizes: (height, width), each of less area than the one before.
        frame_rate: frames per second to keep.

    Attributes:
        rung: index of the present size.
    """

    def __init__(self, sizes: Sequence[Size], frame_rate: float) -> None:
        self.rung = 0
        self._areas = [height * width for height, width in sizes]
        self.keep(frame_rate)
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._here_since: float | None = None
        self._late_since: float | None = None
        self._avoid_until = [0.0] * len(sizes)
        self._avoid_seconds = [AVOID_SECONDS] * len(sizes)
        self._climbed = False

    def keep(self, frame_rate: float) -> None:
        """Keep another frame rate from the next frame on."""
        self._limit = 1.0 / frame_rate

    def take(self, seconds: float, now: float) -> int:
        """Count a frame that took `seconds` and ended at `now`; the rung for the next one."""
        self._recent.append(seconds)
        if self._here_since is None:
            self._here_since = now
        here = now - self._here_since
        if len(self._recent) >= MIN_FRAMES and here >= MIN_SECONDS:
            took = median(self._recent)
            if self._is_late(took, now):
                self._descend(took, now)
            elif here >= SETTLE_SECONDS:
                self._climb(took, now)
        return self.rung

    def _is_late(self, took: float, now: float) -> bool:
        if took <= self._limit:
            self._late_since = None
            return False
        self._late_since = now if self._late_since is None else self._late_since
        return took > MISS_FACTOR * self._limit or now - self._late_since >= MISS_SECONDS

    def _descend(self, took: float, now: float) -> None:
        """To the largest size that should keep the rate, or the smallest."""
        last = len(self._areas) - 1
        if self.rung == last:
            return
        if self._climbed:  # it was tried, and failed
            self._avoid_until[self.rung] = now + self._avoid_seconds[self.rung]
            self._avoid_seconds[self.rung] = min(
                2 * self._avoid_seconds[self.rung], MAX_AVOID_SECONDS
            )
        fits = (rung for rung in range(self.rung + 1, last) if self._fits(took, rung))
        self._move(next(fits, last), climbed=False)

    def _climb(self, took: float, now: float) -> None:
        """One size up, if it should keep the rate and has not just failed to."""
        above = self.rung - 1
        if above >= 0 and self._fits(took, above) and now >= self._avoid_until[above]:
            self._move(above, climbed=True)

    def _fits(self, took: float, rung: int) -> bool:
        expected = took * self._areas[rung] / self._areas[self.rung]
        return expected <= HEADROOM * self._limit

    def _move(self, rung: int, *, climbed: bool) -> None:
        self.rung, self._climbed = rung, climbed
        self._recent.clear()
        self._here_since = self._late_since = None
