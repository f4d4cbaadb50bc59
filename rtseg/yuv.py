"""Colour tags of videos: BGR to YUV by the matrix that they name, and other colours to BT.709.

Videos are decoded by the matrix of their tags, and wide-gamut and HDR colours become BT.709. A file
that is written must be tagged accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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
"""Primaries that are converted to BT.709: film, BT.2020, XYZ, DCI and Display P3."""

PQ, HLG = 16, 18
HDR = frozenset((PQ, HLG))
"""Transfers that are converted to BT.709: PQ and HLG."""

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


RGB = 0
DECODED = frozenset((RGB, UNSPECIFIED, *MATRICES))
"""Matrices that swscale converts to RGB."""


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
    """Tags for a file made of frames that were decoded from a video with `tags`.

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


def fill_i420(
    image: Image,
    number: int,
    planes: Sequence[NDArray[np.uint8]],
    *,
    full: bool = False,
) -> None:
    """Write an image into planes of YUV 4:2:0, in one pass.

    Args:
        image: (H, W, 3) uint8 BGR, H and W even.
        number: FFmpeg's number of the matrix.
        planes: Y, U and V, each (rows, bytes of a row) uint8 and contiguous; rows may be longer
            than the image's. A chroma sample is the mean of four pixels.
        full: full instead of limited range.
    """
    pixels = np.ascontiguousarray(image).reshape(-1)
    rows = planes[0].shape[1], planes[1].shape[1]
    flat = [plane.reshape(-1) for plane in planes]
    low = 0 if full else 16
    _fill_i420(pixels, image.shape[1], *rows, weights(luma(number), full), low, *flat)


@lru_cache(maxsize=8)
def weights(kind: Luma, full: bool) -> NDArray[np.int32]:
    """(3, 3) int32: weights of B, G and R (columns) in Y, U and V (rows), in 1/65536."""
    red, blue = kind
    y = np.array([blue, 1 - red - blue, red])
    u = (np.array([1, 0, 0]) - y) / (2 * (1 - blue))
    v = (np.array([0, 0, 1]) - y) / (2 * (1 - red))
    rows = np.array([y, u, v]) if full else np.array([y * 219, u * 224, v * 224]) / 255
    return np.round(rows * ONE).astype(np.int32)


@compiled
def _fill_i420(pixels, width, y_row, uv_row, weights, low, y, u, v):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """As `fill_i420`, all arrays flat.

    Each inner loop has one index, so that it is vectorised.
    """
    by, gy, ry = weights[0, 0], weights[0, 1], weights[0, 2]
    bu, gu, ru = weights[1, 0], weights[1, 1], weights[1, 2]
    bv, gv, rv = weights[2, 0], weights[2, 1], weights[2, 2]
    half = np.int32(1 << 15)
    dark, grey = np.int32(low << 16) + half, np.int32(128 << 16) + half
    most = np.int32(255)  # full range: 128 + 127.5 is rounded up
    for row in range(pixels.size // (3 * width)):
        line = pixels[3 * width * row : 3 * width * (row + 1)]
        out = y[row * y_row : row * y_row + width]
        for at in range(width):
            b, g, r = (
                np.int32(line[3 * at]),
                np.int32(line[3 * at + 1]),
                np.int32(line[3 * at + 2]),
            )
            out[at] = np.uint8((by * b + gy * g + ry * r + dark) >> 16)
        if row % 2 == 0:
            continue
        above = pixels[3 * width * (row - 1) : 3 * width * row]
        start = (row >> 1) * uv_row
        blue, red = u[start : start + width // 2], v[start : start + width // 2]
        for at in range(width // 2):
            i = 6 * at
            b = _mean(line[i], line[i + 3], above[i], above[i + 3])
            g = _mean(line[i + 1], line[i + 4], above[i + 1], above[i + 4])
            r = _mean(line[i + 2], line[i + 5], above[i + 2], above[i + 5])
            blue[at] = np.uint8(min((bu * b + gu * g + ru * r + grey) >> 16, most))
            red[at] = np.uint8(min((bv * b + gv * g + rv * r + grey) >> 16, most))


@compiled
def _mean(one, two, three, four):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return (np.int32(one) + np.int32(two) + np.int32(three) + np.int32(four) + np.int32(2)) >> 2


# --- wide gamut and high dynamic range -----------------------------------------------------------

D65 = 0.3127, 0.3290
PRIMARIES = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), (0.310, 0.316)),  # film
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),  # BT.2020
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),  # XYZ
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI P3
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),  # Display P3
}
"""x and y of red, green, blue and white (ITU-T H.273, table 2), by FFmpeg's numbers."""

BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
"""XYZ to the cones' responses, in which white is adapted (Lam 1985)."""

GAMMAS = {4: 2.2, 8: 1.0, 13: 2.2, 17: 2.6}
"""Exponents of transfers; that of BT.709 and its kin is 2.4, as displays have it (BT.1886)."""

WHITE_NITS = 203.0
"""Luminance of HDR that becomes SDR's white (ITU-R BT.2408)."""

HLG_NITS, HLG_GAMMA = 1000.0, 1.2
"""Peak of the display that HLG is rendered for, and its system gamma (ITU-R BT.2100)."""

MOST_NITS = 10000.0
STEPS, CODES = 4095, 65535
"""Largest index of tables of light, which are spaced by its square root, and of signals."""


def pq_signal(nits: Any) -> Any:
    """PQ's signal, 0..1, of a luminance in cd/m2 (SMPTE ST 2084)."""
    power = (nits / MOST_NITS) ** (1305 / 8192)
    return ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def pq_nits(signal: Any) -> Any:
    """The inverse of `pq_signal`."""
    power = signal ** (32 / 2523)
    light = np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)
    return MOST_NITS * light ** (8192 / 1305)


def hlg_light(signal: Any) -> Any:
    """Scene light, 0..1, of HLG's signal (ITU-R BT.2100)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def compressed(nits: Any, peak: float) -> Any:
    """Luminances up to `peak` compressed to SDR's, in cd/m2: the EETF of ITU-R BT.2390."""
    top = pq_signal(peak)
    signal, most = np.minimum(pq_signal(nits) / top, 1), pq_signal(WHITE_NITS) / top
    knee = 1.5 * most - 0.5
    t = (signal - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * most
    )
    return pq_nits(np.where(signal < knee, signal, spline) * top)


def to_bt709(primaries: int) -> NDArray[np.float64]:
    """(3, 3): linear RGB of these primaries to that of BT.709, white staying white."""
    source, target = PRIMARIES[primaries], PRIMARIES[BT709]
    cones = [BRADFORD @ _xyz(each[3]) for each in (source, target)]
    adapted = np.linalg.inv(BRADFORD) @ np.diag(cones[1] / cones[0]) @ BRADFORD
    return np.linalg.inv(_to_xyz(target)) @ adapted @ _to_xyz(source)


def _xyz(xy: tuple[float, float]) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x, y, 1 - x - y]) / (y or 1)


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    red, green, blue, white = primaries
    columns = np.array([(x, y, 1 - x - y) for x, y in (red, green, blue)]).T
    return columns * np.linalg.solve(columns, _xyz(white))


class Grading(NamedTuple):
    """Tables that turn RGB of 16 bits into BT.709; light is 1 at SDR's white.

    Attributes:
        linear: (65536,) float32 light of each signal.
        luma: (3,) float32 weights of R, G and B in the luminance that `gain` depends on.
        gain: (4096,) float32 factor by luminance, at (n / 4095)^2.
        matrix: (3, 3) float32 light to that of BT.709.
        tone: (4096,) float32 factor by the largest of R, G and B, at 100 (n / 4095)^2.
        encoded: (65536,) uint8 signal of light from 0 to 1.
    """

    linear: NDArray[np.float32]
    luma: NDArray[np.float32]
    gain: NDArray[np.float32]
    matrix: NDArray[np.float32]
    tone: NDArray[np.float32]
    encoded: NDArray[np.uint8]


TONE_RANGE = 100.0
"""Largest light of `Grading.tone`: PQ's peak is 49 times SDR's white, in BT.2020."""


@lru_cache(maxsize=4)
def grading(primaries: int, transfer: int, peak: float, white: int = CODES) -> Grading:
    """The tables for a video.

    Wide gamut is clipped to BT.709 in linear light. PQ and HLG are compressed by the largest
    component, so that hues stay, to SDR with its white at 203 cd/m2.

    Args:
        peak: of the display that PQ was mastered for, in cd/m2.
        white: the largest signal, as 16 bits.
    """
    if primaries not in PRIMARIES:
        primaries = 9 if transfer in HDR else BT709
    signal = np.minimum(np.arange(CODES + 1) / white, 1)
    steps = np.linspace(0, 1, STEPS + 1) ** 2
    gain, tone, gamma = np.ones(STEPS + 1), np.ones(STEPS + 1), 2.4
    if transfer == PQ:
        linear = pq_nits(signal) / WHITE_NITS
    elif transfer == HLG:
        linear, peak = hlg_light(signal), HLG_NITS
        gain = HLG_NITS / WHITE_NITS * steps ** (HLG_GAMMA - 1)
    else:
        exponent = GAMMAS.get(transfer, gamma)
        linear, gamma = signal**exponent, 2.2 if exponent == 2.2 else gamma
    if transfer in HDR and peak > WHITE_NITS:
        nits = WHITE_NITS * TONE_RANGE * np.maximum(steps, steps[1])
        tone = compressed(np.minimum(nits, peak), peak) / nits
    encoded = np.rint(255 * np.linspace(0, 1, CODES + 1) ** (1 / gamma))
    luma = _to_xyz(PRIMARIES[primaries])[1]
    return Grading(
        linear.astype(np.float32),
        luma.astype(np.float32),
        gain.astype(np.float32),
        to_bt709(primaries).astype(np.float32),
        tone.astype(np.float32),
        encoded.astype(np.uint8),
    )


def graded(image: NDArray[np.uint16], tables: Grading) -> Image:
    """(H, W, 3) uint8 BGR of BT.709 from (H, W, 3 or 4) uint16 RGB, alpha being left out."""
    height, width, channels = image.shape
    result = np.empty((height, width, 3), np.uint8)
    _grade(np.ascontiguousarray(image).reshape(-1, channels), *tables, result.reshape(-1, 3))
    return result


@compiled
def _grade(pixels, linear, luma, gain, matrix, tone, encoded, result):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `result` (n, 3) BGR from `pixels` (n, 3 or 4) RGB."""
    zero, one, last = np.float32(0), np.float32(1), np.float32(STEPS)
    half, top, scale = np.float32(0.5), np.float32(CODES), np.float32(1 / TONE_RANGE)
    for at in range(len(pixels)):
        r, g, b = linear[pixels[at, 0]], linear[pixels[at, 1]], linear[pixels[at, 2]]
        light = min(max(luma[0] * r + luma[1] * g + luma[2] * b, zero), one)
        factor = gain[
            np.uint32(np.sqrt(light) * last)
        ]  # unsigned, as others may count from the end
        red = max(factor * (matrix[0, 0] * r + matrix[0, 1] * g + matrix[0, 2] * b), zero)
        green = max(factor * (matrix[1, 0] * r + matrix[1, 1] * g + matrix[1, 2] * b), zero)
        blue = max(factor * (matrix[2, 0] * r + matrix[2, 1] * g + matrix[2, 2] * b), zero)
        most = min(max(red, green, blue) * scale, one)
        factor = tone[np.uint32(np.sqrt(most) * last)] * top
        result[at, 0] = encoded[np.uint32(min(blue * factor + half, top))]
        result[at, 1] = encoded[np.uint32(min(green * factor + half, top))]
        result[at, 2] = encoded[np.uint32(min(red * factor + half, top))]
