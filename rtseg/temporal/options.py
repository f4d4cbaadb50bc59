"""Options of smoothing, propagation and idle detection."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.errors import UsageError
from rtseg.options import check, option

USUAL_SMOOTH = 0.8
"""Default strength in a window or live: on clips of people in front of a camera it leaves a third
of the flicker on average, and on labelled sequences it costs less than half a point of IoU."""


@dataclass(frozen=True)
class TemporalOptions:
    """How consecutive frames share segmentations; by default each frame is segmented alone.

    Attributes:
        smooth: Smooth the masks over time: 0 (off) to 1; default 0.8 in a window or live, else 0.
        propagate: Run the model on keyframes only, and carry their masks to the frames between.
        key_every: With --propagate: a keyframe every N frames; default every 1.5 s, or live as
            often as the model keeps up.
        idle: Pause the model while the image does not change; default for live sources.

    Raises:
        UsageError: a value is out of range, or `key_every` is given without `propagate`.
    """

    smooth: float = option(0.0, least=0, most=1)
    propagate: bool = False
    key_every: int | None = option(None, least=1)
    idle: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.key_every is not None and not self.propagate:
            raise UsageError(
                f"--key-every {self.key_every} without --propagate", do="Add --propagate"
            )
