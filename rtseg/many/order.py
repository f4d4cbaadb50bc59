"""When the looks of several sources are shown, and what time it is then in the film of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from rtseg.clock import Clock
from rtseg.many.feed import Feed
from rtseg.session.many import Look

USUAL_RATE = 25


class Order(Protocol):
    """Which looks are shown now, and the film's time."""

    def due(self, looks: Iterable[Look]) -> Iterator[tuple[Look, float]]:
        """Those to be shown now, each with the seconds of the film at which it begins."""

    def seconds(self) -> float:
        """The film's time by now."""

    def is_past(self, source: int) -> bool:
        """Whether the film is beyond the last look of a source that has ended."""


class AsTheyCome:
    """By the clock: each look at once; the film begins with the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero: float | None = None

    def due(self, looks: Iterable[Look]) -> Iterator[tuple[Look, float]]:
        """All of them."""
        for look in looks:
            if self._zero is None:
                self._zero = self._clock.now()
            yield look, self.seconds()

    def seconds(self) -> float:
        """Since the first look."""
        return 0.0 if self._zero is None else self._clock.now() - self._zero

    def is_past(self, source: int) -> bool:
        """Always: it was shown when it came."""
        return True


class ByTheirTimes:
    """Recordings beside each other, by their own times, however quick the network is on each.

    A look waits, and so does its source, until no other can have an earlier one.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._waiting: dict[int, Look] = {}
        self._now = 0.0
        self._ends = [0.0] * len(feeds)

    def due(self, looks: Iterable[Look]) -> Iterator[tuple[Look, float]]:
        """Those that no other source can come before."""
        self._waiting |= {look.source: look for look in looks}
        while self._waiting and self._all_are_here():
            first = min(self._waiting.values(), key=lambda look: (look.frame.pts, look.source))
            del self._waiting[first.source]
            rate = self._feeds[first.source].source.info.frame_rate or USUAL_RATE
            self._now = first.frame.pts
            self._ends[first.source] = self._now + float(1 / rate)
            yield first, self._now

    def seconds(self) -> float:
        """The end of the last look shown, once nothing is to come; until then it stands still."""
        return max(self._ends) if all(feed.ended for feed in self._feeds) else self._now

    def is_past(self, source: int) -> bool:
        """Once a later look is shown: its last one has its time too."""
        return self.seconds() >= self._ends[source]

    def _all_are_here(self) -> bool:
        return all(feed.ended or i in self._waiting for i, feed in enumerate(self._feeds))
