"""The network in a thread of its own, as those see it who carry its scores."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.frame import Frame
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Stats
from rtseg.threads import Flow, Slot


@dataclass
class Network:
    """The network in its own thread: one keyframe is asked for at a time, and answered later."""

    segmenter: Segmenter
    asked: Slot[Frame]
    keys: Flow[Pair]
    stats: Stats

    def count(self, cause: str) -> None:
        """One more keyframe."""
        self.stats.keyframes[cause] = self.stats.keyframes.get(cause, 0) + 1
