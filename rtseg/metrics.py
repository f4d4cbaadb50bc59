"""Pixels by what they are and what they were taken for.

The figures are those of Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015, section 5, with the pixels of all pictures pooled in one matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtseg.frame import VOID, Image, Mask

Figures = NDArray[np.float64]
"""(C,) one figure per class, NaN where there is nothing to measure."""


def ratio(above: ArrayLike, below: ArrayLike) -> Figures:
    """Quotient, NaN where nothing was counted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(above, below), np.float64)


def mean(figures: Figures) -> float:
    """Mean of the figures that there are; NaN when there are none."""
    known = figures[~np.isnan(figures)]
    return float(known.mean()) if known.size else math.nan


def weighted(figures: Figures, weights: NDArray[np.int64]) -> float:
    """Mean of the figures with a weight, by their weights."""
    there = weights > 0
    return float(np.average(figures[there], weights=weights[there])) if there.any() else math.nan


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


Plane = NDArray[np.bool_]
"""(H, W) bool."""

TOLERANCE = 0.0075
"""How far a boundary may lie from the true one, as a share of the picture's diagonal."""


class BoundaryScore:
    """Boundary F-score: how near predicted outlines lie to the true ones.

    Precision is the share of a class's predicted boundary that lies within the tolerance of its
    true boundary, recall the reverse, the score their harmonic mean. It is taken per picture and
    class, and averaged over the pictures in which either mask has the class; in a picture where
    only one has it, it is 0. The rim of the picture is no boundary.

    Pixels of unknown truth give no precision: a predicted boundary there counts when it is within
    the tolerance, as in the strips that annotators leave along outlines, and else not at all.

    Args:
        num_classes: C.
        tolerance: as a share of the picture's diagonal.
    """

    def __init__(self, num_classes: int, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance
        self._sums = np.zeros(num_classes)
        self._pictures = np.zeros(num_classes, np.int64)

    def update(self, truth: Mask, predicted: Mask) -> None:
        """Score one picture: (H, W) uint8 class indices, 255 for unknown and for no class."""
        unknown = truth == VOID
        reach = self.tolerance * math.hypot(*truth.shape)
        seen = np.where(unknown, VOID, predicted)
        for index in sorted((set(np.unique(truth)) | set(np.unique(seen))) - {VOID}):
            score = _boundary_f(truth == index, predicted == index, unknown, reach)
            self._sums[index] += score
            self._pictures[index] += 1

    @property
    def class_score(self) -> Figures:
        """Per class, 0 to 1; NaN for a class that no picture had."""
        return ratio(self._sums, self._pictures)

    @property
    def mean_score(self) -> float:
        """Mean of `class_score` over the classes that have one."""
        return mean(self.class_score)


def boundary(region: Plane | Mask) -> Plane:
    """(H, W) bool: pixels that differ from the one right of, below, or right below them.

    The outline that DAVIS's `seg2bmap` draws, one pixel wide.
    """
    edge = np.zeros(region.shape, bool)
    edge[:, :-1] |= region[:, :-1] != region[:, 1:]
    edge[:-1] |= region[:-1] != region[1:]
    edge[:-1, :-1] |= region[:-1, :-1] != region[1:, 1:]
    return edge


def _boundary_f(truth: Plane, predicted: Plane, unknown: Plane, reach: float) -> float:
    """The F-score of one class in one picture; see `BoundaryScore`."""
    true_edge, found_edge = boundary(truth), boundary(predicted)
    if truth.any() != (predicted & ~unknown).any():
        return 0.0
    near_truth = _within(true_edge, reach)
    judged = found_edge & (near_truth | ~unknown)
    if not true_edge.any() and not judged.any():
        return 1.0  # the class fills all that is known, in both
    precision = _share(near_truth, judged)
    recall = _share(_within(found_edge, reach), true_edge)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _within(edge: Plane, reach: float) -> Plane:
    """Pixels no farther than `reach` from the edge, centre to centre."""
    if not edge.any():
        return edge
    import cv2

    away = cv2.distanceTransform(
        (~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dstType=cv2.CV_32F
    )
    return np.asarray(away <= reach)


def _share(hits: Plane, of: Plane) -> float:
    """Share of the pixels `of` that are hits; 1 where there are none, as DAVIS has it."""
    count = int(of.sum())
    return float((hits & of).sum()) / count if count else 1.0


STILL_LEVELS = 8
"""Grey levels out of 255 by which a channel may change in a pixel that is said to stand still."""


@dataclass
class Flicker:
    """The share of pixels that change their class from one frame to the next for no reason.

    A reason is what `same_labels` or, without labels, `still_picture` rules out.

    Attributes:
        changed: pixels whose predicted class changed, of those that
        counted: had no reason to.
    """

    changed: int = 0
    counted: int = 0

    def update(self, before: Mask, after: Mask, quiet: NDArray[np.bool_]) -> None:
        """Count two consecutive frames.

        Args:
            before, after: (H, W) uint8 predicted classes.
            quiet: (H, W) bool, where there is no reason to change.
        """
        self.counted += int(quiet.sum())
        self.changed += int(((before != after) & quiet).sum())

    @property
    def share(self) -> float:
        """0 (steady) to 1; NaN when nothing was counted."""
        return float(ratio(self.changed, self.counted))


def same_labels(before: Mask, after: Mask) -> NDArray[np.bool_]:
    """(H, W) bool: where the truth of both frames is known and the same."""
    return (before == after) & (before != VOID)


def still_picture(before: Image, after: Image, levels: int = STILL_LEVELS) -> NDArray[np.bool_]:
    """(H, W) bool: where no channel of two (H, W, 3) uint8 pictures differs by more than `levels`.

    For clips without labels. It takes slow motion and flat surfaces in motion for stillness, so
    its flicker compares networks on one clip, and no clip with another.
    """
    return (np.maximum(before, after) - np.minimum(before, after)).max(2) <= levels


__all__ = ["BoundaryScore", "ConfusionMatrix", "Flicker", "same_labels", "still_picture"]
