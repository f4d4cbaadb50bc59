"""The classes' colours over the picture."""

from __future__ import annotations

from rtseg.blend import overlay_table
from rtseg.effects.options import ViewOptions
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation


class Overlay:
    """Mixes each class's colour into the picture; background and VOID stay as they were."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        self._table = overlay_table(labels, options.alpha)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        return segmentation.over(frame.picture, self._table)
