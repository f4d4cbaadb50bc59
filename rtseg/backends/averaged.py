"""One network run several times on each image: in windows, mirrored, at several scales.

The probabilities of all passes are averaged. It costs a pass of the network each: for measuring,
and for large images with small things, not for live use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import odd_pixel
from rtseg.backends.options import STRIDE
from rtseg.contracts import Backend
from rtseg.draw import resized
from rtseg.options import Size

F32 = NDArray[np.float32]

SCALES = (0.75, 1.0, 1.25)
"""Factors of the input's sides with `tta`; each size is also run mirrored."""

LEAST = 1e-12
"""Of a mean probability, whose logarithm is taken."""


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Averaged(Backend):
    """A backend whose batch is whole frames, each of which it runs through another one piecewise.

    A single pass gives the mask of the network alone: the scores of one that gives logits are
    the logarithms of the mean probabilities.

    Args:
        inner: the network, at the input sizes that it needs; closed with this.
        tta: run every window mirrored and at `SCALES` too; a network of one fixed size is only
            mirrored.
        window: (height, width) of windows of the frame, each run as a frame of its own; None takes
            the whole frame.
        overlap: share of a window that the next one covers again, at least.
    """

    def __init__(
        self, inner: Backend, *, tta: bool = False, window: Size | None = None, overlap: float = 0.0
    ) -> None:
        self.spec, self.input_size = inner.spec, inner.input_size
        self.lanes, self.gains_by_lanes = inner.lanes, inner.gains_by_lanes
        self._inner, self._tta, self._window, self._overlap = inner, tta, window, overlap
        self._mirrored = list(inner.spec.labels.mirrored)
        self.info = inner.info
        self._tell()

    def size_for(self, frame_size: Size) -> Size:
        """The frame's own size: windows are cut out of it before they are shrunk."""
        return frame_size

    def __call__(self, batch: NDArray[np.uint8]) -> F32:
        """As the contract says; the scores have the density of the finest pass."""
        found = np.stack([self._merged(image) for image in batch])
        self._tell()
        return found

    def close(self) -> None:
        """Free the network's device."""
        self._inner.close()

    def _tell(self) -> None:
        """What really runs, and how often."""
        scales = self._scales()
        passes = [f"mirrored and at scales {', '.join(f'{s:g}' for s in scales)}"] * self._tta
        if self._window is not None:
            height, width = self._window
            passes.append(f"in windows of {height}x{width}, {self._overlap:.0%} overlapping")
        note = f"probabilities averaged over passes {' and '.join(passes)}"
        self.input_size = self._inner.input_size
        self.info = replace(self._inner.info, notes=(*self._inner.info.notes, note))

    def _scales(self) -> tuple[float, ...]:
        return SCALES if self._tta and not self.spec.input.fixed else (1.0,)

    def _merged(self, image: NDArray[np.uint8]) -> F32:
        """(C, h, w) scores of an (H, W, 3) uint8 RGB image."""
        size = (image.shape[0], image.shape[1])
        passes = [
            (box, scores)
            for box in windows(size, self._window, self._overlap)
            for scores in self._passes(image[box.top :, box.left :][: box.height, : box.width])
        ]
        mean = merged(passes, size, align_corners=self.spec.align_corners)
        return np.log(np.maximum(mean, LEAST)) if self.spec.output == "logits" else mean

    def _passes(self, image: NDArray[np.uint8]) -> Iterator[F32]:
        """(C, h, w) probabilities at each scale, mean of those of the image and of its mirror."""
        usual = self._inner.size_for((image.shape[0], image.shape[1]))
        more = odd_pixel(usual)
        for scale in self._scales():
            size = usual
            if scale != 1:
                height, width = (
                    max(2, round((side - more) * scale / STRIDE)) * STRIDE + more for side in usual
                )
                size = height, width
            small = resized(np.ascontiguousarray(image), size)
            scores = self._probabilities(self._inner(small[None]))[0]
            if self._tta:
                mirrored = self._probabilities(
                    self._inner(np.ascontiguousarray(small[None, :, ::-1]))
                )
                scores = (scores + mirrored[0, self._mirrored, :, ::-1]) / 2
            yield scores

    def _probabilities(self, scores: F32) -> F32:
        if self.spec.output == "probabilities":
            return scores
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def windows(size: Size, window: Size | None, overlap: float) -> list[Box]:
    """The windows that cover an image of a (height, width), as few as overlap that much, evenly
    spaced; none is larger than the image.
    """
    if window is None:
        return [Box(0, 0, *size)]
    height, width = (min(pair) for pair in zip(size, window, strict=True))
    return [
        Box(top, left, height, width)
        for top in _starts(size[0], height, overlap)
        for left in _starts(size[1], width, overlap)
    ]


def _starts(whole: int, part: int, overlap: float) -> list[int]:
    step = max(1.0, part * (1 - overlap))
    count = 1 + int(np.ceil((whole - part) / step))
    return [round(start) for start in np.linspace(0, whole - part, count)]


def merged(passes: Sequence[tuple[Box, F32]], size: Size, *, align_corners: bool) -> F32:
    """(C, h, w): the weighted mean of (C, h, w) planes of several boxes of an image.

    Planes are interpolated where they have fewer samples than the finest. Within a box, weights
    rise from its border to its middle, except at the border of the image.

    Args:
        size: (height, width) of the image.
        align_corners: whether the corner samples lie on the corner pixels, see `decode`.
    """
    rows, columns = (
        max(round(whole * planes.shape[1 + axis] / box[2 + axis]) for box, planes in passes)
        for axis, whole in enumerate(size)
    )
    total = np.zeros((len(passes[0][1]), rows, columns), np.float32)
    weights = np.zeros((rows, columns), np.float32)
    for box, planes in passes:
        down = _Axis(rows, size[0], box.top, box.height, planes.shape[1], align_corners)
        across = _Axis(columns, size[1], box.left, box.width, planes.shape[2], align_corners)
        there = down.taken, across.taken
        weight = down.weight[:, None] * across.weight
        total[:, there[0], there[1]] += weight * across.sampled(down.sampled(planes, 1), 2)
        weights[there] += weight
    total /= weights
    return total


class _Axis:
    """Where the samples of a plane lie among those of the image, along one side.

    Attributes:
        taken: those of the image that the box has.
        weight: of each of them.
    """

    def __init__(
        self, count: int, whole: int, start: int, length: int, samples: int, align_corners: bool
    ) -> None:
        index = np.arange(count)
        pixels = (index + 0.5) * whole / count - 0.5
        if align_corners:
            pixels = index * (whole - 1) / max(count - 1, 1)
        inside = np.flatnonzero((pixels > start - 1) & (pixels < start + length))
        self.taken = slice(int(inside[0]), int(inside[-1]) + 1)
        pixels = pixels[self.taken] - start
        at = (pixels + 0.5) * samples / length - 0.5
        if align_corners:
            at = pixels * (samples - 1) / max(length - 1, 1)
        at = np.clip(at, 0, samples - 1)
        self._first = np.floor(at).astype(int)
        self._next = np.minimum(self._first + 1, samples - 1)
        self._share = (at - self._first).astype(np.float32)
        before = pixels + 1.0 if start else np.full(len(pixels), np.inf)
        after = length - pixels if start + length < whole else np.full(len(pixels), np.inf)
        near = np.minimum(before, after) / length
        self.weight = np.clip(2 * near, 1e-3, 1.0).astype(np.float32)

    def sampled(self, planes: F32, axis: int) -> F32:
        """The planes at the samples of the image that the box has."""
        share = self._share.reshape((-1, 1) if axis == 1 else (-1,))
        first, following = planes.take(self._first, axis), planes.take(self._next, axis)
        return first * (1 - share) + following * share
