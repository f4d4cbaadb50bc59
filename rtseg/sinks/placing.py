"""Where a picture lies in a window of any size: whole, undistorted, as large as can be."""

from __future__ import annotations

from typing import NamedTuple

import cv2

from rtseg.frame import Image
from rtseg.shrink import resized
from rtseg.sinks.display import Screen

SCREEN_SHARE = 0.9
"""A window takes at most this much of the screen's width and height."""

Point = tuple[float, float]
"""(x, y), each 0..1: from the left and from the top of the finished picture."""


class Place(NamedTuple):
    """Where a picture lies in a window, in the window's pixels."""

    left: int
    top: int
    width: int
    height: int

    def point(self, x: int, y: int) -> Point | None:
        """Where a pixel of the window is on the picture; None beside it."""
        at = (x + 0.5 - self.left) / self.width, (y + 0.5 - self.top) / self.height
        return at if all(0 <= share < 1 for share in at) else None


def fitting(size: tuple[int, int], screen: Screen) -> tuple[int, int]:
    """(width, height) for the window of a picture: its own, or what the screen allows."""
    width, height = size
    scale = min(1.0, screen.width * SCREEN_SHARE / width, screen.height * SCREEN_SHARE / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def placed(shape: tuple[int, int], window: tuple[int, int]) -> Place:
    """Where a picture of `shape` (width, height) lies in a window: whole, as large as can be."""
    scale = min(window[0] / shape[0], window[1] / shape[1])
    # a bar of one pixel is a rounding error
    width, height = (
        room if room - side * scale < 1.5 else max(1, round(side * scale))
        for side, room in zip(shape, window, strict=True)
    )
    return Place((window[0] - width) // 2, (window[1] - height) // 2, width, height)


def scaled(picture: Image, size: tuple[int, int]) -> Image:
    """The picture at (width, height): averaged where it shrinks much, or rows would be lost."""
    return picture if size == size_of(picture) else resized(picture, (size[1], size[0]))


def framed(picture: Image, place: Place, window: tuple[int, int]) -> Image:
    """The picture in its place in a window of (width, height), black around it."""
    right, bottom = window[0] - place.left - place.width, window[1] - place.top - place.height
    if not any((place.left, place.top, right, bottom)):
        return picture
    sides = place.top, bottom, place.left, right
    return cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def size_of(picture: Image) -> tuple[int, int]:
    """(width, height) of a picture."""
    return picture.shape[1], picture.shape[0]
