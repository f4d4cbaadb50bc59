"""How near predicted outlines lie to the true ones.

The score is that of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
segmentation?", BMVC 2013: a distance of 0.75 % of the diagonal, per class and picture. What a
boundary is, and what stands for a mask without one, is taken from the F measure of Perazzi et al.,
"A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (DAVIS), CVPR 2016.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rtseg.frame import VOID, Mask
from rtseg.metrics.figures import Figures, mean, ratio

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
