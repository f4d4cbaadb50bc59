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

from rtseg.flow import Flow, Slot
from rtseg.frame import Frame
from rtseg.propagation.live import carried_on
from rtseg.propagation.network import Network
from rtseg.propagation.recording import carried_between
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.carry import carry
from rtseg.temporal.smooth import Smoother

__all__ = ["Network", "carried_between", "carried_on", "inferring", "smoothed"]


@contextmanager
def inferring(
    frames: Flow[Frame],
    segmenter: Segmenter,
    stats: Stats,
    options: TemporalOptions,
    *,
    latest: bool,
) -> Iterator[Flow[Pair]]:
    """Every frame with its segmentation, from a thread that runs as long as the `with` lasts.

    With propagation the network has a second one, which is named in `stats.hung` if it hangs.

    Args:
        latest: whether frames make way for newer ones, as those of live sources do.
    """
    _warm_up(options)
    if not options.propagate:
        found = segmenter.stream(frames, stats, ahead=not latest)
        pairs = smoothed(found, options.smooth, stats)
        with Flow(pairs, latest=latest, name="inference", interrupt=frames.stop) as flow:
            yield flow
        return
    asked: Slot[Frame] = Slot()
    keys = Flow(segmenter.stream(asked, stats), name="inference", interrupt=asked.close)

    def interrupt() -> None:
        frames.stop()
        keys.stop()

    network = Network(segmenter, asked, keys, stats)
    way = carried_on if latest else carried_between
    pairs = smoothed(way(frames, network, options.key_every), options.smooth, stats)
    carried = Flow(pairs, latest=latest, name="propagation", interrupt=interrupt)
    try:
        with keys, carried:
            yield carried
    finally:
        if keys.hung:
            stats.hung.append(keys.name)


def _warm_up(options: TemporalOptions) -> None:
    """Compile what will run, or load it compiled, before a frame waits for it."""
    smooth, image = Smoother(options.smooth), np.zeros((64, 64, 3), np.uint8)
    for pts in (0.0, 0.1):
        smooth(np.zeros((2, 2, 2), np.float32), image, pts)
    if options.propagate:
        carry(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32))


def smoothed(pairs: Iterator[Pair], strength: float, stats: Stats) -> Iterator[Pair]:
    """The same pairs with scores smoothed over time; at strength 0 the same iterator."""
    return _smoothed(pairs, Smoother(strength), stats) if strength else pairs


def _smoothed(pairs: Iterator[Pair], smooth: Smoother, stats: Stats) -> Iterator[Pair]:
    for frame, segmentation in pairs:
        with stats.stage("smooth"):
            scores = smooth(segmentation.scores, frame.image, frame.pts)
        yield frame, segmentation.with_scores(scores, segmentation.carried)
