"""Colour tags of videos, and conversion of BGR to YUV by the matrix that they name.

From 4.13 on, OpenCV decodes videos by the matrix of their tags (before, always by BT.601), and
converts wide-gamut and HDR colours to BT.709. A file that is written must be tagged accordingly.
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
"""Fixed point: weights are integers in units of 1/65536."""

UNSPECIFIED, BT709, BT601 = 2, 1, 6
"""FFmpeg's numbers of matrices, primaries and transfers alike. BT.601 (SMPTE 170M) is the matrix of
videos without tags."""

WIDE = frozenset((8, 9, 10, 11, 12))
"""Primaries that OpenCV converts to BT.709: film, BT.2020, XYZ, DCI and Display P3."""

HDR = frozenset((16, 18))
"""Transfers that OpenCV converts to BT.709: PQ and HLG."""

Tags = tuple[int, int, int]
"""(matrix, primaries, transfer)."""

LIMITED, FULL = 1, 2
"""FFmpeg's numbers of ranges: black and white are 16 and 235, or 0 and 255."""


class Luma(NamedTuple):
    """Luma coefficients of a matrix: the shares of red and blue in 0..1; the rest is green."""

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
"""ITU-T H.273, table 4, by FFmpeg's numbers."""


def luma(number: int) -> Luma:
    """Coefficients of the matrix with FFmpeg's `number`; BT.601 for others, as in decoders."""
    return MATRICES.get(number, MATRICES[BT601])


DECODED = frozenset((0, UNSPECIFIED, *MATRICES))
"""Matrices that swscale converts to RGB; 0 is RGB itself."""


def nearest_matrix(tags: tuple[int, ...]) -> int:
    """What a matrix that is not in `DECODED` is taken for: that of the same primaries.

    Args:
        tags: (matrix, primaries, ...) as FFmpeg's numbers.
    """
    wide = tags[0] in (10, 13, 14, 15) or tags[1] == 9  # BT.2020, ICtCp and IPT-C2
    return 9 if wide else BT709 if tags[1] == BT709 else BT601


def is_converted(tags: tuple[int, ...]) -> bool:
    """Whether a video with (matrix, primaries, transfer, ...) is converted to BT.709."""
    return tags[1] in WIDE or tags[2] in HDR


def output_tags(tags: tuple[int, ...] | None) -> Tags:
    """Tags for a file made of frames that OpenCV decoded from a video with `tags`.

    They are the source's own, so that a player shows both alike, also where it has to guess. Frames
    that do not come from a video (None) are tagged BT.601.
    """
    if tags is None:
        return BT601, BT601, BT601
    if is_converted(tags):
        return BT709, BT709, BT709
    if tags[0] not in (UNSPECIFIED, *MATRICES):  # RGB, or a matrix that is not supported
        return BT601, BT601, BT601
    return tags[0], tags[1], tags[2]


def i420(image: Image, number: int) -> NDArray[np.uint8]:
    """The image as planar YUV 4:2:0, limited range.

    Args:
        image: (H, W, 3) uint8 BGR, H and W even.
        number: FFmpeg's number of the matrix.

    Returns:
        (3H/2, W) uint8: the planes one after the other, as `av.VideoFrame.from_ndarray` takes
        them. A chroma sample is the mean of four pixels.
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
    """(3, 3) int32: weights of B, G and R (columns) in Y, U and V (rows), in 1/65536."""
    red, blue = kind
    y = np.array([blue, 1 - red - blue, red])
    u = (np.array([1, 0, 0]) - y) / (2 * (1 - blue))
    v = (np.array([0, 0, 1]) - y) / (2 * (1 - red))
    rows = np.array([y * 219, u * 224, v * 224]) / 255
    return np.round(rows * ONE).astype(np.int32)


@compiled
def _weighted(pixels, blue, green, red, zero, plane):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `plane` (n) with weighted sums of the channels of `pixels` (3n)."""
    base = np.int32((zero << 16) + (1 << 15))
    for at in range(plane.size):  # one index, so that the loop is vectorised
        b, g, r = (
            np.int32(pixels[3 * at]),
            np.int32(pixels[3 * at + 1]),
            np.int32(pixels[3 * at + 2]),
        )
        plane[at] = np.uint8((blue * b + green * g + red * r + base) >> 16)
