"""No more frames than so many a second: the others are left out where they come in."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rtseg.contracts import Source, SourceInfo
from rtseg.frame import Frame
from rtseg.sources.derived import Derived

EARLY_SHARE = 0.25
"""Of the time between two frames: by so much one may come too soon, or a camera's jitter would
cost every frame that it makes a hair early."""


class RateCap:
    """Says which frames to take so that they are `rate` a second and no more, on average."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._due: float | None = None

    def takes(self, at: float) -> bool:
        """Whether to take the frame of time `at`, in seconds; asked once for each."""
        if self._due is None or not self._due - 2 * self._step < at < self._due + self._step:
            self._due = at  # the first one, or the first after a pause or a step back
        elif at < self._due - EARLY_SHARE * self._step:
            return False
        self._due += self._step
        return True


class Capped(Derived):
    """A source without the frames that come above a rate, by their pts.

    A file's frames keep their numbers; a live source's are recounted, as a gap in those is a drop.
    """

    def __init__(self, inner: Source, rate: float) -> None:
        self._rate, self._cap, self._left_out = rate, RateCap(rate), 0
        super().__init__(inner)

    @property
    def capped(self) -> int:  # type: ignore[override]  # read-only
        """Frames left out until now."""
        return self._left_out

    def _describe(self, info: SourceInfo) -> SourceInfo:
        if info.frame_rate is None or info.frame_rate <= self._rate or info.frame_count == 1:
            return info
        rate = Fraction(self._rate).limit_denominator(1001)
        return replace(info, frame_rate=rate, frame_count=None)

    def _read(self) -> Frame | None:
        while (frame := self._next()) is not None:
            if self._cap.takes(frame.pts):
                live = self.info.live
                return replace(frame, index=frame.index - self._left_out) if live else frame
            self._left_out += 1
        return None
