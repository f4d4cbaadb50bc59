"""The compiled passes of the fit of the mask to the colours.

Planes lie interleaved, (h, w, planes) float32. The passes stand in one file for the reason that
`rtseg/decode/__init__.py` gives.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.draw import foreground
from rtseg.frame import Image
from rtseg.jit import compiled
from rtseg.segmentation import Segmentation

UNSURE = np.float32(0.02)
"""Weight of a pixel on the edge itself, where mask and network say nothing; elsewhere up to 1."""

NOISE = np.float32(2e-4)
"""Variance of a colour channel, of 0..1, below which it explains nothing (He & Sun's epsilon)."""

LOW, HIGH = np.float32(0.2), np.float32(0.85)
"""What the fit gives for nothing and for all is stretched to 0 and 1: windows are never pure."""

MOMENTS, FIT, SPREAD, LINE, GRID = 14, 5, 8, 4, 10

NOTHING, ALL, UNSURE_YET = np.uint8(0), np.uint8(255), np.uint8(1)
"""The alpha that a pixel of the small picture stands for whatever its colours, or that none is."""

_LEVEL = np.float32(1 / 255)
_STRETCH = np.float32(1) / (HIGH - LOW)
_NONE, _ALL = np.float32(0), np.float32(1)


@compiled
def _purity(margin, near):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """1 where all around is as the pixel is, down to 0 where half of it is, or less."""
    return max(2 * near - 1 if margin > 0 else 1 - 2 * near, _NONE)


@compiled
def moments(small, margin, near, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Per pixel what the weighted regression of the mask on the colours sums over its window.

    A pixel counts by how pure its neighbourhood is and how sure the network.

    Args:
        small: (h, w, 3) uint8 BGR.
        margin: (h, w), above 0 where the mask is.
        near: (h, w), share of the mask around each pixel.
        out: (h, w, 14): weight; times mask; times colour; times both; times products of colours.
    """
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            pure = _purity(margin[y, x], near[y, x])
            sure = min(_ALL, abs(margin[y, x]) * np.float32(0.5))
            weight = pure * pure * sure + UNSURE
            mask = weight if margin[y, x] > 0 else _NONE
            b, g, r = small[y, x, 0] * _LEVEL, small[y, x, 1] * _LEVEL, small[y, x, 2] * _LEVEL
            o = out[y, x]
            o[0], o[1] = weight, mask
            o[2], o[3], o[4] = weight * b, weight * g, weight * r
            o[5], o[6], o[7] = mask * b, mask * g, mask * r
            o[8], o[9], o[10] = weight * b * b, weight * b * g, weight * b * r
            o[11], o[12], o[13] = weight * g * g, weight * g * r, weight * r * r


@compiled
def solve(sums, far, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The line from colour to mask that fits each window best, times how much it explains.

    Args:
        sums: (h, w, 14), `moments` over each window.
        far: (h, w), share of the mask in all windows that the pixel is part of.
        out: (h, w, 5): slopes for B, G, R and offset, each times the share of the mask's variance
            that they explain, and the share that they leave; 0 where nobody looks, all being alike.
    """
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            s, o = sums[y, x], out[y, x]
            if abs(far[y, x] - np.float32(0.5)) > np.float32(0.49999):
                o[0] = o[1] = o[2] = o[3] = o[4] = _NONE
                continue
            scale = _ALL / s[0]
            mask = s[1] * scale
            b, g, r = s[2] * scale, s[3] * scale, s[4] * scale
            cb, cg, cr = s[5] * scale - b * mask, s[6] * scale - g * mask, s[7] * scale - r * mask
            bb, bg, br = s[8] * scale - b * b, s[9] * scale - b * g, s[10] * scale - b * r
            gg, gr, rr = s[11] * scale - g * g, s[12] * scale - g * r, s[13] * scale - r * r
            bb, gg, rr = bb + NOISE, gg + NOISE, rr + NOISE
            # the inverse of a symmetric 3x3 matrix by its cofactors
            i00, i01, i02 = gg * rr - gr * gr, br * gr - bg * rr, bg * gr - br * gg
            i11, i12, i22 = bb * rr - br * br, bg * br - bb * gr, bb * gg - bg * bg
            back = _ALL / (bb * i00 + bg * i01 + br * i02)
            ab = (i00 * cb + i01 * cg + i02 * cr) * back
            ag = (i01 * cb + i11 * cg + i12 * cr) * back
            ar = (i02 * cb + i12 * cg + i22 * cr) * back
            told = (ab * cb + ag * cg + ar * cr) / (mask * (_ALL - mask) + np.float32(1e-5))
            told = min(max(told, _NONE), _ALL)
            o[0], o[1], o[2] = ab * told, ag * told, ar * told
            o[3] = (mask - ab * b - ag * g - ar * r) * told
            o[4] = _ALL - told


@compiled
def _ramp(margin, y, x, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The mask's own edge, 0 to 1 over `width` pixels: its margin over how steep that is."""
    above, below = max(y - 1, 0), min(y + 1, margin.shape[0] - 1)
    before, after = max(x - 1, 0), min(x + 1, margin.shape[1] - 1)
    down = (margin[below, x] - margin[above, x]) * np.float32(0.5)
    right = (margin[y, after] - margin[y, before]) * np.float32(0.5)
    steep = np.sqrt(down * down + right * right) + np.float32(1e-4)
    return min(max(np.float32(0.5) + margin[y, x] / (steep * width), _NONE), _ALL)


@compiled
def _alpha(line, blue, green, red):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """What a pixel of this colour keeps, 0 to 1."""
    value = line[0] * blue + line[1] * green + line[2] * red + line[3]
    return min(max(value, _NONE), _ALL)


@compiled
def _certain(line):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether a line gives the same alpha, nothing or all, to every colour there is."""
    low = high = line[3]
    for i in range(3):
        part = line[i] * np.float32(255)
        low, high = low + min(part, _NONE), high + max(part, _NONE)
    return ALL if low >= 1 else NOTHING if high <= 0 else UNSURE_YET


@compiled
def settle(fit, margin, near, width, small, grid, certain, spread, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Join the fit with the mask: far from its edge the mask is kept, and where colours do not
    tell, a ramp of `width` pixels across its edge.

    Args:
        fit: (h, w, 5), `solve` over each window.
        grid: (h, w, 10), 0 to 3 filled: alpha is 0·B + 1·G + 2·R + 3, cut off at 0 and 1.
        certain: (h, w) uint8, filled: NOTHING, ALL or UNSURE_YET.
        spread: (h, w, 8), filled: for both sides, the weight of a pixel and its colour times that.
        alpha: (h, w), filled, 0 to 1.
    """
    for y in range(margin.shape[0]):
        for x in range(margin.shape[1]):
            line, inside = grid[y, x], margin[y, x] > 0
            b, g, r = (
                np.float32(small[y, x, 0]),
                np.float32(small[y, x, 1]),
                np.float32(small[y, x, 2]),
            )
            kept = (_purity(margin[y, x], near[y, x]) - np.float32(0.8)) * np.float32(5.001)
            if kept >= 1:
                line[0] = line[1] = line[2] = _NONE
                a = line[3] = _ALL if inside else _NONE
                certain[y, x] = ALL if inside else NOTHING
            else:
                f, free = fit[y, x], _ALL - max(kept, _NONE)
                slope = free * _STRETCH * _LEVEL
                line[0], line[1], line[2] = f[0] * slope, f[1] * slope, f[2] * slope
                offset = f[3] + f[4] * _ramp(margin, y, x, width)
                line[3] = free * (offset - LOW) * _STRETCH + (_ALL - free if inside else _NONE)
                certain[y, x] = _certain(line)
                a = _alpha(line, b, g, r)
            alpha[y, x] = a
            front, back = a * a, (_ALL - a) * (_ALL - a)
            s = spread[y, x]
            s[0], s[1], s[2], s[3] = front, front * b, front * g, front * r
            s[4], s[5], s[6], s[7] = back, back * b, back * g, back * r


@compiled
def sides(spread, small, grid):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The mean colours of what is kept and of what is not around each pixel: 4 to 9 of `grid`."""
    few = np.float32(1e-4)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            s, o = spread[y, x], grid[y, x]
            front, back = _ALL / (s[0] + few), _ALL / (s[4] + few)
            for i in range(3):
                own = few * small[y, x, i]
                o[4 + i] = (s[1 + i] + own) * front
                o[7 + i] = (s[5 + i] + own) * back


@compiled
def behind(small, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Per pixel its weight in a blur of what is not kept, (h, w, 4), after its colour times that.

    A pixel that is kept to a quarter shows enough of what is kept to be left out; a thousandth of
    it stays, so that there is a colour deep behind what is kept too.
    """
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            weight = max(_ALL - np.float32(4) * alpha[y, x], np.float32(1e-3))
            o = out[y, x]
            for i in range(3):
                o[i] = weight * np.float32(small[y, x, i])
            o[3] = weight


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


_PLANES = {
    "moments": MOMENTS,
    "sums": MOMENTS,
    "lines": FIT,
    "mean_lines": FIT,
    "spread": SPREAD,
    "mean_spread": SPREAD,
    "grid": GRID,
}


class Fit:
    """How what is kept of a pixel follows from its colour, everywhere in a small picture.

    Attributes:
        grid: (h, w, 10) float32, see `passes.settle` and `passes.sides`.
        certain: (h, w) uint8, see `passes.settle`.
        alpha: (h, w) float32 in 0..1, of the small picture itself.
    """

    grid: Plane
    certain: NDArray[np.uint8]
    alpha: Plane

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()

    def solve(self, small: Image, margin: Plane, reach: int) -> None:
        """Fit.

        Args:
            small: (h, w, 3) uint8 BGR.
            margin: (h, w) float32, above 0 where the mask is.
            reach: pixels from the mask's edge within which the colours decide.
        """
        if margin.shape != self._size:
            self._allot(margin)
        planes = self._planes
        near = cv2.blur((margin > 0).astype(np.float32), _square(reach))
        far = cv2.blur(near, _square(reach + 1))
        moments(small, margin, near, planes["moments"])
        solve(self._mean("moments", "sums", reach + 1), far, planes["lines"])
        lines, ramp = self._mean("lines", "mean_lines", reach + 1), np.float32(reach)
        spread = planes["spread"]
        settle(lines, margin, near, ramp, small, self.grid, self.certain, spread, self.alpha)
        sides(self._mean("spread", "mean_spread", reach + 2), small, self.grid)

    def _allot(self, like: Plane) -> None:
        self._size = size = like.shape
        self._planes = {n: np.empty((*size, count), np.float32) for n, count in _PLANES.items()}
        self.grid = self._planes["grid"]
        self.certain, self.alpha = np.empty(size, np.uint8), np.empty(size, np.float32)

    def _mean(self, name: str, into: str, radius: int) -> Plane:
        """Means over squares of pixels at most `radius` away."""
        out = self._planes[into]
        cv2.blur(self._planes[name], _square(radius), dst=out)
        return out


def _square(radius: int) -> tuple[int, int]:
    return 2 * radius + 1, 2 * radius + 1


def cells(small: int, large: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where the pixels between each sample and the next start, their end last; and for each pixel
    the weight of the next sample. Samples lie in the middle of the blocks of pixels they stand for.
    """
    scale = np.float32(small) / np.float32(large)
    at = (np.arange(large, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.clip(at, 0, small - 1)
    first = np.minimum(at.astype(np.int32), small - 1)
    starts = np.searchsorted(first, np.arange(small + 1)).astype(np.int32)
    return starts, at - first.astype(np.float32)
