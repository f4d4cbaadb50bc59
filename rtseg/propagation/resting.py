"""The network rests while the picture stays what it last looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rtseg.frame import Frame
from rtseg.segmentation import Carried, Segmentation
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Stats
from rtseg.temporal.idle import Stillness

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
