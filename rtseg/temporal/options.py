"""What is asked of consecutive frames."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.errors import UsageError

USUAL_SMOOTH = 0.8
"""The strength that is on where somebody watches: on clips of people before a camera it leaves a
third of the flicker on average, and on labelled sequences it costs less than half a point of IoU.
"""


@dataclass(frozen=True)
class TemporalOptions:
    """How the segmentations of consecutive frames are tied together; by default not at all.

    Attributes:
        smooth: strength of the temporal smoothing, from 0 (off) to 1.
        propagate: run the network on keyframes only, and carry their scores to the frames between.
        idle: let the network rest while the picture does not change. With `propagate`, no keyframe
            of a live source is taken meanwhile; those of a recording are few anyhow.
        key_every: frames from one keyframe to the next; None leaves it to the pictures (files) and
            to the network's speed (live). Needs `propagate`.

    Raises:
        UsageError: a value makes no sense.
    """

    smooth: float = 0.0
    propagate: bool = False
    key_every: int | None = None
    idle: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.smooth <= 1.0:
            raise UsageError(f"smooth {self.smooth:g}", found="it goes from 0 (off) to 1")
        if self.key_every is None:
            return
        if not self.propagate:
            raise UsageError(
                f"a keyframe every {self.key_every} frames without propagation",
                do="Add --propagate",
            )
        if self.key_every < 1:
            raise UsageError(f"a keyframe every {self.key_every} frames", found="it is below 1")
