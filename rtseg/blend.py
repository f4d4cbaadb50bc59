"""What a mask drawn over a picture looks like; every view is a table for one compiled pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.decode import passes
from rtseg.decode.painting import BlendTable, blend_table, painting, read_only
from rtseg.frame import VOID, Image, Mask
from rtseg.labels import LabelSet

__all__ = ["BlendTable", "bgr_colours", "blend", "blend_table", "foreground", "overlay_table"]


def overlay_table(labels: LabelSet, alpha: float) -> BlendTable:
    """Every class in its colour with one alpha; background and VOID leave the picture alone."""
    return blend_table(bgr_colours(labels), np.where(foreground(labels), alpha, 0.0))


def bgr_colours(labels: LabelSet) -> NDArray[np.uint8]:
    """(256, 3) uint8 BGR: the colour of each class; black for what is no class."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(labels)] = np.array(labels.colours, np.uint8)[:, ::-1]
    return colours


def foreground(labels: LabelSet) -> NDArray[np.bool_]:
    """(256,) bool: which values of a mask are classes, and not background."""
    index = np.arange(256)
    found = (index < len(labels)) & (index != VOID)
    return found if labels.background is None else found & (index != labels.background)


def blend(
    image: Image, mask: Mask, table: BlendTable, canvas: Image | None = None, left: int = 0
) -> Image:
    """Draw `mask` over `image`.

    With alpha a a channel becomes `image * (1 - a) + colour * a`, rounded to the nearest level,
    halves up; a is held in 1/65536, so the sum is off by less than 0.004 levels before rounding.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (H, W) uint8.
        canvas: (H, at least left + W, 3) uint8 to draw into, C-contiguous; None makes a new one.
        left: the canvas's column at which the picture starts.

    Returns:
        The canvas.

    Raises:
        ValueError: the mask is not of the picture's size, or the canvas cannot hold it.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} does not fit a picture of {image.shape[:2]}")
    prepared, canvas = painting(image, table, canvas, left)
    passes.paint(read_only(mask), prepared)
    return canvas
