"""Several sources through one network, iterated in the caller's thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from rtseg.errors import RtsegError
from rtseg.frame import Frame
from rtseg.many.feed import Feed
from rtseg.many.memory import Memory
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.propagation import warm_up
from rtseg.temporal import TemporalOptions
from rtseg.threads import Flow
from rtseg.turns import Turns

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
