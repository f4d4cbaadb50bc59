"""The network on keyframes only, and their scores carried to every other frame.

A recording (`recording.py`) loses nothing and is the same every time: while the network looks
at a keyframe, the frames up to the next are read and followed, and each takes its scores from the
keyframes on both of its sides. A live source (`live.py`) waits for nothing: the network looks
at the newest frame whenever it is free, and each frame takes the last scores that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from rtseg.frame import Frame
from rtseg.fresh import freshest
from rtseg.propagation.live import carried_on
from rtseg.propagation.network import Network
from rtseg.propagation.recording import carried_between
from rtseg.propagation.resting import Rests, resting
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.carry import carry
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow, Slot

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
