"""Time, passed in: code that waits or stamps takes a `Clock`, so that tests never sleep."""

from __future__ import annotations

import time


class Clock:
    """The machine's monotonic clock, in seconds."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        return time.perf_counter()

    def worked(self) -> float:
        """Seconds that processors have spent on this program until now, all threads together."""
        return time.process_time()

    def sleep(self, seconds: float) -> None:
        """Return after at least `seconds`; at once for zero or less."""
        if seconds > 0:
            time.sleep(seconds)


class ManualClock(Clock):
    """A clock that moves only when told to, or when somebody sleeps on it."""

    def __init__(self, now: float = 0.0) -> None:
        self.time = now

    def now(self) -> float:
        """The time it was last moved to, in seconds."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Move forward by `seconds` and return at once."""
        self.time += max(0.0, seconds)


LATE_SECONDS = 0.05
"""A frame that is later than this puts off those after it; a smaller delay is made good."""


class Pace:
    """When the frames of a recording are due, so that it plays at its own speed and no faster.

    The first frame asked for is due at once. What is shown too slowly is never made up for by a
    rush: a frame that is late sets the time anew.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero: float | None = None

    def left(self, pts: float) -> float:
        """Seconds until the frame at `pts` is due; 0 once it is."""
        now = self._clock.now()
        if self._zero is None or now - (self._zero + pts) > LATE_SECONDS:
            self._zero = now - pts
        return max(0.0, self._zero + pts - now)
