"""The pictures that went worst, kept in memory and written as overlays at the end."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtseg.blend import BlendTable, bgr_colours, blend, blend_table, foreground
from rtseg.draw import panel
from rtseg.errors import SinkError
from rtseg.frame import VOID, Image, Mask
from rtseg.labels import LabelSet
from rtseg.metrics import ConfusionMatrix
from rtseg.metrics.boundaries import boundary

ALPHA = 0.5
GAP = 4  # pixels between the two
UNKNOWN_GREY = 160


@dataclass(frozen=True)
class Kept:
    """One bad picture: how bad (IoU), and all that is needed to show it."""

    iou: float
    name: str
    image: Image
    truth: Mask
    predicted: Mask


class Worst:
    """Keeps the worst pictures of a set.

    Args:
        count: how many.
        labels: of the masks.
        by: the class whose IoU decides; None is the mean over the classes that a picture has.
    """

    def __init__(self, count: int, labels: LabelSet, by: str | None = None) -> None:
        self.kept: list[Kept] = []
        self._count, self._labels = count, labels
        self._class = None if by is None else labels.index(by)

    def add(
        self, name: str, matrix: ConfusionMatrix, image: Image, truth: Mask, predicted: Mask
    ) -> None:
        """Keep a picture if it is one of the worst; one in which nothing can be measured is not.

        Args:
            matrix: of this picture alone.
            image: (H, W, 3) uint8 BGR.
            truth, predicted: (H, W) uint8.
        """
        iou = matrix.mean_iou if self._class is None else float(matrix.class_iou[self._class])
        if not math.isnan(iou):
            kept = sorted(
                [*self.kept, Kept(iou, name, image, truth, predicted)], key=lambda k: k.iou
            )
            self.kept = kept[: self._count]

    def write(self, folder: Path) -> list[Path]:
        """Write each as `IoU_name.jpg`, truth on the left and prediction on the right.

        Raises:
            SinkError: the folder or a file cannot be written.
        """
        import cv2

        table = _table(self._labels)
        paths = []
        for kept in self.kept:
            path = folder / f"{kept.iou:.3f}_{_as_file(kept.name)}.jpg"
            _, content = cv2.imencode(".jpg", side_by_side(kept, table))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.tobytes())
            except OSError as error:
                raise SinkError(f"cannot write {path}", found=error.strerror or "") from error
            paths.append(path)
        return paths


def side_by_side(kept: Kept, table: BlendTable) -> Image:
    """(H, 2W + 4, 3) uint8 BGR: the picture with its true classes, and with those predicted."""
    height, width = kept.truth.shape
    canvas = np.full((height, 2 * width + GAP, 3), 255, np.uint8)
    for left, mask, title in (
        (0, kept.truth, "truth"),
        (width + GAP, kept.predicted, f"IoU {kept.iou:.3f}"),
    ):
        half = blend(kept.image, mask, table)
        half[boundary(mask)] = 255  # a class may have the colour of what it lies on
        panel(half, [title])
        canvas[:, left : left + width] = half
    return canvas


def _table(labels: LabelSet) -> BlendTable:
    """Classes in their colours, the background as it is, what is unknown in grey."""
    colours = bgr_colours(labels)
    colours[VOID] = UNKNOWN_GREY
    shown = foreground(labels) | (np.arange(256) == VOID)
    return blend_table(colours, np.where(shown, ALPHA, 0.0))


def _as_file(name: str) -> str:
    """A picture's name without what a file's name may not hold."""
    return re.sub(r"[^\w.-]+", "_", name)[:120]
