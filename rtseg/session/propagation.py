"""Propagation: the network sees keyframes only, and their scores are carried to all other frames.

In a recording no frame is lost and every run is the same: while the network works on a keyframe,
the frames up to the next are read and followed, and each takes its scores from the keyframes on
both sides. Live nothing waits: the network sees the newest frame whenever it is free, and every
frame takes the latest scores there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from rtseg.frame import Carried, Frame, Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Stats
from rtseg.temporal.idle import IdleDetector
from rtseg.temporal.keyframes import LOST_SHARE, Keyframes, Span, carry, interpolate
from rtseg.temporal.motion import Grey, Motion, is_cut, small_grey
from rtseg.threads import Flow, Slot

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
        self, network: KeyframeNetwork, key_every: int | None, detector: IdleDetector | None = None
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
        return last.segmentation.with_scores(scores, Carried(last.frame.index, age))

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
