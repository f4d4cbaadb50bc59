"""Several sources through one network, iterated in the caller's thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import RtsegError, SourceError
from rtseg.frame import Frame
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.pipeline import timed
from rtseg.session.propagation import Rests, steadied, warm_up
from rtseg.stats import Pace, Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow, Turns, spread


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


class Memory:
    """Ties the masks of one source's frames together; used by one thread at a time.

    Args:
        options: smoothing, and whether the network rests while the picture stays as it is.
        stats: of the source.
    """

    def __init__(self, segmenter: Segmenter, options: TemporalOptions, stats: Stats) -> None:
        self._stats = stats
        self._smooth = Smoother(options.smooth) if options.smooth else None
        self._rests = Rests(segmenter) if options.idle else None

    def known(self, frame: Frame) -> Segmentation | None:
        """What is known of the next frame without the network; None when that must look."""
        if self._rests is None:
            return None
        with self._stats.stage("compare"):
            return self._rests.mask_of(frame)

    def asked(self, frame: Frame) -> Frame:
        """The frame as the network is to see it: no time has passed while it rested."""
        return frame if self._rests is None else self._rests.clocked(frame)

    def told(self, frame: Frame, pair: Pair) -> Segmentation:
        """Take what the network says of a frame, and give what is shown."""
        if self._smooth is not None:
            pair = steadied(pair, self._smooth, self._stats)
        if self._rests is not None:
            self._rests.looked(frame, pair[1])
        return pair[1]


LINGER_SECONDS = 0.02
"""So long at the most a batch waits for the looks of the last one to be taken: without, the sources
part into two groups, each of which is in the network while the other is not."""

FRESH_SECONDS = 0.1
"""After a pause, a frame of a live source may be as old as that."""


class Look(NamedTuple):
    """A frame of one of several sources, and what the network says of it.

    Attributes:
        source: the number of the source among them, from 0.
    """

    source: int
    frame: Frame
    segmentation: Segmentation


class Crowd:
    """Runs sources and a network, each in its threads, for as long as the `with` lasts.

    Every source is read by a thread of its own, into a mailbox of its own. Whatever they have when
    the network is free goes through it: all at once where the backend gains by batches; else one
    after the other, the source served longest ago first, on as many lanes as the backend has. A
    source gives its next frame to the network once its last look was taken and given `back`.

    Args:
        feeds: at least one.
        held: whether whoever reads keeps some looks for a while before giving them back.
    """

    def __init__(self, feeds: Sequence[Feed], segmenter: Segmenter, *, held: bool = False) -> None:
        self.feeds = tuple(feeds)
        self._segmenter = segmenter
        self._memories = [Memory(segmenter, feed.temporal, feed.stats) for feed in feeds]
        backend = segmenter.backend
        self._width = len(self.feeds) if backend.batches else 1
        self._linger = 0.0 if held or self._width == 1 else LINGER_SECONDS
        lanes = 1 if backend.batches else min(backend.lanes, len(self.feeds))
        self._frames = Turns(
            [
                Flow(f.frames(), latest=f.newest, name=f"capture-{n}", interrupt=f.source.interrupt)
                for n, f in enumerate(self.feeds)
            ]
        )
        self._looks = Turns(
            [
                Flow(self._segmented(), capacity=1, name="inference", interrupt=self._frames.stop)
                for _ in range(lanes)
            ]
        )
        self._stack = ExitStack()
        self._since = float("-inf")

    def __enter__(self) -> Crowd:
        self._warm_up()
        for feed in self.feeds:
            feed.stats.start()
        for flow in self._flows():
            self._stack.enter_context(flow)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for flow in self._flows():
            flow.stop()  # all of them, before any is waited for
        self._stack.close()
        for feed, flow in zip(self.feeds, self._frames.flows, strict=True):
            feed.settle(flow)
        hung = [flow.name for flow in self._looks.flows if flow.hung]
        self.feeds[0].stats.hung += hung

    def poll(self, seconds: float) -> Iterator[list[Look]]:
        """What came, at most one look of each source; [] whenever nothing came for `seconds`.

        Ends when every source has ended; one that was lost keeps its error, and the others go on.

        Raises:
            BackendError: the network failed.
        """
        while not all(feed.ended for feed in self.feeds):
            looks: list[Look] = []
            for lane, some in self._looks.take(len(self._looks.flows), seconds):
                looks += filter(self._is_due, some)
                self._looks.back(lane)
            self._count()
            yield looks
            for flow in self._looks.flows:
                if flow.over and flow.error is not None:
                    raise flow.error
            self._note_endings()

    def back(self, look: Look) -> None:
        """Let the next frame of a look's source go into the network."""
        self._frames.back(look.source)

    def rest(self) -> None:
        """Nobody takes looks for a while: recordings stand still, and so does the network.

        Cameras and streams are read on, or old frames would wait in their drivers.
        """
        self._count()
        for feed, flow in zip(self.feeds, self._frames.flows, strict=True):
            feed.resting = True
            if feed.newest and not feed.source.info.live:
                flow.hold()

    def go_on(self) -> None:
        """After `rest`; looks of what was captured well before now are left out, where not every
        frame is to be kept."""
        self._count()
        self._since = self.feeds[0].source.clock.now() - FRESH_SECONDS
        for feed, flow in zip(self.feeds, self._frames.flows, strict=True):
            feed.resting = False
            flow.release()

    def _is_due(self, look: Look) -> bool:
        """Whether a look is still to be shown; its source goes on if not."""
        feed = self.feeds[look.source]
        if not feed.newest or look.frame.captured_at >= self._since:
            return True
        feed.out_of_date()
        self.back(look)
        return False

    def _flows(self) -> tuple[Flow[Any], ...]:
        return (*self._frames.flows, *self._looks.flows)

    def _segmented(self) -> Iterator[list[Look]]:
        """What one lane does; runs in its thread."""
        for taken in self._frames.rounds(self._width):
            known = [(n, frame, self._memories[n].known(frame)) for n, frame in taken]
            if found := [self._look(n, (f, said)) for n, f, said in known if said is not None]:
                yield found
            if asked := [(n, frame) for n, frame, said in known if said is None]:
                yield self._together(asked)
            self._frames.wait_back([n for n, _ in taken], self._linger)

    def _together(self, asked: list[tuple[int, Frame]]) -> list[Look]:
        """Frames of several sources through the network, in one call."""
        frames = [self._memories[n].asked(frame) for n, frame in asked]
        clock = self.feeds[0].source.clock
        pairs, preprocess, infer = self._segmenter.together(frames, clock)
        looks = []
        for (n, frame), pair in zip(asked, pairs, strict=True):
            self.feeds[n].stats.add("preprocess", preprocess)
            self.feeds[n].stats.add("infer", infer)
            looks.append(self._look(n, (frame, self._memories[n].told(frame, pair))))
        return looks

    def _look(self, source: int, pair: Pair) -> Look:
        return Look(source, *self._segmenter.finished(pair))

    def _warm_up(self) -> None:
        """Run every batch that may come, as libraries prepare for each size when they meet it."""
        warm_up(TemporalOptions(max(feed.temporal.smooth for feed in self.feeds)))
        blank = Frame(np.zeros((*self._segmenter.input_size, 3), np.uint8), 0, 0.0, 0.0)
        counts = range(2, self._width + 1)
        doubled = [count for count in counts if count.bit_count() == 1]
        # a backend that prepares for some serves up to half as many with the same
        for count in dict.fromkeys((*doubled, *reversed(counts))):
            self._segmenter.together([blank] * count, self.feeds[0].source.clock)

    def _count(self) -> None:
        for feed, flow in zip(self.feeds, self._frames.flows, strict=True):
            feed.count(flow)

    def _note_endings(self) -> None:
        for index, (feed, flow) in enumerate(zip(self.feeds, self._frames.flows, strict=True)):
            if feed.ended or not self._frames.is_through(index):
                continue
            if flow.error is not None and not isinstance(flow.error, RtsegError):
                raise flow.error
            feed.ended, feed.error = True, flow.error


def common_shape(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) of frames that sources of several shapes are squeezed into the least.

    Each is stretched to the network's one input; the geometric mean of their shapes keeps the sum
    of the squared logarithms of these stretches smallest.
    """
    shapes = np.array([width / height for width, height in sizes])
    shape = float(np.exp(np.log(shapes).mean()))
    area = max(width * height for width, height in sizes)
    return max(1, round(sqrt(area * shape))), max(1, round(sqrt(area / shape)))


Open = Callable[[], Source]


def open_all(openers: Sequence[tuple[str, Open]]) -> list[Source]:
    """Open sources beside each other, each by a call; in their order.

    One that cannot be opened is an `Unopened` of the name that stands before its call.

    Raises:
        RtsegError: a call failed in another way, as of what makes no sense; the others are closed.
    """
    found = list(spread(openers, _attempt, lanes=max(1, len(openers)), name="open"))
    failed = [result for result in found if isinstance(result, RtsegError)]
    sources = [result for result in found if isinstance(result, Source)]
    if failed:
        for source in sources:
            source.close()
        raise failed[0]
    return sources


def _attempt(opener: tuple[str, Open]) -> Source | RtsegError:
    name, opened = opener
    try:
        return opened()
    except SourceError as error:
        return Unopened(name, error)
    except RtsegError as error:
        return error
