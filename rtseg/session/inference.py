"""How frames become segmentations in the inference thread of one source.

The network sees every frame, or every one that shows something new, or, with propagation, keyframes
only, whose scores are carried to all other frames. In a recording no frame is lost and every run is
the same: while the network works on a keyframe, the frames up to the next are read and followed,
and each takes its scores from the keyframes on both sides. Live nothing waits: the network sees the
newest frame whenever it is free, and every frame takes the latest scores there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from statistics import median

import numpy as np

from rtseg.contracts import SourceInfo
from rtseg.draw import blend_table
from rtseg.errors import RtsegError
from rtseg.frame import Carried, Frame, Segmentation
from rtseg.labels import LabelSet
from rtseg.segmenter import Pair, Segmenter, TimedPair
from rtseg.stats import Clock, Stats
from rtseg.system import usable_cores
from rtseg.temporal import TemporalOptions
from rtseg.temporal.idle import IdleDetector
from rtseg.temporal.keyframes import LOST_SHARE, Keyframes, Span, carry, interpolate
from rtseg.temporal.motion import Grey, Motion, is_cut, small_grey
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow, Slot, parallel_map

MANY_CORES = 4
"""With that many, drawing takes little from a network that runs on all of them."""

MOST_AHEAD_BYTES = 2**28
"""Of frames that are read ahead: ten of 4K, two of 8K."""

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
    in_step: bool,
    turn: Turn | None,
    name: str,
    prepare: Callable[[Flow[Pair]], None],
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

    smoother = Smoother(options.smooth) if options.smooth else None

    def smoothly(pairs: Iterator[Pair]) -> Iterator[Pair]:
        return smoothed(pairs, smoother, stats)

    if turn is not None:
        incoming: Iterator[Frame] = iter(frames)
    else:
        incoming = youngest(frames, stats.clock) if latest else iter(frames)
    if options.idle:
        pairs = idling(incoming, segmenter, stats, smoothly, turn or nullcontext, smoother)
    elif turn is not None:
        pairs = smoothly(_in_turn(incoming, segmenter, stats, turn))
    else:
        live = partial(one_by_one, smoother=smoother)
        pairs = smoothly((live if latest else several_at_once)(incoming, segmenter, stats))
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
    smoother = Smoother(options.smooth) if options.smooth else None
    pairs = (segmenter.finished(pair) for pair in smoothed(carried, smoother, stats))
    own = name.replace("inference", "propagation")
    flow = Flow(pairs, latest=latest, in_step=in_step, name=own, interrupt=interrupt)
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


def read_ahead(segmenter: Segmenter, info: SourceInfo) -> int:
    """Frames of a recording to read ahead: two batches, or fewer if they are very large."""
    fit = MOST_AHEAD_BYTES // max(1, 3 * info.height * info.width)
    return max(2, min(2 * segmenter.backend.frames_at_once, fit))


def warm_up(
    options: TemporalOptions, segmenter: Segmenter, info: SourceInfo, *, at_once: bool = False
) -> None:
    """Compile what will run, or load it compiled, before a frame waits for it.

    Args:
        info: of the source.
        at_once: whether it gives several frames at once, as one recording alone does.
    """
    smooth, image = Smoother(options.smooth), np.zeros((64, 64, 3), np.uint8)
    for pts in (0.0, 0.1):
        smooth(np.zeros((2, 2, 2), np.float32), image, pts)
    if options.propagate:
        carry(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32))
    backend, size = segmenter.backend, (info.height, info.width)
    if backend.segment is None or 0 in size:
        return
    # the network is tuned for each number of frames, and kernels are compiled for some sizes
    blank = Frame(np.zeros((*size, 3), np.uint8), 0, 0.0, 0.0)
    count = backend.frames_at_once if at_once and not options.propagate else 1
    pairs, *_ = segmenter.together([blank] * count, Clock())
    held, align = pairs[0][1].given, segmenter.spec.align_corners
    if not isinstance(held, np.ndarray):
        table = np.zeros(256, np.uint8)
        held.decode(size, table, align_corners=align)
        blend = blend_table(np.zeros((256, 3), np.uint8), np.zeros(256))
        held.over(table, blend, align_corners=align)


def one_by_one(
    frames: Iterable[Frame], segmenter: Segmenter, stats: Stats, smoother: Smoother | None = None
) -> Iterator[Pair]:
    """Segment frames as they come, and pair each with its result.

    Args:
        smoother: follows each frame while a device works on it.
    """
    for frame in frames:
        if smoother is None or segmenter.backend.segment is None:
            yield _counted(_timed(frame, segmenter, stats.clock), stats)
            continue
        (pair,), preprocess, wait = segmenter.begin((frame,), stats.clock)
        with stats.stage("follow"):
            smoother.follow(frame.image)
        yield _counted((pair, preprocess, wait()), stats)


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


def smoothed(pairs: Iterator[Pair], smooth: Smoother | None, stats: Stats) -> Iterator[Pair]:
    """The same pairs with scores smoothed over time; without a smoother the same iterator.

    Scores on a device are averaged in memory, and drawn on the device.
    """
    if smooth is None:
        return pairs

    classes: LabelSet | None = None

    def steady(pair: Pair) -> Pair:
        nonlocal classes
        frame, segmentation = pair
        if segmentation.labels != classes:  # the model was replaced
            smooth.forget()
            classes = segmentation.labels
        with stats.stage("smooth"):
            scores = smooth(segmentation.scores, frame.image, frame.pts)
            held = segmentation.given
            after = scores if isinstance(held, np.ndarray) else held.with_scores(scores)
        return frame, segmentation.with_scores(after, segmentation.carried)

    return map(steady, pairs)


def idling(
    frames: Iterable[Frame],
    segmenter: Segmenter,
    stats: Stats,
    smoothly: Callable[[Iterator[Pair]], Iterator[Pair]],
    turn: Turn = nullcontext,
    smoother: Smoother | None = None,
) -> Iterator[Pair]:
    """Every frame; those that show nothing new keep the scores of the last one that did.

    Args:
        smoothly: sees only the frames that the network sees, as if no time had passed in between.
        smoother: as for `one_by_one`.
    """
    idle = Idle(segmenter)
    next_frame = _Single()
    pairs = smoothly(one_by_one(next_frame, segmenter, stats, smoother))
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


LOST_SCENE = 0.6
"""If more than this share of a live frame is not in the last keyframe, it shows another scene."""


@dataclass
class KeyframeNetwork:
    """The network in a thread of its own: it is given one keyframe at a time, and answers later."""

    segmenter: Segmenter
    requests: Slot[Frame]
    results: Flow[Pair]
    stats: Stats

    def count(self, cause: str) -> None:
        """Count one more keyframe."""
        self.stats.keyframes[cause] = self.stats.keyframes.get(cause, 0) + 1


def carried_live(
    frames: Iterable[Frame], network: KeyframeNetwork, key_every: int | None, *, idle: bool = False
) -> Iterator[Pair]:
    """Every frame of a live source without delay, with the latest scores carried to it.

    Before the first result, and after a cut, no class is known.

    Args:
        idle: whether the network rests while the image is that of the last keyframe.
    """
    keyframes = _LiveKeyframes(network, key_every, IdleDetector() if idle else None)
    for frame in frames:
        keyframes.compare(frame)
        with network.stats.stage("follow"):
            keyframes.follow(frame)
        with network.stats.stage("carry"):
            segmentation = keyframes.carried_to(frame)
        yield frame, segmentation


@dataclass
class _Keyframe:
    """A frame given to the network, and its segmentation once that is there."""

    frame: Frame
    motion: Motion
    cause: str
    segmentation: Segmentation | None = None
    outdated: bool = False


class _LiveKeyframes:
    """The last keyframe of a live source, and the one the network works on."""

    def __init__(
        self, network: KeyframeNetwork, key_every: int | None, detector: IdleDetector | None
    ) -> None:
        self._network, self._every, self._detector = network, key_every, detector
        self._unchanged = False
        self._results = network.results.poll(0.0)
        self._grey: Grey | None = None
        self._last: _Keyframe | None = None
        self._pending: _Keyframe | None = None
        self._cause = "first"

    def compare(self, frame: Frame) -> None:
        """Find whether the next frame shows anything new, if the network rests otherwise."""
        if self._detector is not None:
            with self._network.stats.stage("compare"):
                self._unchanged = self._detector.is_idle(frame.image, frame.pts)

    def follow(self, frame: Frame) -> None:
        """Find the frame in the keyframes; give it to the network if that is free."""
        grey = small_grey(frame.image)
        if self._grey is not None and is_cut(self._grey, grey):
            self._forget()
        self._grey = grey
        self._receive()
        if self._last is not None and self._last.motion.follow(grey).lost > LOST_SCENE:
            self._last, self._cause = None, "motion"
        if self._pending is not None and not self._pending.outdated:
            self._pending.motion.follow(grey)
        if self._pending is None and self._is_due(frame):
            self._pending = _Keyframe(frame, Motion(grey), self._cause)
            self._cause = "free"
            self._network.requests.put(frame)
            if self._detector is not None:
                self._detector.mark_reference()

    def carried_to(self, frame: Frame) -> Segmentation:
        """The last keyframe's segmentation, carried to this frame."""
        segmenter, last = self._network.segmenter, self._last
        if last is None or last.segmentation is None:
            nothing = np.zeros((len(segmenter.labels), 1, 1), np.float32)
            return Segmentation(
                nothing,
                segmenter.labels,
                frame.size,
                selected=frozenset(),
                carried=Carried(None),
            )
        scores = carry(last.segmentation.scores, last.motion.match.field)
        age = frame.index - last.frame.index
        rests = self._unchanged and self._pending is None
        return last.segmentation.with_scores(scores, Carried(last.frame.index, age, idle=rests))

    def _forget(self) -> None:
        """After a cut, drop the last keyframe and the result of the pending one."""
        self._last, self._cause = None, "cut"
        if self._pending is not None:
            self._pending.outdated = True

    def _receive(self) -> None:
        """Take the network's result if there is one."""
        pair, keyframe = next(self._results, None), self._pending
        if pair is None or keyframe is None:
            return
        self._pending = None
        self._network.count(keyframe.cause)
        if not keyframe.outdated:
            keyframe.segmentation = pair[1]
            self._last = keyframe

    def _is_due(self, frame: Frame) -> bool:
        if self._last is not None and self._unchanged:
            return False
        if self._every is None or self._last is None:
            return True
        age = frame.index - self._last.frame.index
        return age >= self._every or self._last.motion.match.lost > LOST_SHARE


def carried_recorded(
    frames: Iterable[Frame], network: KeyframeNetwork, key_every: int | None
) -> Iterator[Pair]:
    """Every frame of a recording: keyframes as the network sees them, others from both sides.

    Raises:
        RtsegError: of the source or the network, after the frames before it.
    """
    before: Segmentation | None = None
    for span, after in _with_results(_spans(frames, key_every, network.stats), network):
        if before is not None:
            yield from _filled(span, before, after, network.stats)
        if after is not None:
            network.count(span.cause)
            yield span.key, after
        before = after


def _spans(frames: Iterable[Frame], key_every: int | None, stats: Stats) -> Iterator[Span]:
    """The spans between keyframes; an error is raised after the span that it cut short."""
    keyframes = Keyframes(key_every)
    try:
        for frame in frames:
            with stats.stage("follow"):
                span = keyframes.add(frame)
            if span is not None:
                yield span
    except Exception:
        if (span := keyframes.flush()) is not None:
            yield span
        raise
    if (span := keyframes.flush()) is not None:
        yield span


def _with_results(
    spans: Iterator[Span], network: KeyframeNetwork
) -> Iterator[tuple[Span, Segmentation | None]]:
    """Each span with the segmentation of its keyframe; None where the network failed.

    The network is given the next keyframe before the last span is handed on, so that it never
    waits for what is done with that span.
    """
    results = iter(network.results)
    waiting: Span | None = None
    try:
        for span in chain(spans, [None]):
            result = next(results, None) if waiting else None
            if span is not None:
                network.requests.put(span.key)
            if waiting is not None:
                yield waiting, result and result[1]
            waiting = span
    except Exception:
        if waiting is not None:
            result = next(results, None)  # None if it was the network that failed
            yield waiting, result and result[1]
        raise


def _filled(
    span: Span, before: Segmentation, after: Segmentation | None, stats: Stats
) -> Iterator[Pair]:
    """The frames between two keyframes; those of different networks cannot be interpolated."""
    if after is not None and not _alike(before, after):
        after = None
    with stats.stage("carry"):
        ahead = span.matches_to_key() if after is not None else []
    count = len(span.steps) + 1
    for place, step in enumerate(span.steps, 1):
        with stats.stage("carry"):
            if after is not None and ahead:
                there = ahead[place - 1]
                scores = interpolate(before.scores, after.scores, step.match, there, place / count)
            else:
                scores = carry(before.scores, step.match.field)
        nearer_before = not ahead or 2 * place <= count
        key = span.before if nearer_before else span.key.index
        carried = Carried(key, step.frame.index - key)
        yield step.frame, before.with_scores(scores, carried)


def _alike(before: Segmentation, after: Segmentation) -> bool:
    return before.labels == after.labels and before.scores.shape == after.scores.shape
