"""The picture and its overlay, side by side."""

from __future__ import annotations

import numpy as np

from rtseg.blend import overlay_table
from rtseg.effects.options import ViewOptions
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation


class SideBySide:
    """Puts the picture on the left and its overlay on the right, both at full size."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        self._table = overlay_table(labels, options.alpha)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, 2W, 3) uint8 BGR."""
        height, width = frame.size
        canvas = np.empty((height, 2 * width, 3), np.uint8)
        canvas[:, :width] = frame.image
        return segmentation.over(frame.picture, self._table, canvas, left=width)
