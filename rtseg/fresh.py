"""The newest frame of a live source, or the one that is about to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from statistics import median

from rtseg.clock import Clock
from rtseg.frame import Frame
from rtseg.threads import Flow

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
