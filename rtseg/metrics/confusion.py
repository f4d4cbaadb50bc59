"""Pixels by what they are and what they were taken for.

The figures are those of Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015, section 5, with the pixels of all pictures pooled in one matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.frame import VOID, Mask
from rtseg.metrics.figures import Figures, mean, ratio, weighted


class ConfusionMatrix:
    """Counts pixels by what they are and what they were taken for.

    Args:
        num_classes: C, from 1 to 255.

    Attributes:
        counts: (C, C + 1) int64. Row: the true class. Column: the predicted class, the last one for
            pixels that were given no class (255), which are wrong. Pixels of which the truth is not
            known (255) are in no cell.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= VOID:
            raise ValueError(f"1 to {VOID} classes, got {num_classes}")
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def pixels(self) -> int:
        """How many pixels were counted."""
        return int(self.counts.sum())

    def update(self, truth: Mask, predicted: Mask) -> None:
        """Count the pixels of one picture.

        Args:
            truth, predicted: (H, W) uint8 class indices, 255 for unknown and for no class.

        Raises:
            ValueError: the shapes or dtypes differ, or a value is neither a class nor 255.
        """
        if truth.shape != predicted.shape or (truth.dtype, predicted.dtype) != (np.uint8,) * 2:
            raise ValueError(
                f"two uint8 masks of one shape, got {truth.shape} {truth.dtype} "
                f"and {predicted.shape} {predicted.dtype}"
            )
        pairs = truth.astype(np.uint16) << 8 | predicted
        found = np.bincount(pairs.reshape(-1), minlength=1 << 16).reshape(256, 256)[:VOID]
        classes = self.num_classes
        if found[classes:].any() or found[:, classes:VOID].any():
            raise ValueError(f"a mask has values beyond its {classes} classes, and not 255")
        self.counts[:, :classes] += found[:classes, :classes]
        self.counts[:, classes] += found[:classes, VOID]

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add what another matrix of as many classes counted."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(f"{self.num_classes} classes and {other.num_classes} do not add up")
        self.counts += other.counts
        return self

    @property
    def true_pixels(self) -> NDArray[np.int64]:
        """(C,) pixels that are each class."""
        return self.counts.sum(1)

    @property
    def _right(self) -> NDArray[np.int64]:
        return self.counts.diagonal()

    @property
    def class_iou(self) -> Figures:
        """Per class: pixels that are it and were taken for it, over those that are either.

        NaN for a class that is in neither.
        """
        taken = self.counts[:, : self.num_classes].sum(0)
        return ratio(self._right, self.true_pixels + taken - self._right)

    @property
    def class_accuracy(self) -> Figures:
        """Per class: the share of its pixels that were taken for it; NaN where there are none."""
        return ratio(self._right, self.true_pixels)

    @property
    def mean_iou(self) -> float:
        """Mean of `class_iou` over the classes that have one."""
        return mean(self.class_iou)

    @property
    def mean_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have one."""
        return mean(self.class_accuracy)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that were taken for what they are."""
        return float(ratio(self._right.sum(), self.pixels))

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of `class_iou`, each class weighted with its share of the true pixels."""
        return weighted(self.class_iou, self.true_pixels)
