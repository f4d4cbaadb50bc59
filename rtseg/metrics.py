"""Segmentation metrics: IoU and accuracies, boundary F-score, flicker.

IoU and accuracies are those of Long, Shelhamer and Darrell, "Fully Convolutional Networks for
Semantic Segmentation", CVPR 2015, section 5, with the pixels of all images in one confusion matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtseg.frame import Image, Mask
from rtseg.labels import VOID

TOLERANCE = 0.0075
"""Distance within which boundaries match, as a share of the image diagonal."""

STILL_LEVELS = 8
"""Largest change of a channel (0..255) in a pixel that counts as static."""

Figures = NDArray[np.float64]
"""(C,) one figure per class, NaN if not measured."""

Plane = NDArray[np.bool_]
"""(H, W) bool."""


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Figures:
    """Quotient; NaN for 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(numerator, denominator), np.float64)


def mean(figures: Figures) -> float:
    """Mean of the figures that are not NaN; NaN if there are none."""
    measured = figures[~np.isnan(figures)]
    return float(measured.mean()) if measured.size else math.nan


def weighted(figures: Figures, weights: NDArray[np.int64]) -> float:
    """Weighted mean of the figures with a weight above 0; NaN if there are none."""
    used = weights > 0
    return float(np.average(figures[used], weights=weights[used])) if used.any() else math.nan


class ConfusionMatrix:
    """Counts pixels by true and predicted class.

    Args:
        num_classes: C, from 1 to 255.

    Attributes:
        counts: (C, C + 1) int64. Row: true class. Column: predicted class; the last one is for
            pixels predicted as 255, which are wrong. Unlabelled pixels (255) are not counted.
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
        """Number of pixels counted."""
        return int(self.counts.sum())

    def update(self, truth: Mask, predicted: Mask) -> None:
        """Count the pixels of one image.

        Args:
            truth, predicted: (H, W) uint8 class indices, 255 for unlabelled or not predicted.

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
            raise ValueError(f"a mask has values that are neither one of {classes} classes nor 255")
        self.counts[:, :classes] += found[:classes, :classes]
        self.counts[:, classes] += found[:classes, VOID]

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of another matrix with the same number of classes."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(
                f"cannot add counts of {other.num_classes} classes to {self.num_classes}"
            )
        self.counts += other.counts
        return self

    @property
    def true_pixels(self) -> NDArray[np.int64]:
        """(C,) true pixels of each class."""
        return self.counts.sum(1)

    @property
    def _correct(self) -> NDArray[np.int64]:
        return self.counts.diagonal()

    @property
    def class_iou(self) -> Figures:
        """Per class: intersection of truth and prediction over their union.

        NaN for a class in neither.
        """
        predicted = self.counts[:, : self.num_classes].sum(0)
        return ratio(self._correct, self.true_pixels + predicted - self._correct)

    @property
    def class_accuracy(self) -> Figures:
        """Per class: share of its true pixels that were predicted; NaN if it has none."""
        return ratio(self._correct, self.true_pixels)

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
        """Share of the pixels that were predicted correctly."""
        return float(ratio(self._correct.sum(), self.pixels))

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of `class_iou`, weighted with each class's true pixels."""
        return weighted(self.class_iou, self.true_pixels)


class BoundaryScore:
    """Boundary F-score: how well predicted outlines match the true ones.

    Precision is the share of a class's predicted boundary that lies within the tolerance of its
    true boundary, recall the reverse, the score their harmonic mean. It is computed per image and
    class, and averaged over the images in which either mask has the class; it is 0 in an image
    where only one has it. The border of the image is not a boundary.

    In unlabelled pixels, such as the strips that annotators leave along outlines, a predicted
    boundary counts if it is within the tolerance, and is ignored otherwise.

    Args:
        num_classes: C.
        tolerance: as a share of the image diagonal.
    """

    def __init__(self, num_classes: int, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance
        self._sums = np.zeros(num_classes)
        self._images = np.zeros(num_classes, np.int64)

    def update(self, truth: Mask, predicted: Mask) -> None:
        """Score one image: (H, W) uint8 class indices, 255 for unlabelled or not predicted."""
        unlabelled = truth == VOID
        reach = self.tolerance * math.hypot(*truth.shape)
        judged = np.where(unlabelled, VOID, predicted)
        for index in sorted((set(np.unique(truth)) | set(np.unique(judged))) - {VOID}):
            score = _boundary_f(truth == index, predicted == index, unlabelled, reach)
            self._sums[index] += score
            self._images[index] += 1

    @property
    def class_score(self) -> Figures:
        """Per class, 0 to 1; NaN for a class that no image has."""
        return ratio(self._sums, self._images)

    @property
    def mean_score(self) -> float:
        """Mean of `class_score` over the classes that have one."""
        return mean(self.class_score)


def boundary(region: Plane | Mask) -> Plane:
    """(H, W) bool: pixels that differ from their right, lower or lower right neighbour.

    The one-pixel outline of DAVIS's `seg2bmap`.
    """
    edge = np.zeros(region.shape, bool)
    edge[:, :-1] |= region[:, :-1] != region[:, 1:]
    edge[:-1] |= region[:-1] != region[1:]
    edge[:-1, :-1] |= region[:-1, :-1] != region[1:, 1:]
    return edge


def _boundary_f(truth: Plane, predicted: Plane, unlabelled: Plane, reach: float) -> float:
    """The F-score of one class in one image; see `BoundaryScore`."""
    true_edge, found_edge = boundary(truth), boundary(predicted)
    if truth.any() != (predicted & ~unlabelled).any():
        return 0.0
    near_truth = _within(true_edge, reach)
    judged = found_edge & (near_truth | ~unlabelled)
    if not true_edge.any() and not judged.any():
        return 1.0  # the class fills all labelled pixels, in both
    precision = _share(near_truth, judged)
    recall = _share(_within(found_edge, reach), true_edge)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _within(edge: Plane, reach: float) -> Plane:
    """Pixels within `reach` of the edge, centre to centre."""
    if not edge.any():
        return edge
    import cv2

    distance = cv2.distanceTransform(
        (~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dstType=cv2.CV_32F
    )
    return np.asarray(distance <= reach)


def _share(hits: Plane, of: Plane) -> float:
    """Share of the pixels `of` that are hits; 1 if there are none, as in DAVIS."""
    count = int(of.sum())
    return float((hits & of).sum()) / count if count else 1.0


@dataclass
class Flicker:
    """The share of static pixels whose predicted class changes from one frame to the next.

    Static pixels come from `static_in_labels` or, without labels, from `static_in_images`.

    Attributes:
        changed: static pixels whose predicted class changed.
        counted: static pixels.
    """

    changed: int = 0
    counted: int = 0

    def update(self, before: Mask, after: Mask, static: Plane) -> None:
        """Count two consecutive frames.

        Args:
            before, after: (H, W) uint8 predicted classes.
            static: (H, W) bool, where the class should not change.
        """
        self.counted += int(static.sum())
        self.changed += int(((before != after) & static).sum())

    @property
    def share(self) -> float:
        """0 (steady) to 1; NaN if nothing was counted."""
        return float(ratio(self.changed, self.counted))


def static_in_labels(before: Mask, after: Mask) -> Plane:
    """(H, W) bool: where both frames are labelled with the same class."""
    return (before == after) & (before != VOID)


def static_in_images(before: Image, after: Image, levels: int = STILL_LEVELS) -> Plane:
    """(H, W) bool: where no channel of two (H, W, 3) uint8 images differs by more than `levels`.

    For clips without labels. Slow motion and moving flat surfaces count as static, so that the
    flicker compares models on one clip, but not one clip with another.
    """
    return (np.maximum(before, after) - np.minimum(before, after)).max(2) <= levels
