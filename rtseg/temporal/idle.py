"""Whether a picture still shows what the network last looked at: then it need not look again.

Decided by blocks of the small picture: the mean square of what a block's pixels differ by, held
against that of noise, which is learnt from consecutive pictures. The comparison is with the
picture that was last looked at, never with the one before: what moves by little adds up until it
is seen, however slow.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.temporal.motion import small

Levels = NDArray[np.float32]
"""(rows, columns) float32: for each block a mean square, in grey levels of 255 squared."""

LONGEST_SECONDS = 1.0
"""After so long the network looks again, whatever the picture shows."""

SETTLED_LOOKS = 3
"""So many pictures in a row must show no change before the network rests: what has just moved may
still be blurred in the first of them, and smoothing needs more than one to come to rest."""

BLOCK = 8
"""Side of a block, in pixels of the small picture."""

CHANGE = 4.0
"""A block has changed when it differs by so many times the noise."""

LEAST_NOISE = 1.0
"""No block is calmer than this: compressed pictures change by whole steps, and seldom."""

USUAL_NOISE = 4.0
"""A block may differ by this from one picture to the next, as compressed pictures do along edges,
where others do not. What goes beyond it, and beyond four times what most blocks do, is no noise but
something that moves all the time."""

MOST_NOISE = 32.0
"""A picture that is noisier than this everywhere is looked at all the time."""

LEARNING = 0.1
"""Share by which the noise of a block follows each new picture."""

BUSY_PICTURES, UNSEEN_PICTURES = 15, 7
"""After so many pictures in a row that show a change, so many at a time are not even compared."""

COLOUR_WEIGHT = 0.25
"""Of the two planes of colour beside that of light: JPEG keeps them coarsely, and one step of them
changes a whole block."""


class Stillness:
    """Watches the pictures of one stream, and knows the one that the network looked at."""

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()
        self._now: NDArray[np.uint8] | None = None
        self._pts = 0.0
        self._looked_at: NDArray[np.uint8] | None = None
        self._looked_pts = 0.0
        self._noise: Levels | None = None
        self._calm = self._busy = self._skipped = 0
        self._unseen: tuple[Image, float] | None = None

    def holds(self, image: Image, pts: float) -> bool:
        """Whether the next picture of the stream shows nothing that the network has not seen.

        Args:
            image: (H, W, 3) uint8 BGR.
            pts: seconds.
        """
        if self._is_busy(image, pts):
            return False
        before, self._now, self._pts = self._now, _planes(image), pts
        size, self._size = self._size, image.shape
        if before is None or size != self._size:
            self._noise, self._looked_at, self._calm, self._busy = None, None, 0, 0
            return False
        self._learn(differences(self._now, before))
        changed = self._has_changed()
        self._calm = 0 if changed else self._calm + 1
        self._busy = self._busy + 1 if changed else 0
        age = pts - self._looked_pts
        return self._calm > SETTLED_LOOKS and 0 <= age < LONGEST_SECONDS

    def looked(self) -> None:
        """The network looks at the picture that `holds` was last asked about."""
        self._looked_at, self._looked_pts = self._now, self._pts

    def _is_busy(self, image: Image, pts: float) -> bool:
        """Whether so much moved of late that this picture need not be compared: it is looked at."""
        if self._busy >= BUSY_PICTURES and self._skipped < UNSEEN_PICTURES:
            self._skipped += 1
            self._unseen = image, pts
            return True
        if self._unseen is not None:  # what the next one is compared with
            before, self._looked_pts = self._unseen
            self._now = self._looked_at = _planes(before)
            self._size, self._unseen = before.shape, None
        self._skipped = 0
        return False

    def _has_changed(self) -> bool:
        if self._looked_at is None or self._noise is None or self._now is None:
            return True
        most = np.clip(4 * np.median(self._noise), USUAL_NOISE, MOST_NOISE)
        noise = np.clip(self._noise, LEAST_NOISE, most)
        return bool((differences(self._now, self._looked_at) > CHANGE * noise).any())

    def _learn(self, levels: Levels) -> None:
        """What a block differs by from one picture to the next, when it is calm."""
        if self._noise is None:
            self._noise = levels
        elif levels.any():  # the same picture twice tells nothing
            self._noise += LEARNING * (levels - self._noise)


def _planes(image: Image) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: light and two planes of colour, small."""
    return cv2.cvtColor(small(image), cv2.COLOR_BGR2YCrCb)


def differences(planes: NDArray[np.uint8], others: NDArray[np.uint8]) -> Levels:
    """The mean square difference of two pictures, given as planes, block by block."""
    height, width = planes.shape[:2]
    squares = np.square(cv2.absdiff(planes, others), dtype=np.float32)
    blocks = (-(-width // BLOCK), -(-height // BLOCK))
    light, red, blue = cv2.split(cv2.resize(squares, blocks, interpolation=cv2.INTER_AREA))
    return np.asarray(light + COLOUR_WEIGHT * (red + blue), np.float32)
