"""The outlines of the classes over the picture."""

from __future__ import annotations

import numpy as np

from rtseg.blend import bgr_colours, blend, blend_table, foreground
from rtseg.decode.painting import read_only
from rtseg.effects.options import ViewOptions
from rtseg.effects.outline import disc, outline
from rtseg.frame import VOID, Frame, Image, Mask
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation

_SHADE = 0.5  # how dark the rim is that sets a line off from a picture of its own colour


class Contours:
    """Draws a line in each class's colour along the inside of its edge, and a shade outside it.

    Where two classes meet, each has its own line. The frame's border is no edge. Background and
    VOID get no line of their own, only the shade.
    """

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        # the shade needs an index that no line has
        shade = len(labels) if labels.background is None else labels.background
        self._has_line = foreground(labels)
        colours, alphas = bgr_colours(labels), np.where(self._has_line, 1.0, 0.0)
        if shade != VOID:
            colours[shade], alphas[shade] = 0, _SHADE
        self._shade = np.uint8(shade)
        self._table = blend_table(colours, alphas)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        lines = self._lines(segmentation.mask, line_width(frame.size))
        return blend(frame.image, lines, self._table)

    def _lines(self, mask: Mask, width: int) -> Mask:
        """(H, W) uint8: the class whose line a pixel is on, the shade's index, or VOID."""
        lines = np.full(mask.shape, VOID, np.uint8)
        discs = disc(width), disc((width + 1) // 2)
        outline(read_only(mask), discs, self._has_line, self._shade, lines)
        return lines


def line_width(size: tuple[int, int]) -> int:
    """Pixels of a contour on a frame of `size` (height, width): 4 on 720 rows."""
    return max(1, round(min(size) / 180))
