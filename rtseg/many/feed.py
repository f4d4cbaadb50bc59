"""One source of several, and how it fares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rtseg.clock import Pace
from rtseg.contracts import Source, SourceInfo
from rtseg.errors import RtsegError, SourceError
from rtseg.frame import Frame
from rtseg.session.pipeline import timed
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.threads import Flow


@dataclass(eq=False)
class Feed:
    """One source of several, and how it fares.

    Attributes:
        source: open; whoever opened it closes it.
        name: for people; no two of a run share one.
        newest: whether unread frames make way for newer ones.
        paced: whether every frame of a recording waits for its time.
        temporal: how the masks of its frames are tied together; not by propagation.
        stats: what happened to its frames.
        resting: whether nobody looks for the moment: what is lost then is lost by the pause.
        ended: whether nothing more will come.
        error: why, where it was lost.
    """

    source: Source
    name: str
    newest: bool = True
    paced: bool = False
    temporal: TemporalOptions = TemporalOptions()  # noqa: RUF009 - frozen
    stats: Stats = field(default_factory=Stats)
    resting: bool = False
    ended: bool = False
    error: RtsegError | None = None

    def frames(self) -> Iterator[Frame]:
        """The source's frames, timed and counted, each at its time if `paced`."""
        frames = timed(self.source, self.stats)
        return self._at_their_times(frames) if self.paced else frames

    def _at_their_times(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        clock = self.source.clock
        pace = Pace(clock)
        for frame in frames:
            self.source.wait(pace.left(frame.pts))
            yield replace(frame, captured_at=clock.now())

    def count(self, flow: Flow[Frame]) -> None:
        """Bring its numbers of frames up to date; `flow` is what reads it."""
        self.stats.count(flow.produced, {"capture": flow.replaced}, resting=self.resting)

    def out_of_date(self) -> None:
        """Count a frame that went through the network and is not shown, as the pause was long."""
        self.stats.lose("pause")

    def settle(self, flow: Flow[Frame]) -> None:
        """Count what was still on its way when the run stopped, and note a thread that hangs."""
        self.count(flow)
        if flow.hung:
            self.stats.hung.append(f"capture of {self.name}")
        self.stats.settle()


def add_up(totals: Stats, feeds: Sequence[Feed]) -> None:
    """Bring the numbers of frames of all sources together up to date."""
    totals.produced = sum(feed.stats.produced for feed in feeds)
    causes: Counter[str] = Counter()
    for feed in feeds:
        causes.update(feed.stats.dropped_by)
    totals.dropped_by = dict(causes)


class Unopened(Source):
    """Stands for a source that could not be opened: it is lost before its first frame.

    Raises:
        SourceError: when it is read, the one that opening raised.
    """

    def __init__(self, name: str, error: SourceError) -> None:
        super().__init__()
        self.info = SourceInfo(name, 640, 360, live=True)
        self.error = error

    def _read(self) -> Frame | None:
        raise self.error
