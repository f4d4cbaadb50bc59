"""One picture of a source.

Colour order is stated here and nowhere else: a full-size picture is **BGR**, everywhere.
RGB exists only inside the segmenter, after the picture has been shrunk for the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 BGR."""

Mask = NDArray[np.uint8]
"""(H, W) uint8 class indices; 255 is "no class"."""

VOID = 255


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, sealed: threads share it without copying.

    Attributes:
        image: (H, W, 3) uint8 BGR, made read-only.
        index: position in the source, from 0; a gap is a drop.
        pts: presentation time in seconds from the source's first frame.
        captured_at: monotonic seconds at which the picture was taken or read.
        name: what the picture is called where it has a name (a file's stem), else "".

    Raises:
        ValueError: the image has another shape or dtype.
    """

    image: Image
    index: int
    pts: float
    captured_at: float
    name: str = ""

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"a frame's image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
        image.flags.writeable = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]
