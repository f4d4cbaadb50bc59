"""What the threads of a session share: one network, in fair turns or in one batch, and one reader.

None of this starts a thread, see `rtseg.threads`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from rtseg.contracts import Backend, SourceInfo
from rtseg.frame import Frame, Image, Segmentation
from rtseg.labels import LabelSet
from rtseg.segmenter import Pair, Segmenter, TimedPair
from rtseg.stats import Clock
from rtseg.threads import Flow

LINGER_SECONDS = 0.02
"""A batch waits at most that long for the results of the last one to be used: otherwise the
sources split into two groups, each in the network while the other is not."""

T = TypeVar("T")
R = TypeVar("R")


class RoundRobin(Generic[T]):
    """Reads several flows in one thread: at most one item of each flow at a time."""

    def __init__(self) -> None:
        self._flows: dict[int, Flow[T]] = {}
        self._changed = threading.Condition()

    def add(self, number: int, flow: Flow[T]) -> None:
        """Read a flow too; it must not run yet."""
        flow.share(self._changed)
        with self._changed:
            self._flows[number] = flow

    def remove(self, number: int) -> None:
        """Read a flow no longer."""
        with self._changed:
            del self._flows[number]

    def take(self, seconds: float) -> list[tuple[int, T]]:
        """Items that are there, with the numbers of their flows; empty if none comes in time.

        Waits for at most `seconds`, and not at all once every flow is over.
        """
        taken: list[tuple[int, T]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._fill(taken) or self._over(), seconds)
        return taken

    def _over(self) -> bool:
        return all(flow.over for flow in self._flows.values())

    def _fill(self, taken: list[tuple[int, T]]) -> bool:
        taken += [(n, item) for n, f in self._flows.items() if (item := f.take()) is not None]
        return bool(taken)


class Stopped(Exception):  # noqa: N818 - an end, not an error
    """Raised in threads that wait for something shared once it was stopped."""


class Shared(Generic[T, R]):
    """Something that several threads use in fair turns, or together where that is cheaper.

    A thread takes its turn, chooses its item then and there, and calls this with it; a turn may
    also pass without a call. The thread that has waited longest is next. With a `width` above 1,
    all threads that wait, up to that many, share one turn, and their items become one batch; so
    that they stay together, a batch waits a moment for the threads of the last one.

    Args:
        work: called with the items of a turn, in one of its threads; returns a result for each.
        width: threads in a turn.
        lanes: turns at once.
        linger_seconds: how long a batch may wait for threads of the last one; see `finished`.
    """

    GRACE_SECONDS = 0.002
    """How long a thread may take from `finished` to its next turn."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        width: int = 1,
        lanes: int = 1,
        linger_seconds: float = 0.0,
    ) -> None:
        self._work, self._width, self._lanes = work, width, lanes
        self._linger_seconds = linger_seconds
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, None] = {}
        self._turns: dict[Hashable, _Turn[T, R]] = {}
        self._expected: set[Hashable] = set()
        self._unfinished: set[Hashable] = set()
        self._linger_until = 0.0
        self._stopped = False

    @contextmanager
    def turn(self, who: Hashable) -> Iterator[None]:
        """Wait for a turn, and have it while the block lasts; a turn within a turn is the same.

        Raises:
            Stopped: it was stopped meanwhile.
        """
        if who in self._turns:
            yield
            return
        self._enter(who)
        try:
            yield
        finally:
            self._leave(who)

    def __call__(self, who: Hashable, item: T) -> R:
        """The result for an item, from one call of `work` with those of all threads in the turn.

        Raises:
            Exception: what the work raised, in every thread of the turn.
            Stopped: it was stopped meanwhile.
        """
        with self.turn(who):
            turn = self._turns[who]
            with self._changed:
                turn.items[who] = item
                self._changed.notify_all()
                self._changed.wait_for(lambda: turn.done or turn.complete or self._stopped)
                if not turn.done and self._stopped:
                    raise Stopped
                working = not turn.done and not turn.begun
                turn.begun = True
            if working:
                self._run(turn)
            with self._changed:
                self._changed.wait_for(lambda: turn.done)
            if turn.error is not None:
                raise turn.error
            return turn.results[who]

    def finished(self, who: Hashable) -> None:
        """The result was used; whoever it was for may want its next turn soon."""
        with self._changed:
            self._unfinished.discard(who)
            if self._width > 1:
                self._expected.add(who)
                soon = time.monotonic() + self.GRACE_SECONDS
                still = self._linger_until if self._unfinished else 0.0
                self._linger_until = max(still, soon)
            self._changed.notify_all()

    def gone(self, who: Hashable) -> None:
        """It wants no more turns, so that nobody waits for it."""
        with self._changed:
            self._expected.discard(who)
            self._unfinished.discard(who)
            self._changed.notify_all()

    def widen(self, width: int) -> None:
        """Let that many threads share a turn from now on."""
        with self._changed:
            self._width = width

    def stop(self) -> None:
        """End all waiting, from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _enter(self, who: Hashable) -> None:
        with self._changed:
            self._waiting[who] = None
            while not self._stopped:
                patience = self._admit()
                if who in self._turns:
                    return
                self._changed.wait(patience)
            self._waiting.pop(who, None)
            raise Stopped

    def _admit(self) -> float | None:
        """Begin a turn if one can; else the seconds after which to try again, None for a change."""
        if not self._waiting or len({id(turn) for turn in self._turns.values()}) >= self._lanes:
            return None
        left = self._linger_until - time.monotonic()
        if self._expected - self._waiting.keys() and left > 0:
            return left
        members = list(self._waiting)[: self._width]
        turn: _Turn[T, R] = _Turn(set(members))
        for member in members:
            del self._waiting[member]
            self._turns[member] = turn
        self._changed.notify_all()
        return None

    def _leave(self, who: Hashable) -> None:
        with self._changed:
            turn = self._turns.pop(who)
            turn.members.discard(who)
            if not turn.members and self._width > 1:
                self._expected, self._unfinished = set(turn.items), set(turn.items)
                self._linger_until = time.monotonic() + self._linger_seconds
            self._changed.notify_all()

    def _run(self, turn: _Turn[T, R]) -> None:
        try:
            results = self._work(list(turn.items.values()))
            turn.results = dict(zip(turn.items, results, strict=True))
        except Exception as error:
            turn.error = error
        with self._changed:
            turn.done = True
            self._changed.notify_all()


class _Turn(Generic[T, R]):
    """The threads that share a turn, and what became of their items."""

    def __init__(self, members: set[Hashable]) -> None:
        self.members = members
        self.items: dict[Hashable, T] = {}
        self.results: dict[Hashable, R] = {}
        self.error: Exception | None = None
        self.begun = self.done = False

    @property
    def complete(self) -> bool:
        """Whether every thread that is still in the turn has given its item."""
        return self.members <= self.items.keys()


class SegmenterProxy(Segmenter):
    """Stands for another segmenter; subclasses decide which, or when its network runs."""

    def __init__(self, target: Segmenter) -> None:
        self.target = target

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # read-only
        """The network that runs."""
        return self.target.backend

    @property
    def labels(self) -> LabelSet:  # type: ignore[override]  # read-only
        """Names and colours of its classes."""
        return self.target.labels

    @property
    def selected(self) -> frozenset[int] | None:  # type: ignore[override]  # read-only
        """The classes that are kept."""
        return self.target.selected

    @property
    def refine(self) -> bool:
        """Whether mask edges are refined from image colours."""
        return self.target.refine

    @refine.setter
    def refine(self, value: bool) -> None:
        self.target.refine = value

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image."""
        return self.target(image)

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        """Segment frames in one call of the backend."""
        return self.target.together(frames, clock)

    def begin(
        self, frames: Sequence[Frame], clock: Clock
    ) -> tuple[list[Pair], float, Callable[[], float]]:
        """Give frames to a device without waiting for it."""
        return self.target.begin(frames, clock)


class SharedNetwork(Shared[tuple[Frame, Clock], TimedPair]):
    """The network of several sources: in one batch where it gains by batches, else in turns.

    Args:
        count: sources to begin with.
        held: whether results are kept for a while before they are used; no batch waits for them.
    """

    def __init__(self, segmenter: Segmenter, count: int, *, held: bool = False) -> None:
        self.segmenter, self.batches = segmenter, segmenter.backend.batches
        super().__init__(
            self._together,
            width=max(1, count) if self.batches else 1,
            lanes=1 if self.batches else min(segmenter.backend.lanes, max(1, count)),
            linger_seconds=0.0 if held else LINGER_SECONDS,
        )

    def warm_up(self, sources: Iterable[SourceInfo]) -> None:
        """Run every size of batch that may come: libraries prepare for each size the first time
        they meet it."""
        counts = range(2, self._width + 1)
        powers = [count for count in counts if count.bit_count() == 1]
        # a backend that prepares for some sizes serves down to half as many with the same
        shapes = {(info.height, info.width): None for info in sources}
        inputs = {self.segmenter.backend.size_for(shape): shape for shape in shapes}
        for shape in inputs.values():
            blank = Frame(np.zeros((*shape, 3), np.uint8), 0, 0.0, 0.0)
            for count in dict.fromkeys((*powers, *reversed(counts))):
                self.segmenter.together([blank] * count, Clock())

    def widen(self, width: int) -> None:
        """Let that many sources share a batch, if the network gains by batches."""
        super().widen(width if self.batches else 1)

    def _together(self, items: Sequence[tuple[Frame, Clock]]) -> list[TimedPair]:
        """Frames of several sources through the network in one call, or one per input size."""
        backend, clock = self.segmenter.backend, items[0][1]
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (frame, _) in enumerate(items):
            # frames that a device shrinks may have any size
            size = (0, 0) if backend.segment is not None else backend.size_for(frame.size)
            groups.setdefault(size, []).append(place)
        results: dict[int, TimedPair] = {}
        for places in groups.values():
            frames = [items[place][0] for place in places]
            pairs, preprocess, infer = self.segmenter.together(frames, clock)
            results.update(zip(places, ((p, preprocess, infer) for p in pairs), strict=True))
        return [results[place] for place in range(len(items))]


class SharedSegmenter(SegmenterProxy):
    """A segmenter as one of several sources sees it, which take turns in its network.

    Args:
        frames: where newer frames may lie when the turn comes; None to keep the frame.
    """

    def __init__(self, shared: SharedNetwork, frames: Flow[Frame] | None) -> None:
        super().__init__(shared.segmenter)
        self._shared, self._frames = shared, frames

    @contextmanager
    def turn(self, frame: Frame) -> Iterator[Frame]:
        """Wait for the network; gives the newest frame at that moment."""
        with self._shared.turn(self):
            yield frame if self._frames is None else self._frames.newer(0.0) or frame

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        """Segment one frame, in one call of the network with those of other sources."""
        (frame,) = frames
        pair, preprocess, infer = self._shared(self, (frame, clock))
        return [pair], preprocess, infer

    def begin(
        self, frames: Sequence[Frame], clock: Clock
    ) -> tuple[list[Pair], float, Callable[[], float]]:
        """As `together`, as a device takes the frames of one thread at a time."""
        pairs, preprocess, infer = self.together(frames, clock)
        return pairs, preprocess, lambda: infer
