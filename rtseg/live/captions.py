"""What goes on, in plain words: why pictures are late or left out, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from rtseg.contracts import Source
from rtseg.stats import Stats

LATE_SECONDS = 0.15
"""A picture older than this is seen to be late."""

FEW_A_SECOND = 2.0
"""Frames that may be left out without a word."""

BUSY_STAGES = {
    "infer": "the network",
    "preprocess": "preparing the picture",
    "draw": "drawing",
    "write": "showing and writing",
    "decode": "decoding the mask",
    "smooth": "smoothing",
}
"""What each stage is to a person; the largest of them is what a late picture waited for."""


class Captions:
    """Looks at the figures of a run now and then, and says what they mean.

    Args:
        interval: seconds over which drops are looked at.
    """

    def __init__(self, source: Source, stats: Stats, interval: float = 2.0) -> None:
        self._source, self._stats, self._interval = source, stats, interval
        self._next = 0.0
        self._before: dict[str, int] = {}
        self._dropping: dict[str, int] = {}

    def lines(self) -> list[str]:
        """None, one or two sentences for `draw.panel`; only of live sources, whose age counts."""
        if not self._source.info.live:
            return []
        self._look()
        return [line for line in (self._late(), self._dropped()) if line]

    def _look(self) -> None:
        now = self._stats.clock.now()
        if now < self._next:
            return
        self._next = now + self._interval
        counts = dict(self._stats.dropped_by)
        self._dropping = {c: n - self._before.get(c, 0) for c, n in counts.items()}
        self._before = counts

    def _late(self) -> str:
        recent = self._stats.recent
        age = recent.get("age", 0.0)
        if age < LATE_SECONDS:
            return ""
        slowest = max(BUSY_STAGES, key=lambda stage: recent.get(stage, 0.0))
        takes = recent.get(slowest, 0.0)
        return f"late by {_ms(age)}: {BUSY_STAGES[slowest]} takes {_ms(takes)}"

    def _dropped(self) -> str:
        """What most frames were lost to of late; few are no news."""
        cause = max(self._dropping, key=lambda each: self._dropping[each], default="")
        rate = self._dropping.get(cause, 0) / self._interval
        if rate < FEW_A_SECOND or cause not in REASONS:
            return ""
        return f"{rate:.0f} frames a second left out: {REASONS[cause](self._stats)}"


def _network(stats: Stats) -> str:
    return f"the network manages {stats.fps_now:.0f} a second"


REASONS: dict[str, Callable[[Stats], str]] = {
    "capture": _network,
    "display": lambda stats: "drawing, showing and writing take too long",
    "camera": lambda stats: "the camera skips them",
}
"""Why frames are lost, by the cause that `Stats` counts them under."""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
