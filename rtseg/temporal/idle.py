"""Detects that the image is unchanged, so that the network can rest.

Images are compared at low resolution, block by block: the mean square difference of a block
against the noise of that block, which is learnt from consecutive images. The comparison is with
the image that the network last segmented, not with the one before, so slow motion adds up until it
is detected.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.temporal.motion import downscale

MAX_IDLE_SECONDS = 1.0
"""The network runs at least this often, even if nothing changes."""

SETTLING_FRAMES = 3
"""Consecutive unchanged images before the network rests: the first image after a motion may still
be blurred, and smoothing takes more than one to converge."""

BLOCK = 8
"""Side of a block in pixels of the small image."""

CHANGE = 4.0
"""A block has changed when its difference exceeds its noise by this factor."""

MIN_NOISE = 1.0
"""Lower limit of a block's noise: compressed images change by whole steps, and seldom."""

EDGE_NOISE = 4.0
"""Noise that a block may always have: compression changes blocks along edges, and not others. Above
this, and above four times the median of all blocks, it is not noise but constant motion."""

MAX_NOISE = 32.0
"""Upper limit of a block's noise. An image that is noisier everywhere always counts as changed."""

LEARNING_RATE = 0.1
"""Weight of the newest image in the noise of a block."""

BUSY_FRAMES, SKIPPED_FRAMES = 15, 7
"""After 15 consecutive changed images, only every eighth is compared: 7 are skipped in between."""

COLOUR_WEIGHT = 0.25
"""Weight of each chroma plane; luma has 1. JPEG quantises chroma coarsely, and a single step
changes a whole block."""

Planes = NDArray[np.uint8]
"""(h, w, 3) uint8: luma and two chroma planes of the small image."""

Levels = NDArray[np.float32]
"""(rows, columns) float32: mean square difference per block, in squared grey levels of 255."""


class IdleDetector:
    """Compares the images of one stream with the one that the network last segmented."""

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()
        self._current: Planes | None = None
        self._pts = 0.0
        self._reference: Planes | None = None
        self._reference_pts = 0.0
        self._noise: Levels | None = None
        self._unchanged = self._changed = self._skipped = 0
        self._last_skipped: tuple[Image, float] | None = None

    def is_idle(self, image: Image, pts: float) -> bool:
        """Whether the next image of the stream shows what the reference shows.

        Args:
            image: (H, W, 3) uint8 BGR.
            pts: seconds.
        """
        if self._skips(image, pts):
            return False
        before, self._current, self._pts = self._current, _planes(image), pts
        size, self._size = self._size, image.shape
        if before is None or size != self._size:
            self._noise = self._reference = None
            self._unchanged = self._changed = 0
            return False
        self._learn_noise(_differences(self._current, before))
        changed = self._differs_from_reference()
        self._unchanged = 0 if changed else self._unchanged + 1
        self._changed = self._changed + 1 if changed else 0
        age = pts - self._reference_pts
        return self._unchanged > SETTLING_FRAMES and 0 <= age < MAX_IDLE_SECONDS

    def mark_reference(self) -> None:
        """Make the last image of `is_idle` the reference: the network segments it."""
        self._reference, self._reference_pts = self._current, self._pts

    def _skips(self, image: Image, pts: float) -> bool:
        """Whether so much has moved that this image counts as changed without a comparison."""
        if self._changed >= BUSY_FRAMES and self._skipped < SKIPPED_FRAMES:
            self._skipped += 1
            self._last_skipped = image, pts
            return True
        if self._last_skipped is not None:  # the next image is compared with the last skipped one
            before, self._reference_pts = self._last_skipped
            self._current = self._reference = _planes(before)
            if before.shape != self._size:
                self._noise = None
            self._size, self._last_skipped = before.shape, None
        self._skipped = 0
        return False

    def _differs_from_reference(self) -> bool:
        if self._reference is None or self._noise is None or self._current is None:
            return True
        most = np.clip(4 * np.median(self._noise), EDGE_NOISE, MAX_NOISE)
        noise = np.clip(self._noise, MIN_NOISE, most)
        return bool((_differences(self._current, self._reference) > CHANGE * noise).any())

    def _learn_noise(self, levels: Levels) -> None:
        """Update the noise of each block with the difference of two consecutive images."""
        if self._noise is None:
            self._noise = levels
        elif levels.any():  # a repeated image carries no information
            self._noise += LEARNING_RATE * (levels - self._noise)


def _planes(image: Image) -> Planes:
    return cv2.cvtColor(downscale(image), cv2.COLOR_BGR2YCrCb)


def _differences(planes: Planes, others: Planes) -> Levels:
    """The mean square difference of two images, block by block."""
    height, width = planes.shape[:2]
    squares = np.square(cv2.absdiff(planes, others), dtype=np.float32)
    blocks = (-(-width // BLOCK), -(-height // BLOCK))
    luma, red, blue = cv2.split(cv2.resize(squares, blocks, interpolation=cv2.INTER_AREA))
    return np.asarray(luma + COLOUR_WEIGHT * (red + blue), np.float32)
