"""A recording replayed as a camera would give it."""

from __future__ import annotations

from dataclasses import replace

from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame
from rtseg.sources.derived import Derived

USUAL_RATE = 25


class Replay(Derived):
    """Every frame comes when its time does, and is lost when the one after it comes first.

    Frames are stamped with the time at which they were due: what the replay itself is late by is
    part of their age. Those lost leave gaps in the numbers, as a camera's do; those that were not
    wanted, as with `every`, leave none.
    """

    def __init__(self, inner: Source) -> None:
        self._zero: float | None = None
        self._index: int | None = None
        super().__init__(inner)

    def _describe(self, info: SourceInfo) -> SourceInfo:
        return replace(info, live=True, frame_count=None)

    def _read(self) -> Frame | None:
        frame = self._counted()
        while frame is not None and self._due(frame) + self._step() <= self.clock.now():
            frame = self._counted()
        if frame is None:
            return None
        due = self._due(frame)
        self.wait(due - self.clock.now())
        return None if self._interrupted else replace(frame, captured_at=due)

    def _counted(self) -> Frame | None:
        """The next frame, numbered on from the one before."""
        frame = self._next()
        if frame is None:
            return None
        self._index = frame.index if self._index is None else self._index + 1
        return replace(frame, index=self._index)

    def _due(self, frame: Frame) -> float:
        """Monotonic seconds at which a frame comes; the first one comes at once."""
        if self._zero is None:
            self._zero = self.clock.now() - frame.pts
        return self._zero + frame.pts

    def _step(self) -> float:
        return float(1 / (self.info.frame_rate or USUAL_RATE))
