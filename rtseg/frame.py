"""One image of a source.

A full-size image is **BGR** everywhere. RGB exists only inside the segmenter, after the image has
been shrunk for the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 BGR."""

Mask = NDArray[np.uint8]
"""(H, W) uint8 class indices; 255 is "no class"."""

VOID = 255


class HeldPicture(Protocol):
    """An image on a device, fetched on demand."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""

    def numpy(self) -> Image:
        """(H, W, 3) uint8 BGR in main memory, fetched once; read-only."""


Picture = Image | HeldPicture


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image, sealed: threads share it without copying.

    Attributes:
        picture: (H, W, 3) uint8 BGR, made read-only; or an image on a device.
        index: position in the source, from 0; a gap is a drop.
        pts: presentation time in seconds from the source's first frame.
        captured_at: monotonic seconds at which the image was taken or read.
        name: of the image if it has one (a file's stem), otherwise "".

    Raises:
        ValueError: the image has another shape or dtype.
    """

    picture: Picture
    index: int
    pts: float
    captured_at: float
    name: str = ""

    def __post_init__(self) -> None:
        image = self.picture
        if not isinstance(image, np.ndarray):
            return
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"a frame's image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
        image.flags.writeable = False

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 BGR, read-only; fetched now if it is on a device."""
        picture = self.picture
        return picture if isinstance(picture, np.ndarray) else picture.numpy()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.picture.shape[0], self.picture.shape[1]
