"""One network open at several input sizes, of which the frame rate chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.ladder import Ladder, Size, ladder_sizes
from rtseg.clock import Clock
from rtseg.contracts import Backend
from rtseg.errors import UsageError
from rtseg.frame import Picture
from rtseg.segmentation import HeldScores
from rtseg.stats import Stats
from rtseg.threads import one_at_a_time

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
