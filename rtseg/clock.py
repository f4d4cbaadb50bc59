"""Time, passed in: code that waits or stamps takes a `Clock`, so that tests never sleep."""

from __future__ import annotations

import time


class Clock:
    """The machine's monotonic clock, in seconds."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        return time.perf_counter()

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
