"""The views "mask", "side" and "cutout"; the overlay is in `rtseg.effects`, beside the table."""

from __future__ import annotations

import numpy as np

from rtseg.draw import bgr_colours, blend_table, overlay_table
from rtseg.effects import ViewOptions
from rtseg.effects.background import Background
from rtseg.frame import Frame, Image, Segmentation
from rtseg.labels import LabelSet
from rtseg.matte import MatteOptions


class MaskPicture:
    """Paints every pixel in its class's colour, background included; VOID is black."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        self._table = blend_table(bgr_colours(labels), np.ones(256))

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        return segmentation.over(frame.picture, self._table)


class SideBySide:
    """Puts the image on the left and its overlay on the right, both at full size."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        self._table = overlay_table(labels, options.alpha)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, 2W, 3) uint8 BGR."""
        height, width = frame.size
        canvas = np.empty((height, 2 * width, 3), np.uint8)
        canvas[:, :width] = frame.image
        return segmentation.over(frame.picture, self._table, canvas, left=width)


class Cutout(Background):
    """Keeps the selected classes, over the background of `options`, or over black."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        matte = MatteOptions(options.matte_threshold, options.feather)
        super().__init__(options.background, matte)
