"""How right masks are: a confusion matrix and its figures, boundaries, and flicker.

A figure that has nothing to be measured on is NaN, never 0 or 1.
"""

from __future__ import annotations

from rtseg.metrics.boundaries import BoundaryScore
from rtseg.metrics.confusion import ConfusionMatrix
from rtseg.metrics.flicker import Flicker, same_labels, still_picture

__all__ = ["BoundaryScore", "ConfusionMatrix", "Flicker", "same_labels", "still_picture"]
