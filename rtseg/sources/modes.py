"""The modes of a camera: formats, sizes and rates, as the camera itself lists them.

On Linux by the three ENUM calls of Video4Linux2, packed here by `struct`: linuxpy, the library that
wraps them, is under the GPL. Elsewhere no list is to be had, and common modes are tried.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2

from rtseg.sources.capture import ask, fourcc_text, nominal_rate

ENUM_FMT, ENUM_SIZES, ENUM_INTERVALS = 0xC0405602, 0xC02C564A, 0xC034564B
"""The request codes of linux/videodev2.h; they hold the sizes of the three structs below."""

FORMAT = struct.Struct("=3I32s5I")
"""v4l2_fmtdesc: index, type, flags, description, pixelformat, and what is not used here."""

SIZE = struct.Struct("=11I")
"""v4l2_frmsizeenum: index, pixel_format, type, then width and height or (min, max, step) twice."""

INTERVAL = struct.Struct("=13I")
"""v4l2_frmivalenum: index, pixel_format, width, height, type, then seconds as a fraction."""

VIDEO_CAPTURE = 1
DISCRETE = 1
MOST_ENTRIES = 1000
"""A driver that never ends its list is not believed for longer."""

COMMON_FOURCCS = ("MJPG", "YUYV")
COMMON_SIZES = (
    *((3840, 2160), (2560, 1440), (1920, 1080), (1280, 720)),
    *((1024, 768), (800, 600), (640, 480), (640, 360), (320, 240)),
)


@dataclass(frozen=True)
class Mode:
    """A picture that a camera can give, as it says itself.

    Attributes:
        fourcc: of the pixels; "" when it does not say.
        width, height: in pixels.
        rates: frames per second, the highest first; empty when it does not say.
    """

    fourcc: str
    width: int
    height: int
    rates: tuple[Fraction, ...] = ()


def listed_modes(device: Path) -> tuple[Mode, ...]:
    """Every mode that the driver of a device file lists, the largest first; none if it will not.

    A driver that takes any size within limits is told of by the common ones, and its largest.
    """
    try:
        with device.open("rb+", buffering=0) as file:
            modes = list(_modes(file.fileno()))
    except OSError:
        return ()
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def _modes(device: int) -> Iterator[Mode]:
    for _, _, _, _, code, *_ in _entries(device, ENUM_FMT, FORMAT, VIDEO_CAPTURE):
        for width, height in _sizes(device, code):
            rates = tuple(sorted(set(_rates(device, code, width, height)), reverse=True))
            yield Mode(fourcc_text(code), width, height, rates)


def _sizes(device: int, code: int) -> Iterator[tuple[int, int]]:
    for _, _, kind, width, *rest in _entries(device, ENUM_SIZES, SIZE, code):
        if kind == DISCRETE:
            yield width, rest[0]
            continue
        (widest, step, low, tallest, step_down), narrow = rest[:5], width
        for w, h in dict.fromkeys([(widest, tallest), *COMMON_SIZES]):
            fits = narrow <= w <= widest and low <= h <= tallest
            if fits and (w - narrow) % max(1, step) == 0 and (h - low) % max(1, step_down) == 0:
                yield w, h
        return


def _rates(device: int, code: int, width: int, height: int) -> Iterator[Fraction]:
    """Rates of one size; of a range of them the highest."""
    asked = (code, width, height)
    for *_, kind, numerator, denominator, _, _, _, _, _, _ in _entries(
        device, ENUM_INTERVALS, INTERVAL, *asked
    ):
        if numerator and denominator:
            yield Fraction(denominator, numerator)
        if kind != DISCRETE:
            return


def _entries(
    device: int, request: int, layout: struct.Struct, *asked: int
) -> Iterator[tuple[int, ...]]:
    """What the driver fills in for index 0, 1, 2 and on, until it refuses one."""
    for index in range(MOST_ENTRIES):
        buffer = bytearray(layout.size)
        struct.pack_into(f"={1 + len(asked)}I", buffer, 0, index, *asked)
        try:
            ioctl(device, request, buffer)
        except OSError:
            return
        yield layout.unpack(buffer)


def ioctl(device: int, request: int, buffer: bytearray) -> None:
    """The system's call of that name: the driver fills `buffer`, or refuses with OSError."""
    if sys.platform == "win32":
        raise OSError("Windows has no such call")
    import fcntl

    fcntl.ioctl(device, request, buffer)


def tried_modes(capture: cv2.VideoCapture) -> tuple[Mode, ...]:
    """The different modes that an open camera takes when asked for common ones, largest first."""
    modes: dict[Mode, None] = {}
    for fourcc in COMMON_FOURCCS:
        for width, height in COMMON_SIZES:
            ask(capture, width=width, height=height, fourcc=fourcc)
            modes[current_mode(capture)] = None
    return tuple(sorted(modes, key=lambda mode: -mode.width * mode.height))


def current_mode(capture: cv2.VideoCapture) -> Mode:
    """What an open camera says that it is set to."""
    rate = nominal_rate(capture)
    return Mode(
        fourcc_text(capture.get(cv2.CAP_PROP_FOURCC)),
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        () if rate is None else (rate,),
    )
