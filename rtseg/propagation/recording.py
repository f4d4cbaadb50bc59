"""Recordings: every frame between two keyframes takes its scores from both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from rtseg.frame import Frame
from rtseg.propagation.network import Network
from rtseg.segmentation import Carried, Segmentation
from rtseg.segmenter import Pair
from rtseg.stats import Stats
from rtseg.temporal.carry import between, carry
from rtseg.temporal.keyframes import Keyframes, Span


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
