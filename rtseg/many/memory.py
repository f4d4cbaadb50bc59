"""What is remembered of one source from frame to frame."""

from __future__ import annotations

from rtseg.frame import Frame
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.propagation import Rests, steadied
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.smooth import Smoother


class Memory:
    """Ties the masks of one source's frames together; used by one thread at a time.

    Args:
        options: smoothing, and whether the network rests while the picture stays as it is.
        stats: of the source.
    """

    def __init__(self, segmenter: Segmenter, options: TemporalOptions, stats: Stats) -> None:
        self._stats = stats
        self._smooth = Smoother(options.smooth) if options.smooth else None
        self._rests = Rests(segmenter) if options.idle else None

    def known(self, frame: Frame) -> Segmentation | None:
        """What is known of the next frame without the network; None when that must look."""
        if self._rests is None:
            return None
        with self._stats.stage("compare"):
            return self._rests.mask_of(frame)

    def asked(self, frame: Frame) -> Frame:
        """The frame as the network is to see it: no time has passed while it rested."""
        return frame if self._rests is None else self._rests.clocked(frame)

    def told(self, frame: Frame, pair: Pair) -> Segmentation:
        """Take what the network says of a frame, and give what is shown."""
        if self._smooth is not None:
            pair = steadied(pair, self._smooth, self._stats)
        if self._rests is not None:
            self._rests.looked(frame, pair[1])
        return pair[1]
