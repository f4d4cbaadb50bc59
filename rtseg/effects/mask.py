"""The mask alone, in the classes' colours."""

from __future__ import annotations

import numpy as np

from rtseg.blend import bgr_colours, blend_table
from rtseg.effects.options import ViewOptions
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation


class MaskPicture:
    """Paints every pixel in its class's colour, background included; VOID is black."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        self._table = blend_table(bgr_colours(labels), np.ones(256))

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        return segmentation.over(frame.picture, self._table)
