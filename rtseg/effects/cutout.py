"""What was found, cut out of the picture."""

from __future__ import annotations

import numpy as np

from rtseg.blend import blend_table, foreground
from rtseg.effects import ViewOptions
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation


class Cutout:
    """Keeps the pixels of classes as they are; background, and classes not selected, are black."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        black = np.zeros((256, 3), np.uint8)
        self._table = blend_table(black, np.where(foreground(labels), 0.0, 1.0))

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        return segmentation.over(frame.image, self._table)
