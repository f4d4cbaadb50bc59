"""When each frame is shown, in ticks of a time base: constant rates exactly, others truly."""

from __future__ import annotations

from fractions import Fraction

from rtseg.contracts import SourceInfo
from rtseg.frame import Frame

JITTER_SECONDS = 0.00105
"""Containers that count milliseconds (Matroska, FLV) round a frame's time, and the first's."""

FINE_HZ = 90_000
USUAL_RATE, USUAL_LIVE_RATE = Fraction(25), Fraction(30)
"""Where none is told: that by which pictures and raw frames are timed; that of most cameras."""


class Timeline:
    """Turns the times of a source's frames into strictly increasing ticks.

    A frame within the jitter of a constant-rate grid is put on it, until the first that is not:
    from there on the source has a variable rate, and its own times are kept to the tick. Live
    sources are timed by the clock that stamped their frames.

    Attributes:
        rate: nominal frames per second.
        time_base: seconds per tick; a frame at `rate` lasts a whole number of ticks.
    """

    def __init__(self, info: SourceInfo) -> None:
        rate = info.frame_rate if info.frame_rate and info.frame_rate > 0 else None
        usual = USUAL_LIVE_RATE if info.live else USUAL_RATE
        self.rate = (rate or usual).limit_denominator(100_000)
        finer = max(1, -(-FINE_HZ // self.rate.numerator))
        self.time_base = Fraction(1, self.rate.numerator * finer)
        self._step = self.rate.denominator * finer
        self._live = info.live
        self._constant = rate is not None and not info.live
        self._first: float | None = None
        self._last = -1
        self._gap = self._step

    def tick(self, frame: Frame) -> int:
        """The time of the next frame, in ticks from the first."""
        seconds = frame.captured_at if self._live else frame.pts
        if self._first is None:
            self._first = seconds
        tick = max(self._snapped(seconds - self._first), self._last + 1)
        if self._last >= 0:
            self._gap = tick - self._last
        self._last = tick
        return tick

    @property
    def end(self) -> int:
        """The tick at which the last frame ends.

        It lasts one frame at a constant rate. At a variable one it lasts as long as the one
        before did, but a pause is not repeated: that is anything over a nominal frame, or, live,
        where the nominal rate may be far off, over a second.
        """
        if self._constant:
            return self._last + self._step
        return self._last + min(self._gap, self.time_base.denominator if self._live else self._step)

    def _snapped(self, seconds: float) -> int:
        if self._constant:
            nearest = round(seconds * self.rate)
            off = abs(seconds - float(nearest / self.rate))
            if off <= min(JITTER_SECONDS, 0.45 / float(self.rate)):
                return nearest * self._step
            self._constant = False
        return round(seconds / self.time_base)
