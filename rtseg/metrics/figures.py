"""Quotients and means in which what was not measured is NaN."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
