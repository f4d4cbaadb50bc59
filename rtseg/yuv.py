"""What the numbers of a video are in colour: the matrix that its tags name, and pictures by it.

From 4.13 on, OpenCV reads videos by the matrix that they name (before, all by that of BT.601), and
turns wide colours and those of HDR into BT.709's. What is written of its pictures has to be what
it says it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.frame import Image
from rtseg.jit import compiled

ONE = 1 << 16
"""Weights are whole numbers of 1/65536."""

UNSAID, BT709, BT601 = 2, 1, 6
"""As FFmpeg numbers matrices, primaries and transfers alike; BT.601 is SMPTE 170M. It is the matrix
of pictures which say nothing."""

WIDE = frozenset((8, 9, 10, 11, 12))
"""Primaries that OpenCV turns into BT.709's: film, BT.2020, XYZ, DCI and Display P3."""

HDR = frozenset((16, 18))
"""Transfers that it turns into BT.709's: PQ and HLG."""

Tags = tuple[int, int, int]
"""(matrix, primaries, transfer)."""


LIMITED, FULL = 1, 2
"""Ranges, as FFmpeg numbers them: black and white are 16 and 235, or 0 and 255."""


class Luma(NamedTuple):
    """The coefficients of a matrix: how much of luma is red, how much blue; the rest is green.

    Attributes:
        kr, kb: from 0 to 1.
    """

    kr: float
    kb: float


MATRICES = {
    1: Luma(0.2126, 0.0722),  # BT.709: most videos of 720 lines and more
    4: Luma(0.30, 0.11),  # FCC
    5: Luma(0.299, 0.114),  # BT.470 BG
    BT601: Luma(0.299, 0.114),
    7: Luma(0.212, 0.087),  # SMPTE 240M
    9: Luma(0.2627, 0.0593),  # BT.2020, non-constant luminance
}
"""ITU-T H.273, table 4, as FFmpeg numbers them."""


def luma(number: int) -> Luma:
    """Of the matrix with FFmpeg's `number`; of BT.601 where it names none, as decoders have it."""
    return MATRICES.get(number, MATRICES[BT601])


def converted(tags: tuple[int, ...]) -> bool:
    """Whether OpenCV turns the colours of a video with (matrix, primaries, transfer, ...) into
    BT.709's.
    """
    return tags[1] in WIDE or tags[2] in HDR


def written(tags: tuple[int, ...] | None) -> Tags:
    """What to write of pictures that OpenCV read from a video with `tags`; None: from no video.

    The source's own: what a player makes of its numbers, it makes of ours. Where it names no
    matrix, players guess one, of ours as of the source.
    """
    if tags is None:
        return BT601, BT601, BT601
    if converted(tags):
        return BT709, BT709, BT709
    if tags[0] not in (UNSAID, *MATRICES):  # RGB, or one that cannot be read
        return BT601, BT601, BT601
    return tags[0], tags[1], tags[2]


def i420(image: Image, number: int) -> NDArray[np.uint8]:
    """The picture as planar YUV with halved chroma, of limited range.

    Args:
        image: (H, W, 3) uint8 BGR, both sides even.
        number: FFmpeg's, of the matrix.

    Returns:
        (3H/2, W) uint8: the planes one after the other, as `av.VideoFrame.from_ndarray` takes
        them. A chroma sample is of the mean of its four pixels.
    """
    height, width = image.shape[:2]
    planes = np.empty((height * 3 // 2, width), np.uint8)
    y, u, v = np.split(planes.reshape(-1), [height * width, height * width * 5 // 4])
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    weights = _weights(luma(number))
    _weighted(np.ascontiguousarray(image).reshape(-1), *weights[0], 16, y)
    _weighted(half.reshape(-1), *weights[1], 128, u)
    _weighted(half.reshape(-1), *weights[2], 128, v)
    return planes


@lru_cache(maxsize=8)
def _weights(kind: Luma) -> NDArray[np.int32]:
    """(3, 3) int32: Y, U and V of B, G and R, in 1/65536."""
    red, blue = kind
    y = np.array([blue, 1 - red - blue, red])
    u = (np.array([1, 0, 0]) - y) / (2 * (1 - blue))
    v = (np.array([0, 0, 1]) - y) / (2 * (1 - red))
    rows = np.array([y * 219, u * 224, v * 224]) / 255
    return np.round(rows * ONE).astype(np.int32)


@compiled
def _weighted(pixels, blue, green, red, zero, plane):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `plane`, flat, with weighted sums of the channels of `pixels`, flat as well."""
    base = np.int32((zero << 16) + (1 << 15))
    for at in range(plane.size):  # of one index, so that it becomes vector code
        b, g, r = (
            np.int32(pixels[3 * at]),
            np.int32(pixels[3 * at + 1]),
            np.int32(pixels[3 * at + 2]),
        )
        plane[at] = np.uint8((blue * b + green * g + red * r + base) >> 16)
