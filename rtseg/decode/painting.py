"""What the compiled passes need to paint classes over a picture."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.decode.passes import ONE, PERIOD
from rtseg.frame import Image


class BlendTable(NamedTuple):
    """What becomes of a pixel of each class: `(pixel * weight + offset) // 65536` per channel.

    All are whole numbers below 2**24, which float32 holds exactly.

    Attributes:
        weight: (256,) float32, how much of the picture stays, in 1/65536.
        offset: (256, 192) float32, the colour's part in 1/65536 and the half that rounds: BGR,
            again and again.
    """

    weight: NDArray[np.float32]
    offset: NDArray[np.float32]


class Painting(NamedTuple):
    """A picture on a canvas, as the compiled passes paint over it.

    Attributes:
        weight, offset: of a `BlendTable`.
        canvas: (H, at least left + 3W) uint8, interleaved channels; where it is empty nothing is
            painted.
        left: the picture's first channel on the canvas.
    """

    weight: NDArray[np.float32]
    offset: NDArray[np.float32]
    canvas: NDArray[np.uint8]
    left: int


def blend_table(colours: NDArray[np.uint8], alphas: NDArray[np.float64]) -> BlendTable:
    """A table that mixes each class's colour into the picture with the class's alpha.

    Args:
        colours: (256, 3) uint8 BGR.
        alphas: (256,) float in 0..1: 0 leaves the picture as it is, 1 paints over it, exactly.
    """
    parts = np.rint(alphas * ONE).astype(np.int32)
    offset = colours.astype(np.int32) * parts[:, np.newaxis] + ONE // 2
    tiled = np.tile(offset, (1, PERIOD // 3))
    return BlendTable((ONE - parts).astype(np.float32), tiled.astype(np.float32))


def painting(
    image: Image, table: BlendTable, canvas: Image | None = None, left: int = 0
) -> tuple[Painting, Image]:
    """Put `image` on a canvas, to be painted over there; the canvas is the second result.

    Args:
        image: (H, W, 3) uint8 BGR.
        canvas: (H, at least left + W, 3) uint8 to paint into, C-contiguous; None makes a new one.
        left: the canvas's column at which the picture starts.

    Raises:
        ValueError: the canvas cannot hold the picture.
    """
    height, width = image.shape[:2]
    if canvas is None:
        canvas = np.empty((height, left + width, 3), np.uint8)
    if canvas.shape[0] != height or left < 0 or left + width > canvas.shape[1]:
        raise ValueError(f"a canvas of {canvas.shape} does not hold {image.shape} from {left}")
    canvas[:, left : left + width] = image
    return Painting(*table, canvas.reshape(height, -1), 3 * left), canvas


def read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A contiguous read-only view: frames are such, and one type is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


NOTHING = Painting(
    np.empty(0, np.float32), np.empty((0, 0), np.float32), np.empty((0, 0), np.uint8), 0
)
"""Paints nothing."""
