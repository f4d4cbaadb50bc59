"""Images in planes of YUV 4:2:0, as most videos have them, for runs that never need BGR.

From a video file to a video file, an image that is only shrunk for the network, painted by its mask
and encoded stays in its planes: shrinking and blending are linear, so that they give what they
would in BGR, rounded once instead of three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.decode import BLOCKS, ONE, BlendTable, read_only
from rtseg.draw import resized
from rtseg.frame import Frame, Image, Mask, Picture, Segmentation, in_memory
from rtseg.jit import compiled, literal_unroll
from rtseg.yuv import luma, weights


class Planes:
    """An image of a video in Y, U and V of limited range: a `rtseg.frame.HeldPicture`.

    Attributes:
        frame: the `av.VideoFrame`, yuv420p, which nobody changes; its sides are even.
        matrix: FFmpeg's number of its matrix.
    """

    def __init__(self, frame: Any) -> None:
        self.frame, self.matrix = frame, int(frame.colorspace)
        self.shape = frame.height, frame.width, 3

    @cached_property
    def _image(self) -> Image:
        image: Image = self.frame.reformat(format="bgr24", threads=1).to_ndarray()
        image.flags.writeable = False
        return image

    def numpy(self) -> Image:
        """(H, W, 3) uint8 BGR, converted once; read-only."""
        return self._image

    def shrunk(self, size: tuple[int, int]) -> Image:
        """(h, w, 3) uint8 RGB at `size` (height, width), as `rtseg.draw.resized` shrinks."""
        stored = zip(planes_of(self.frame), self.frame.planes, strict=True)
        y, u, v = (resized(rows[:, : plane.width], size) for rows, plane in stored)
        rgb = [np.empty(size, np.uint8) for _ in range(3)]
        _to_rgb(*(plane.reshape(-1) for plane in (y, u, v, *rgb)), _inverse(self.matrix))
        return cv2.merge(rgb)  # in vector code, which numba's would not be

    def painted(self, mask: Mask, table: BlendTable) -> Planes:
        """A copy, blended with the colour of each pixel's class.

        Args:
            mask: (H, W) uint8 class indices.
        """
        import av

        frame = av.VideoFrame(self.frame.width, self.frame.height, self.frame.format.name)
        frame.colorspace = self.matrix
        planes = planes_of(frame)
        for plane, original in zip(planes, planes_of(self.frame), strict=True):
            width = min(plane.shape[1], original.shape[1])  # of the longer rows
            plane[:, :width] = original[:, :width]
        _paint(read_only(mask), *planes, table.weight, _offsets(table, self.matrix))
        return Planes(frame)


def small_rgb(picture: Picture, size: tuple[int, int]) -> Image:
    """(h, w, 3) uint8 RGB of any image at `size` (height, width): shrunk first, then converted."""
    if isinstance(picture, Planes):
        return picture.shrunk(size)
    return cv2.cvtColor(resized(in_memory(picture), size), cv2.COLOR_BGR2RGB).astype(
        np.uint8, copy=False
    )


def in_planes(effect: Any, frame: Frame, segmentation: Segmentation) -> Planes | None:
    """What an effect makes of a frame in planes; None if one of them has none."""
    paint = getattr(effect, "in_planes", None)
    if paint is None or not isinstance(frame.picture, Planes):
        return None
    painted: Planes = paint(frame.picture, segmentation)
    return painted


def converted(picture: Picture) -> Picture:
    """BGR instead of planes; others as they are."""
    return picture.numpy() if isinstance(picture, Planes) else picture


def planes_of(frame: Any) -> Sequence[NDArray[np.uint8]]:
    """Y, U and V of a frame, not copied; rows may be longer than the image's."""
    return [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size) for p in frame.planes]


@lru_cache(maxsize=8)
def _inverse(matrix: int) -> NDArray[np.float32]:
    """(3, 3) float32: weights of Y - 16, U - 128 and V - 128 (columns) in R, G and B (rows)."""
    forward = weights(luma(matrix), full=False) / ONE  # of B, G and R in Y, U and V
    return np.ascontiguousarray(np.linalg.inv(forward)[::-1], np.float32)


_last: list[tuple[BlendTable, int, NDArray[np.float32]]] = []


def _offsets(table: BlendTable, matrix: int) -> NDArray[np.float32]:
    """(256, 3) float32: what `table` adds to Y, U and V, in 1/65536, one half to round included."""
    if _last and _last[0][0] is table and _last[0][1] == matrix:
        return _last[0][2]
    colours = table.offset[:, :3].astype(np.float64) - ONE // 2  # times alpha, BGR
    forward = weights(luma(matrix), full=False) / ONE
    alpha = ONE - table.weight.astype(np.float64)
    levels = colours @ forward.T + alpha[:, np.newaxis] * (16, 128, 128) + ONE // 2
    offsets = levels.astype(np.float32)
    _last[:] = [(table, matrix, offsets)]
    return offsets


@compiled
def _to_rgb(y, u, v, red, green, blue, inverse):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill R, G and B from Y, U and V, all (n,) uint8 and contiguous."""
    for channel, out in enumerate((red, green, blue)):
        light, by_u, by_v = inverse[channel, 0], inverse[channel, 1], inverse[channel, 2]
        added = np.float32(0.5) - 16 * light - 128 * by_u - 128 * by_v
        for at in range(out.size):
            value = light * np.float32(y[at]) + by_u * np.float32(u[at])
            value += by_v * np.float32(v[at]) + np.float32(added)
            out[at] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))


@compiled
def _paint(mask, y, u, v, kept, offsets):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Blend planes by the classes of a mask; a chroma sample by those of its four pixels."""
    height, width = mask.shape
    quarter = np.float32(0.25)
    for row in range(0, height, 2):
        above, below = mask[row], mask[row + 1]
        blue, red = u[row >> 1], v[row >> 1]
        at = 0
        while at < width:
            one, other = above[at], below[at]
            stop = _run_end(above, below, at)
            _shade(y[row, at:stop], kept[one], offsets[one, 0])
            _shade(y[row + 1, at:stop], kept[other], offsets[other, 0])
            share = (kept[one] + kept[other]) * np.float32(0.5)
            first, last = (at + 1) >> 1, stop >> 1
            if first < last:
                half = np.float32(0.5)
                _shade(blue[first:last], share, (offsets[one, 1] + offsets[other, 1]) * half)
                _shade(red[first:last], share, (offsets[one, 2] + offsets[other, 2]) * half)
            if stop & 1:  # the sample at `stop` has pixels of this run and of the next
                after, under = above[stop], below[stop]
                share = (kept[one] + kept[other] + kept[after] + kept[under]) * quarter
                for plane, k in ((blue, 1), (red, 2)):
                    added = offsets[one, k] + offsets[other, k]
                    added += offsets[after, k] + offsets[under, k]
                    _shade(plane[last : last + 1], share, added * quarter)
            at = stop


@compiled
def _run_end(above, below, start):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The first pixel after `start` with another class, in one of two rows; else their end."""
    one, other, stop = above[start], below[start], start + 1
    for block in literal_unroll(BLOCKS):  # known to the compiler
        while stop + block <= above.size:
            first, second = above[stop : stop + block], below[stop : stop + block]
            different = np.uint8(0)
            for i in range(block):
                different |= (first[i] ^ one) | (second[i] ^ other)
            if different:
                break
            stop += block
    while stop < above.size and above[stop] == one and below[stop] == other:
        stop += 1
    return stop


_BACK = np.float32(1 / ONE)


@compiled
def _shade(out, kept, offset):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Blend with one colour, in place."""
    if kept != ONE:
        for i in range(out.size):
            out[i] = np.uint8(np.int32((np.float32(out[i]) * kept + offset) * _BACK))
