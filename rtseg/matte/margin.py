"""By how much the network keeps a pixel, as one plane of numbers around 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtseg.blend import foreground
from rtseg.segmentation import Segmentation

Plane = NDArray[np.float32]

SURE = np.float32(50.0)
"""A margin beyond all doubt."""


def margin_of(segmentation: Segmentation, threshold: float = 0.5) -> Plane:
    """(h, w) float32 at the size of the scores: above 0 where what is kept has a probability over
    `threshold`.

    Kept are the classes that are selected and not the background. Logits give the logarithm of the
    odds; probabilities four times their distance from the threshold, which is as steep there.
    """
    kept = kept_classes(segmentation)
    scores = segmentation.scores.astype(np.float32, copy=False)
    if kept.all() or not kept.any():
        return np.full(scores.shape[1:], SURE if kept.all() else -SURE, np.float32)
    if segmentation.kind == "probabilities":
        return np.asarray(4 * (scores[kept].sum(0) - np.float32(threshold)), np.float32)
    odds = _together(scores[kept]) - _together(scores[~kept])
    return np.asarray(odds - np.float32(np.log(threshold / (1 - threshold))), np.float32)


def kept_classes(segmentation: Segmentation) -> NDArray[np.bool_]:
    """(C,) bool: selected, and not the background."""
    labels, selected = segmentation.labels, segmentation.selected
    kept = foreground(labels)[: len(labels)]
    if selected is not None:
        kept = kept & np.isin(np.arange(len(labels)), list(selected))
    return kept


def _together(logits: Plane) -> Plane:
    """(h, w): the logit of all of `logits`, (n, h, w), as one class."""
    if len(logits) == 1:
        return logits[0]
    top = logits.max(0)
    return np.asarray(top + np.log(np.exp(logits - top).sum(0)), np.float32)
