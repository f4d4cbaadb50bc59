"""Fits alpha as a linear function of colour near the mask's edge, at the size of a small image.

Planes are interleaved: (h, w, planes) float32. The compiled passes are all in this file because
numba's cache of compiled code watches only the file of the function that it belongs to.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.draw import foreground
from rtseg.frame import Image, Segmentation
from rtseg.jit import compiled

SURE_MARGIN = np.float32(50.0)
"""The margin of a pixel that is certain."""

EDGE_WEIGHT = np.float32(0.02)
"""Weight of a pixel on the edge itself, where mask and network are unsure; elsewhere up to 1."""

NOISE = np.float32(2e-4)
"""Variance of a colour channel (0..1) below which it explains nothing (He & Sun's epsilon)."""

LOW, HIGH = np.float32(0.2), np.float32(0.85)
"""Fitted values that are stretched to alpha 0 and 1, as no window holds a single class."""

NONE_KEPT, ALL_KEPT, BY_COLOUR = np.uint8(0), np.uint8(255), np.uint8(1)
"""Whether a small pixel's alpha is 0 for every colour, 255 for every colour, or neither."""

Plane = NDArray[np.float32]
"""(h, w) float32."""

_PLANES = {
    "moments": 14,
    "sums": 14,
    "lines": 5,
    "mean_lines": 5,
    "spread": 8,
    "mean_spread": 8,
    "grid": 10,
}

_LEVEL = np.float32(1 / 255)
_STRETCH = np.float32(1) / (HIGH - LOW)
_ZERO, _ONE = np.float32(0), np.float32(1)


def margin_of(segmentation: Segmentation, threshold: float = 0.5) -> Plane:
    """(h, w) float32 at the size of the scores: above 0 where the probability that a pixel is kept
    exceeds `threshold`.

    Kept are the selected classes except the background. For logits the margin is the log-odds; for
    probabilities it is four times the distance from the threshold, which has the same slope there.
    """
    kept = kept_classes(segmentation)
    scores = segmentation.scores.astype(np.float32, copy=False)
    if kept.all() or not kept.any():
        return np.full(scores.shape[1:], SURE_MARGIN if kept.all() else -SURE_MARGIN, np.float32)
    if segmentation.kind == "probabilities":
        return np.asarray(4 * (scores[kept].sum(0) - np.float32(threshold)), np.float32)
    odds = log_sum_exp(scores[kept]) - log_sum_exp(scores[~kept])
    return np.asarray(odds - np.float32(np.log(threshold / (1 - threshold))), np.float32)


def kept_classes(segmentation: Segmentation) -> NDArray[np.bool_]:
    """(C,) bool: selected, and not the background."""
    labels, selected = segmentation.labels, segmentation.selected
    kept = foreground(labels)[: len(labels)]
    if selected is not None:
        kept = kept & np.isin(np.arange(len(labels)), list(selected))
    return kept


def log_sum_exp(logits: Plane) -> Plane:
    """(h, w): the logit of the union of the classes of `logits`, (n, h, w)."""
    if len(logits) == 1:
        return logits[0]
    top = logits.max(0)
    return np.asarray(top + np.log(np.exp(logits - top).sum(0)), np.float32)


class Fit:
    """Alpha as a linear function of colour, for each pixel of a small image.

    Attributes:
        grid: (h, w, 10) float32, see `_combine` and `_mean_colours`.
        certain: (h, w) uint8, NONE_KEPT, ALL_KEPT or BY_COLOUR.
        alpha: (h, w) float32 in 0..1, of the small image itself.
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
            reach: pixels from the mask's edge within which colours decide.
        """
        if margin.shape != self._size:
            self._allocate(margin)
        planes = self._planes
        near = cv2.blur((margin > 0).astype(np.float32), _square(reach))
        far = cv2.blur(near, _square(reach + 1))
        _moments(small, margin, near, planes["moments"])
        _regress(self._mean("moments", "sums", reach + 1), far, planes["lines"])
        lines, ramp = self._mean("lines", "mean_lines", reach + 1), np.float32(reach)
        spread = planes["spread"]
        _combine(lines, margin, near, ramp, small, self.grid, self.certain, spread, self.alpha)
        _mean_colours(self._mean("spread", "mean_spread", reach + 2), small, self.grid)

    def _allocate(self, like: Plane) -> None:
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


@compiled
def weigh_background(small, alpha, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Fill `out`, (h, w, 4), for a blur of the background: colour times weight, and the weight.

    Args:
        small: (h, w, 3) uint8 BGR.
        alpha: (h, w) float32.

    A pixel that is kept to a quarter or more gets only a thousandth of the full weight, so that
    there is a colour deep inside the foreground too.
    """
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            weight = max(_ONE - np.float32(4) * alpha[y, x], np.float32(1e-3))
            o = out[y, x]
            for i in range(3):
                o[i] = weight * np.float32(small[y, x, i])
            o[3] = weight


@compiled
def _moments(small, margin, near, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Per pixel, the terms that the weighted regression of mask on colour sums over its window.

    A pixel's weight grows with the purity of its neighbourhood and the confidence of the network.

    Args:
        small: (h, w, 3) uint8 BGR.
        margin: (h, w), above 0 where the mask is.
        near: (h, w), share of the mask around each pixel.
        out: (h, w, 14): weight; times mask; times colour; times both; times products of colours.
    """
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            pure = _purity(margin[y, x], near[y, x])
            sure = min(_ONE, abs(margin[y, x]) * np.float32(0.5))
            weight = pure * pure * sure + EDGE_WEIGHT
            mask = weight if margin[y, x] > 0 else _ZERO
            b, g, r = small[y, x, 0] * _LEVEL, small[y, x, 1] * _LEVEL, small[y, x, 2] * _LEVEL
            o = out[y, x]
            o[0], o[1] = weight, mask
            o[2], o[3], o[4] = weight * b, weight * g, weight * r
            o[5], o[6], o[7] = mask * b, mask * g, mask * r
            o[8], o[9], o[10] = weight * b * b, weight * b * g, weight * b * r
            o[11], o[12], o[13] = weight * g * g, weight * g * r, weight * r * r


@compiled
def _purity(margin, near):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """1 if all neighbours are on the pixel's side of the mask, 0 if half of them or fewer."""
    return max(2 * near - 1 if margin > 0 else 1 - 2 * near, _ZERO)


@compiled
def _regress(sums, far, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The least-squares line from colour to mask in each window, scaled by how much it explains.

    Args:
        sums: (h, w, 14), `_moments` over each window.
        far: (h, w), share of the mask in all windows that contain the pixel.
        out: (h, w, 5): slopes for B, G, R and offset, each times the share of the mask's variance
            that they explain, and the share that they leave; 0 where all windows are uniform.
    """
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            s, o = sums[y, x], out[y, x]
            if abs(far[y, x] - np.float32(0.5)) > np.float32(0.49999):
                o[0] = o[1] = o[2] = o[3] = o[4] = _ZERO
                continue
            scale = _ONE / s[0]
            mask = s[1] * scale
            b, g, r = s[2] * scale, s[3] * scale, s[4] * scale
            cb, cg, cr = s[5] * scale - b * mask, s[6] * scale - g * mask, s[7] * scale - r * mask
            bb, bg, br = s[8] * scale - b * b, s[9] * scale - b * g, s[10] * scale - b * r
            gg, gr, rr = s[11] * scale - g * g, s[12] * scale - g * r, s[13] * scale - r * r
            bb, gg, rr = bb + NOISE, gg + NOISE, rr + NOISE
            # the inverse of a symmetric 3x3 matrix by its cofactors
            i00, i01, i02 = gg * rr - gr * gr, br * gr - bg * rr, bg * gr - br * gg
            i11, i12, i22 = bb * rr - br * br, bg * br - bb * gr, bb * gg - bg * bg
            inverse = _ONE / (bb * i00 + bg * i01 + br * i02)
            ab = (i00 * cb + i01 * cg + i02 * cr) * inverse
            ag = (i01 * cb + i11 * cg + i12 * cr) * inverse
            ar = (i02 * cb + i12 * cg + i22 * cr) * inverse
            explained = (ab * cb + ag * cg + ar * cr) / (mask * (_ONE - mask) + np.float32(1e-5))
            explained = min(max(explained, _ZERO), _ONE)
            o[0], o[1], o[2] = ab * explained, ag * explained, ar * explained
            o[3] = (mask - ab * b - ag * g - ar * r) * explained
            o[4] = _ONE - explained


@compiled
def _combine(fit, margin, near, width, small, grid, certain, spread, alpha):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Combine fit and mask: far from its edge the mask is kept; near it, what the colours do not
    explain is a ramp of `width` pixels across the edge.

    Args:
        fit: (h, w, 5), `_regress` averaged over each window.
        grid: (h, w, 10), 0 to 3 filled: alpha is 0·B + 1·G + 2·R + 3, clipped to 0..1.
        certain: (h, w) uint8, filled: NONE_KEPT, ALL_KEPT or BY_COLOUR.
        spread: (h, w, 8), filled: for foreground and background, a pixel's weight and its colour
            times that.
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
                line[0] = line[1] = line[2] = _ZERO
                a = line[3] = _ONE if inside else _ZERO
                certain[y, x] = ALL_KEPT if inside else NONE_KEPT
            else:
                f, free = fit[y, x], _ONE - max(kept, _ZERO)
                slope = free * _STRETCH * _LEVEL
                line[0], line[1], line[2] = f[0] * slope, f[1] * slope, f[2] * slope
                offset = f[3] + f[4] * _ramp(margin, y, x, width)
                line[3] = free * (offset - LOW) * _STRETCH + (_ONE - free if inside else _ZERO)
                certain[y, x] = _certain(line)
                a = _alpha(line, b, g, r)
            alpha[y, x] = a
            front, back = a * a, (_ONE - a) * (_ONE - a)
            s = spread[y, x]
            s[0], s[1], s[2], s[3] = front, front * b, front * g, front * r
            s[4], s[5], s[6], s[7] = back, back * b, back * g, back * r


@compiled
def _ramp(margin, y, x, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The mask's own edge, 0 to 1 over `width` pixels: its margin over the margin's gradient."""
    above, below = max(y - 1, 0), min(y + 1, margin.shape[0] - 1)
    before, after = max(x - 1, 0), min(x + 1, margin.shape[1] - 1)
    down = (margin[below, x] - margin[above, x]) * np.float32(0.5)
    right = (margin[y, after] - margin[y, before]) * np.float32(0.5)
    steep = np.sqrt(down * down + right * right) + np.float32(1e-4)
    return min(max(np.float32(0.5) + margin[y, x] / (steep * width), _ZERO), _ONE)


@compiled
def _alpha(line, blue, green, red):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The alpha of a pixel of this colour, 0 to 1."""
    value = line[0] * blue + line[1] * green + line[2] * red + line[3]
    return min(max(value, _ZERO), _ONE)


@compiled
def _certain(line):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether a line gives every colour alpha 0, every colour alpha 1, or neither."""
    low = high = line[3]
    for i in range(3):
        part = line[i] * np.float32(255)
        low, high = low + min(part, _ZERO), high + max(part, _ZERO)
    return ALL_KEPT if low >= 1 else NONE_KEPT if high <= 0 else BY_COLOUR


@compiled
def _mean_colours(spread, small, grid):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill 4 to 9 of `grid`: the mean colours of foreground and background around each pixel."""
    few = np.float32(1e-4)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            s, o = spread[y, x], grid[y, x]
            front, back = _ONE / (s[0] + few), _ONE / (s[4] + few)
            for i in range(3):
                own = few * small[y, x, i]
                o[4 + i] = (s[1 + i] + own) * front
                o[7 + i] = (s[5 + i] + own) * back
