"""The synthetic scene: three flat shapes that move, their exact mask, and a number in pixels."""

from __future__ import annotations

from itertools import pairwise
from math import pi, sin

import cv2
import numpy as np

from rtseg.frame import Image, Mask
from rtseg.shapes import SHAPE_COLOURS, SHAPE_LABELS

NUMBER_BITS = 20
CHECK_BITS = 4
BLOCKS = NUMBER_BITS + CHECK_BITS
MAX_NUMBER = (1 << NUMBER_BITS) - 1

MIN_WIDTH, MIN_HEIGHT = 2 * BLOCKS, 32
"""Below this the shapes and the blocks of the number have no room."""

MIDDLE_GREY = 127.5
"""Under 40 % of any colour, black stays below 102 and white above 153."""


def encode_number(image: Image, number: int) -> None:
    """Paint `number` into the top of `image`, in place, as a row of black and white blocks.

    20 bits and 4 of checksum, each block a 24th of the width and about as high. It survives
    H.264 from blocks of about 8 pixels, and blending with up to 40 % of any colour.
    """
    number &= MAX_NUMBER
    height, width = strip_height(image.shape[1]), image.shape[1]
    bits = (number << CHECK_BITS) | _check(number)
    values = [255 if bits >> (BLOCKS - 1 - i) & 1 else 0 for i in range(BLOCKS)]
    columns = np.arange(width) * BLOCKS // width
    image[:height] = np.array(values, np.uint8)[columns][None, :, None]


def read_number(image: Image) -> int:
    """The number painted into an (H, W, 3) picture of any size, as long as it is whole.

    Raises:
        ValueError: there is none, or it is too damaged to be trusted.
    """
    height, width = strip_height(image.shape[1]), image.shape[1]
    edges = [-(-i * width // BLOCKS) for i in range(BLOCKS + 1)]
    bits = 0
    for left, right in pairwise(edges):
        block = image[_core(0, height), _core(left, right)]
        bits = bits << 1 | int(block.size and block.mean() > MIDDLE_GREY)
    number = bits >> CHECK_BITS
    if _check(number) != bits & ((1 << CHECK_BITS) - 1):
        raise ValueError(f"no frame number in this picture (read {bits:0{BLOCKS}b})")
    return number


def _core(low: int, high: int) -> slice:
    """The middle half of a block's side: its rim mixes with its neighbours when compressed."""
    trim = (high - low) // 4
    return slice(low + trim, high - trim)


def strip_height(width: int) -> int:
    """Rows that the number takes in a picture so wide."""
    return max(2, width // BLOCKS)


def _check(number: int) -> int:
    """Four bits that any single wrong bit breaks, as do all black and all white."""
    return 14 - number % 15


class Scene:
    """A circle, a square and a triangle on paths of their own; the same for the same seed.

    Args:
        width, height: in pixels.
        seed: of the paths.
    """

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        self.width, self.height = width, height
        self._top = strip_height(width)
        self._background = self._paint_background()
        rng = np.random.default_rng(seed)
        # Periods of 2 to 10 seconds at 30 frames per second, in both directions.
        self._paths = [
            (rng.uniform(60, 300), rng.uniform(60, 300), *rng.uniform(0, 2 * pi, 2))
            for _ in SHAPE_COLOURS
        ]

    def _paint_background(self) -> Image:
        """Grey, darker to the right and chequered, so that motion and shifts can be seen."""
        ys, xs = np.mgrid[: self.height, : self.width]
        side = max(4, self.width // 20)
        grey = 150 - 50 * xs // self.width + 16 * ((xs // side + ys // side) % 2)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)

    def image_of(self, index: int) -> Image:
        """(H, W, 3) uint8 BGR: the scene at frame `index`, which is painted into its top."""
        image = self._background.copy()
        for label, colour in SHAPE_COLOURS.items():
            self._draw(image, index, label, colour)
        encode_number(image, index)
        return image

    def mask_of(self, index: int) -> Mask:
        """(H, W) uint8: class of `SHAPE_LABELS` of every pixel of `image_of(index)`."""
        mask = np.full((self.height, self.width), SHAPE_LABELS.background, np.uint8)
        for label in SHAPE_COLOURS:
            self._draw(mask, index, label, (label, label, label))
        mask[: self._top] = 0
        return mask

    def _draw(
        self, image: Image | Mask, index: int, label: int, colour: tuple[int, int, int]
    ) -> None:
        x, y, radius = self._place(index, label)
        if SHAPE_LABELS.names[label] == "circle":
            cv2.circle(image, (x, y), radius, colour, cv2.FILLED)
        elif SHAPE_LABELS.names[label] == "square":
            corner, opposite = (x - radius, y - radius), (x + radius, y + radius)
            cv2.rectangle(image, corner, opposite, colour, cv2.FILLED)
        else:
            corners = [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
            cv2.fillPoly(image, [np.array(corners, np.int32)], colour)

    def _place(self, index: int, label: int) -> tuple[int, int, int]:
        """Centre and radius, whole pixels: the shape stays inside, below the number."""
        period_x, period_y, phase_x, phase_y = self._paths[label - 1]
        room = self.height - self._top
        radius = max(3, min(room, self.width) // 6)
        x = self.width / 2 + (self.width / 2 - radius - 1) * sin(
            2 * pi * index / period_x + phase_x
        )
        middle = self._top + room / 2
        y = middle + (room / 2 - radius - 1) * sin(2 * pi * index / period_y + phase_y)
        return round(x), round(y), radius
