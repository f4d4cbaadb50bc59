"""The network on keyframes only, and their scores carried to every other frame.

A recording (`recording.py`) loses nothing and is the same every time: while the network looks
at a keyframe, the frames up to the next are read and followed, and each takes its scores from the
keyframes on both of its sides. A live source (`live.py`) waits for nothing: the network looks
at the newest frame whenever it is free, and each frame takes the last scores that are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median

import numpy as np

from rtseg.frame import Frame
from rtseg.segmentation import Carried, Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Clock, Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.idle import Stillness
from rtseg.temporal.keyframes import LOST_SHARE, Keyframes, Span, between, carry
from rtseg.temporal.motion import Grey, Motion, is_cut, small_grey
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow, Slot

Tie = Callable[[Iterator[Pair]], Iterator[Pair]]
"""What ties the masks of consecutive frames together, as smoothing does."""


def resting(
    frames: Iterable[Frame], segmenter: Segmenter, stats: Stats, tie: Tie
) -> Iterator[Pair]:
    """Every frame; those that show nothing new have the scores of the last that was looked at.

    Args:
        tie: sees only the frames that the network looks at, as if no time had passed meanwhile.
    """
    rests = Rests(segmenter)
    asked = _Asked()
    found = tie(segmenter.stream(asked, stats))
    for frame in frames:
        with stats.stage("compare"):
            said = rests.mask_of(frame)
        if said is None:
            asked.frame = rests.clocked(frame)
            said = next(found)[1]
            rests.looked(frame, said)
        yield frame, said


class _Asked(Iterator[Frame]):
    """The one frame that the network is asked about now; there is none after it until it is set."""

    frame: Frame | None = None

    def __next__(self) -> Frame:
        frame, self.frame = self.frame, None
        if frame is None:
            raise StopIteration
        return frame


class Rests:
    """What the network last said of one stream, and whether that still holds."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._still = Stillness()
        self._said: Segmentation | None = None
        self._key = 0
        self._of: tuple[object, ...] = ()
        self._pts: float | None = None
        self._rested = 0.0

    def mask_of(self, frame: Frame) -> Segmentation | None:
        """What is known of the next frame without a look at it; None when that is needed."""
        holds = self._still.holds(frame.image, frame.pts)
        before = frame.pts if self._pts is None else self._pts
        self._pts = frame.pts
        if not holds or self._said is None or self._of != self._network():
            return None
        self._rested += frame.pts - before
        carried = Carried(self._key, frame.index - self._key, idle=True)
        return self._said.with_scores(self._said.scores, carried)

    def clocked(self, frame: Frame) -> Frame:
        """The frame at the time that those had who see only what the network looks at."""
        return frame if not self._rested else replace(frame, pts=frame.pts - self._rested)

    def looked(self, frame: Frame, said: Segmentation) -> None:
        """What the network says of the frame that `mask_of` was last asked about."""
        self._still.looked()
        self._said, self._key, self._of = said, frame.index, self._network()

    def _network(self) -> tuple[object, ...]:
        """Another network, or other classes of it, have another word on the same picture."""
        return self._segmenter.backend, self._segmenter.labels, self._segmenter.selected


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


LOST_SCENE = 0.6
"""A live frame of which more is not to be found in the last look shows nothing of that scene."""


def carried_on(
    frames: Iterable[Frame], network: Network, key_every: int | None, *, idle: bool = False
) -> Iterator[Pair]:
    """Every frame of a live source, at once, with the network's last word carried to it.

    Until there is one, at the beginning and after a cut, no class is known.

    Args:
        idle: whether the network rests while the picture is what it last looked at.
    """
    newest = _Newest(network, key_every, Stillness() if idle else None)
    for frame in frames:
        newest.compare(frame)
        with network.stats.stage("follow"):
            newest.follow(frame)
        with network.stats.stage("carry"):
            segmentation = newest.segmentation_of(frame)
        yield frame, segmentation


@dataclass
class _Look:
    """A frame that the network was asked about, and, once it answered, what it said."""

    frame: Frame
    motion: Motion
    cause: str
    said: Segmentation | None = None
    of_another_scene: bool = False


class _Newest:
    """What is known of the scene of a live source: the last look, and the one under way."""

    def __init__(
        self, network: Network, key_every: int | None, still: Stillness | None = None
    ) -> None:
        self._network, self._every, self._still = network, key_every, still
        self._nothing_new = False
        self._answers = network.keys.poll(0.0)
        self._grey: Grey | None = None
        self._last: _Look | None = None
        self._under_way: _Look | None = None
        self._cause = "first"

    def compare(self, frame: Frame) -> None:
        """Whether the next frame shows anything new, where the network rests otherwise."""
        if self._still is not None:
            with self._network.stats.stage("compare"):
                self._nothing_new = self._still.holds(frame.image, frame.pts)

    def follow(self, frame: Frame) -> None:
        """Take the frame; ask the network about it if it is free."""
        grey = small_grey(frame.image)
        if self._grey is not None and is_cut(self._grey, grey):
            self._forget()
        self._grey = grey
        self._hear()
        if self._last is not None and self._last.motion.follow(grey).lost > LOST_SCENE:
            self._last, self._cause = None, "motion"
        if self._under_way is not None and not self._under_way.of_another_scene:
            self._under_way.motion.follow(grey)
        if self._under_way is None and self._is_due(frame):
            self._under_way = _Look(frame, Motion(grey), self._cause)
            self._cause = "free"
            self._network.asked.put(frame)
            if self._still is not None:
                self._still.looked()

    def segmentation_of(self, frame: Frame) -> Segmentation:
        """What the last look says of this frame."""
        segmenter, look = self._network.segmenter, self._last
        if look is None or look.said is None:
            nothing = np.zeros((len(segmenter.labels), 1, 1), np.float32)
            return Segmentation(
                nothing,
                segmenter.labels,
                frame.size,
                selected=frozenset(),
                carried=Carried(None),
            )
        scores = carry(look.said.scores, look.motion.match.field)
        age = frame.index - look.frame.index
        return look.said.with_scores(scores, Carried(look.frame.index, age))

    def _forget(self) -> None:
        """A cut: what the network saw before, or is still looking at, is gone."""
        self._last, self._cause = None, "cut"
        if self._under_way is not None:
            self._under_way.of_another_scene = True

    def _hear(self) -> None:
        """Take the network's answer, if it has come."""
        answer = next(self._answers, None)
        look = self._under_way
        if answer is None or look is None:
            return
        self._under_way = None
        self._network.count(look.cause)
        if not look.of_another_scene:
            look.said = answer[1]
            self._last = look

    def _is_due(self, frame: Frame) -> bool:
        if self._last is not None and self._nothing_new:
            return False
        if self._every is None or self._last is None:
            return True
        age = frame.index - self._last.frame.index
        return age >= self._every or self._last.motion.match.lost > LOST_SHARE


def carried_between(
    frames: Iterable[Frame], network: Network, key_every: int | None
) -> Iterator[Pair]:
    """Every frame of a recording: keyframes as the network saw them, others from both sides.

    Raises:
        RtsegError: of the source or the network; the frames before it have been given.
    """
    before: Segmentation | None = None
    for span, after in _answered(_spans(frames, key_every, network.stats), network):
        if before is not None:
            yield from _filled(span, before, after, network.stats)
        if after is not None:
            network.count(span.cause)
            yield span.key, after
        before = after


def _spans(frames: Iterable[Frame], key_every: int | None, stats: Stats) -> Iterator[Span]:
    """What lies between keyframes; of what an error cuts short, too, before it is raised."""
    keyframes = Keyframes(key_every)
    try:
        for frame in frames:
            with stats.stage("follow"):
                span = keyframes.take(frame)
            if span is not None:
                yield span
    except Exception:
        if (span := keyframes.rest()) is not None:
            yield span
        raise
    if (span := keyframes.rest()) is not None:
        yield span


def _answered(
    spans: Iterator[Span], network: Network
) -> Iterator[tuple[Span, Segmentation | None]]:
    """Each span with the network's word on its keyframe; None where the network failed.

    The network is given the next keyframe before the last span is handed on, so it never waits
    for what is done with that.
    """
    answers = iter(network.keys)
    waiting: Span | None = None
    try:
        for span in chain(spans, [None]):
            answer = next(answers, None) if waiting else None
            if span is not None:
                network.asked.put(span.key)
            if waiting is not None:
                yield waiting, answer and answer[1]
            waiting = span
    except Exception:
        if waiting is not None:
            answer = next(answers, None)  # None if it was the network that failed
            yield waiting, answer and answer[1]
        raise


def _filled(
    span: Span, before: Segmentation, after: Segmentation | None, stats: Stats
) -> Iterator[Pair]:
    """The frames between two keyframes; those of two networks have nothing between them."""
    if after is not None and not _alike(before, after):
        after = None
    with stats.stage("carry"):
        ahead = span.ahead() if after is not None else []
    count = len(span.steps) + 1
    for place, step in enumerate(span.steps, 1):
        with stats.stage("carry"):
            if after is not None and ahead:
                there = ahead[place - 1]
                scores = between(before.scores, after.scores, step.match, there, place / count)
            else:
                scores = carry(before.scores, step.match.field)
        nearer_before = not ahead or 2 * place <= count
        key = span.before if nearer_before else span.key.index
        carried = Carried(key, step.frame.index - key)
        yield step.frame, before.with_scores(scores, carried)


def _alike(before: Segmentation, after: Segmentation) -> bool:
    return before.labels == after.labels and before.scores.shape == after.scores.shape


PATIENCE = 0.25
"""How long the next frame is waited for, of the time between two frames."""

SLOWER = 1.2
"""A reader that is busy with a frame for so many times the time between two cannot keep up."""

_LATE = 0.1  # by how much of that time a frame may come late
_RECENT = 5  # frames by which the present pace is judged: an outage or a pause is none of it


def freshest(frames: Flow[Frame], clock: Clock) -> Iterator[Frame]:
    """Frames for a reader that is slower than the source, and wants them young.

    A reader that is ready for the next frame finds one that has waited for it, for up to the time
    between two frames. Where a newer one is due within a quarter of that time, it is waited for:
    frames are then up to three quarters of that time younger, for a few percent fewer of them.
    A reader that keeps up with the source, or nearly does, waits for none: it would lose frames.

    Args:
        frames: keeps the newest; one that is passed over counts as replaced.
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


__all__ = [
    "Network",
    "Rests",
    "carried_between",
    "carried_on",
    "inferring",
    "resting",
    "smoothed",
    "steadied",
    "warm_up",
]


@contextmanager
def inferring(
    frames: Flow[Frame],
    segmenter: Segmenter,
    stats: Stats,
    options: TemporalOptions,
    *,
    latest: bool,
    in_step: bool = False,
) -> Iterator[Flow[Pair]]:
    """Every frame with its segmentation, from a thread that runs as long as the `with` lasts.

    With propagation the network has a second one, which is named in `stats.hung` if it hangs.

    Args:
        latest: whether frames make way for newer ones, as those of live sources do.
        in_step: whether the network waits, after every frame, until the reader says `go_on`; not
            with propagation.
    """
    if not options.propagate:

        def smoothly(pairs: Iterator[Pair]) -> Iterator[Pair]:
            return smoothed(pairs, options.smooth, stats)

        coming = freshest(frames, stats.clock) if latest else iter(frames)
        if options.idle:
            pairs = resting(coming, segmenter, stats, smoothly)
        else:
            pairs = smoothly(segmenter.stream(coming, stats, ahead=not latest))
        pairs = finished(pairs, segmenter)
        flow = Flow(pairs, latest=latest, in_step=in_step, name="inference", interrupt=frames.stop)
        with flow:
            yield flow
        return
    asked: Slot[Frame] = Slot()
    keys = Flow(segmenter.stream(asked, stats), name="inference", interrupt=asked.close)

    def interrupt() -> None:
        frames.stop()
        keys.stop()

    network = Network(segmenter, asked, keys, stats)
    every = options.key_every
    if latest:
        carried_pairs = carried_on(frames, network, every, idle=options.idle)
    else:
        carried_pairs = carried_between(frames, network, every)
    pairs = finished(smoothed(carried_pairs, options.smooth, stats), segmenter)
    carried = Flow(pairs, latest=latest, name="propagation", interrupt=interrupt)
    try:
        with keys, carried:
            yield carried
    finally:
        if keys.hung:
            stats.hung.append(keys.name)


def warm_up(options: TemporalOptions) -> None:
    """Compile what will run, or load it compiled, before a frame waits for it."""
    smooth, image = Smoother(options.smooth), np.zeros((64, 64, 3), np.uint8)
    for pts in (0.0, 0.1):
        smooth(np.zeros((2, 2, 2), np.float32), image, pts)
    if options.propagate:
        carry(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32))


def finished(pairs: Iterator[Pair], segmenter: Segmenter) -> Iterator[Pair]:
    """The same pairs, for whoever shows them."""
    return (segmenter.finished(pair) for pair in pairs)


def smoothed(pairs: Iterator[Pair], strength: float, stats: Stats) -> Iterator[Pair]:
    """The same pairs with scores smoothed over time; at strength 0 the same iterator."""
    smooth = Smoother(strength)
    return (steadied(pair, smooth, stats) for pair in pairs) if strength else pairs


def steadied(pair: Pair, smooth: Smoother, stats: Stats) -> Pair:
    """A pair with its scores averaged with those that `smooth` has seen of the same source."""
    frame, segmentation = pair
    with stats.stage("smooth"):
        scores = smooth(segmentation.scores, frame.image, frame.pts)
    return frame, segmentation.with_scores(scores, segmentation.carried)
