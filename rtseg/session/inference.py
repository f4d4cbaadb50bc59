"""How frames become segmentations in the inference thread of one source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import median

import numpy as np

from rtseg.errors import RtsegError
from rtseg.frame import Carried, Frame, Segmentation
from rtseg.segmenter import Pair, Segmenter, TimedPair
from rtseg.session.propagation import KeyframeNetwork, carried_live, carried_recorded
from rtseg.stats import Clock, Stats
from rtseg.system import usable_cores
from rtseg.temporal import TemporalOptions
from rtseg.temporal.idle import IdleDetector
from rtseg.temporal.keyframes import carry
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow, Slot, parallel_map

MANY_CORES = 4
"""With that many, drawing takes little from a network that runs on all of them."""

Turn = Callable[[Frame], AbstractContextManager[Frame]]
"""Waits for a network that several sources share, and gives the newest frame at that moment."""


@contextmanager
def inferring(
    frames: Flow[Frame],
    segmenter: Segmenter,
    stats: Stats,
    options: TemporalOptions,
    *,
    latest: bool,
    in_step: bool = False,
    turn: Turn | None = None,
    name: str = "inference",
    prepare: Callable[[Flow[Pair]], None] = lambda flow: None,
) -> Iterator[Flow[Pair]]:
    """Every frame with its segmentation, from a thread that runs as long as the `with` lasts.

    With propagation the network has a second thread, named in `stats.hung` if it hangs.

    Args:
        latest: whether newer frames replace unread ones, as those of live sources do.
        in_step: whether the next frame waits until the reader calls `go_on` for the last one.
        turn: of a network that others use too; None if it is this source's alone.
        name: of the thread.
        prepare: called with the flow before it runs.
    """
    if options.propagate:
        with _propagating(
            frames, segmenter, stats, options, latest, in_step, name, prepare
        ) as flow:
            yield flow
        return

    def smoothly(pairs: Iterator[Pair]) -> Iterator[Pair]:
        return smoothed(pairs, options.smooth, stats)

    if turn is not None:
        incoming: Iterator[Frame] = iter(frames)
    else:
        incoming = youngest(frames, stats.clock) if latest else iter(frames)
    if options.idle:
        pairs = idling(incoming, segmenter, stats, smoothly, turn or nullcontext)
    elif turn is not None:
        pairs = smoothly(_in_turn(incoming, segmenter, stats, turn))
    else:
        segmented = one_by_one if latest else several_at_once
        pairs = smoothly(segmented(incoming, segmenter, stats))
    pairs = (segmenter.finished(pair) for pair in pairs)
    flow = Flow(pairs, latest=latest, in_step=in_step, name=name, interrupt=frames.stop)
    prepare(flow)
    with flow:
        yield flow


@contextmanager
def _propagating(
    frames: Flow[Frame],
    segmenter: Segmenter,
    stats: Stats,
    options: TemporalOptions,
    latest: bool,
    in_step: bool,
    name: str,
    prepare: Callable[[Flow[Pair]], None],
) -> Iterator[Flow[Pair]]:
    """One thread carries scores from frame to frame, another runs the network on keyframes."""
    requests: Slot[Frame] = Slot()
    results = Flow(one_by_one(requests, segmenter, stats), name=name, interrupt=requests.close)

    def interrupt() -> None:
        frames.stop()
        results.stop()

    network = KeyframeNetwork(segmenter, requests, results, stats)
    every = options.key_every
    if latest:
        carried = carried_live(frames, network, every, idle=options.idle)
    else:
        carried = carried_recorded(frames, network, every)
    pairs = (segmenter.finished(pair) for pair in smoothed(carried, options.smooth, stats))
    flow = Flow(pairs, latest=latest, in_step=in_step, name="propagation", interrupt=interrupt)
    prepare(flow)
    try:
        with results, flow:
            yield flow
    finally:
        if results.hung:
            stats.hung.append(results.name)


def crowded(segmenter: Segmenter) -> bool:
    """Whether the network needs every core, so that drawing beside it would slow both down.

    On two cores drawing takes half of what the network has. One after the other they give as many
    frames, and each is younger, as neither stage delays the other.
    """
    return segmenter.info.device == "cpu" and usable_cores() < MANY_CORES


def warm_up(options: TemporalOptions) -> None:
    """Compile what will run, or load it compiled, before a frame waits for it."""
    smooth, image = Smoother(options.smooth), np.zeros((64, 64, 3), np.uint8)
    for pts in (0.0, 0.1):
        smooth(np.zeros((2, 2, 2), np.float32), image, pts)
    if options.propagate:
        carry(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32))


def one_by_one(frames: Iterable[Frame], segmenter: Segmenter, stats: Stats) -> Iterator[Pair]:
    """Segment frames as they come, and pair each with its result."""
    for frame in frames:
        yield _counted(_timed(frame, segmenter, stats.clock), stats)


def several_at_once(frames: Iterable[Frame], segmenter: Segmenter, stats: Stats) -> Iterator[Pair]:
    """Segment frames that are ready, as those of a recording, and pair each with its result.

    A backend with several lanes works on as many frames at once; one that keeps frames on its
    device is given the next ones before it has finished; any other takes one after another.
    """
    backend = segmenter.backend
    if backend.segment is not None:
        results = _in_batches(frames, segmenter, stats.clock)
    elif backend.lanes > 1:
        timed = partial(_timed, segmenter=segmenter, clock=stats.clock)
        results = parallel_map(frames, timed, backend.lanes)
    else:
        yield from one_by_one(frames, segmenter, stats)
        return
    for result in results:
        yield _counted(result, stats)


def _timed(frame: Frame, segmenter: Segmenter, clock: Clock) -> TimedPair:
    (pair,), preprocess, infer = segmenter.together((frame,), clock)
    return pair, preprocess, infer


def _counted(result: TimedPair, stats: Stats) -> Pair:
    pair, preprocess, infer = result
    stats.add("preprocess", preprocess)
    stats.add("infer", infer)
    return pair


def _in_batches(frames: Iterable[Frame], segmenter: Segmenter, clock: Clock) -> Iterator[TimedPair]:
    """Pairs, and the seconds of handing over and of the device; one batch is always in progress
    while another is awaited."""
    coming = iter(frames)
    before: Iterator[TimedPair] = iter(())
    while True:
        group, failure = _taken(coming, segmenter.backend.frames_at_once)
        begun = None
        try:
            begun = _begun(group, segmenter, clock) if group else None
        except RtsegError as error:
            failure = error
        yield from before
        if failure is not None:  # after all that came before it
            yield from begun or ()
            raise failure
        if begun is None:
            return
        before = begun


def _begun(frames: Sequence[Frame], segmenter: Segmenter, clock: Clock) -> Iterator[TimedPair]:
    """Give frames to the device; the result waits for it, and shares the times out."""
    pairs, seconds, wait = segmenter.begin(frames, clock)

    def results() -> Iterator[TimedPair]:
        count, waited = len(pairs), wait()
        for pair in pairs:
            yield pair, seconds / count, waited / count

    return results()


def _taken(coming: Iterator[Frame], most: int) -> tuple[list[Frame], Exception | None]:
    """The next frames, and the error that came instead of one, if any."""
    frames: list[Frame] = []
    try:
        frames.extend(islice(coming, most))
    except Exception as error:
        return frames, error
    return frames, None


def _in_turn(
    frames: Iterable[Frame], segmenter: Segmenter, stats: Stats, turn: Turn
) -> Iterator[Pair]:
    """Frames through a shared network, each chosen when its turn comes."""
    for waiting in frames:
        with turn(waiting) as frame:
            result = _timed(frame, segmenter, stats.clock)
        yield _counted(result, stats)


def smoothed(pairs: Iterator[Pair], strength: float, stats: Stats) -> Iterator[Pair]:
    """The same pairs with scores smoothed over time; at strength 0 the same iterator."""
    if not strength:
        return pairs
    smooth = Smoother(strength)

    def steady(pair: Pair) -> Pair:
        frame, segmentation = pair
        with stats.stage("smooth"):
            scores = smooth(segmentation.scores, frame.image, frame.pts)
        return frame, segmentation.with_scores(scores, segmentation.carried)

    return map(steady, pairs)


def idling(
    frames: Iterable[Frame],
    segmenter: Segmenter,
    stats: Stats,
    smoothly: Callable[[Iterator[Pair]], Iterator[Pair]],
    turn: Turn = nullcontext,
) -> Iterator[Pair]:
    """Every frame; those that show nothing new keep the scores of the last one that did.

    Args:
        smoothly: sees only the frames that the network sees, as if no time had passed in between.
    """
    idle = Idle(segmenter)
    next_frame = _Single()
    pairs = smoothly(one_by_one(next_frame, segmenter, stats))
    for waiting in frames:
        with turn(waiting) as frame:
            with stats.stage("compare"):
                segmentation = idle.reused(frame)
            if segmentation is None:
                next_frame.frame = idle.retimed(frame)
                segmentation = next(pairs)[1]
                idle.update(frame, segmentation)
        yield frame, segmentation


class _Single(Iterator[Frame]):
    """The one frame that the network sees next; there is none after it until it is set."""

    frame: Frame | None = None

    def __next__(self) -> Frame:
        frame, self.frame = self.frame, None
        if frame is None:
            raise StopIteration
        return frame


class Idle:
    """The last segmentation of a source, and whether the image still is the one it belongs to."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._detector = IdleDetector()
        self._last: Segmentation | None = None
        self._key = 0
        self._model: tuple[object, ...] = ()
        self._pts: float | None = None
        self._rested = 0.0

    def reused(self, frame: Frame) -> Segmentation | None:
        """The last segmentation if it still holds for this frame; None if the network must run."""
        is_idle = self._detector.is_idle(frame.image, frame.pts)
        before = frame.pts if self._pts is None else self._pts
        self._pts = frame.pts
        if not is_idle or self._last is None or self._model != self._present_model():
            return None
        self._rested += frame.pts - before
        carried = Carried(self._key, frame.index - self._key, idle=True)
        return self._last.with_scores(self._last.scores, carried)

    def retimed(self, frame: Frame) -> Frame:
        """The frame at its time without the time that the network rested."""
        return frame if not self._rested else replace(frame, pts=frame.pts - self._rested)

    def update(self, frame: Frame, segmentation: Segmentation) -> None:
        """Keep the segmentation of the frame that `reused` last saw."""
        self._detector.mark_reference()
        self._last, self._key, self._model = segmentation, frame.index, self._present_model()

    def _present_model(self) -> tuple[object, ...]:
        """Another network, or other classes of it, segments the same image differently."""
        return self._segmenter.backend, self._segmenter.labels, self._segmenter.selected


PATIENCE = 0.25
"""How long to wait for the next frame, as a share of the frame interval."""

SLOWER = 1.2
"""A reader that works on a frame for longer than this many intervals cannot keep up."""

_LATE = 0.1  # share of the interval by which a frame may be late
_RECENT = 5  # frames that tell the present pace; outages and pauses are outliers


def youngest(frames: Flow[Frame], clock: Clock) -> Iterator[Frame]:
    """Frames as young as possible, for a reader that is slower than the source.

    The frame that waits for such a reader is up to one frame interval old. If a newer one is due
    within a quarter of the interval, this waits for it: frames are then up to three quarters of an
    interval younger, for a few percent fewer of them. For a reader that keeps up with the source,
    or nearly does, it never waits, as that would lose frames.

    Args:
        frames: keeps the newest; a frame that is passed over counts as replaced.
    """
    between: deque[float] = deque(maxlen=_RECENT)
    busy: deque[float] = deque(maxlen=_RECENT)
    captured, count = None, 0
    for frame in frames:
        produced = frames.produced
        if captured is not None and produced > count:
            between.append((frame.captured_at - captured) / (produced - count))
        if busy and between and median(busy) > SLOWER * (interval := median(between)):
            due = frame.captured_at + interval - clock.now()
            if 0 < due <= PATIENCE * interval:
                frame = frames.newer(due + _LATE * interval) or frame
                produced = frames.produced
        captured, count = frame.captured_at, produced
        since = clock.now()
        yield frame
        busy.append(clock.now() - since)
