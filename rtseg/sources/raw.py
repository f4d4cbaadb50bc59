"""Raw frames on standard input, as FFmpeg writes them with `-f rawvideo -`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image
from rtseg.sources.options import SourceOptions, exact_rate
from rtseg.stats import Clock

NAME = "standard input"
NOMINAL_RATE = Fraction(25)
POLL_SECONDS = 0.1

Unpack = Callable[[NDArray[np.uint8], int, int], Image]
"""(bytes of one frame, width, height) -> (H, W, 3) uint8 BGR, a copy."""


def _packed(code: int | None) -> Unpack:
    def unpack(data: NDArray[np.uint8], width: int, height: int) -> Image:
        picture = data.reshape(height, width, 3)
        return picture.copy() if code is None else cv2.cvtColor(picture, code)

    return unpack


def _planar(code: int) -> Unpack:
    def unpack(data: NDArray[np.uint8], width: int, height: int) -> Image:
        return cv2.cvtColor(data.reshape(height * 3 // 2, width), code)

    return unpack


def _gray(data: NDArray[np.uint8], width: int, height: int) -> Image:
    return cv2.cvtColor(data.reshape(height, width), cv2.COLOR_GRAY2BGR)


PIX_FMTS: dict[str, tuple[Fraction, Unpack]] = {
    "bgr24": (Fraction(3), _packed(None)),
    "rgb24": (Fraction(3), _packed(cv2.COLOR_RGB2BGR)),
    "gray": (Fraction(1), _gray),
    "yuv420p": (Fraction(3, 2), _planar(cv2.COLOR_YUV2BGR_I420)),
    "nv12": (Fraction(3, 2), _planar(cv2.COLOR_YUV2BGR_NV12)),
}
"""Name -> bytes per pixel, and the conversion to BGR."""


class RawSource(Source):
    """Frames of one size and format, one after the other, until the pipe ends.

    A last frame that is cut off is dropped with a warning.

    Raises:
        UsageError: no size, an unknown format, a size that the format cannot have, or nothing is
            piped in.
        SourceError: while reading: the pipe ended before the first frame.
    """

    def __init__(
        self,
        target: str = "-",
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        self._width, self._height = self._checked_size(options)
        per_pixel, self._unpack = PIX_FMTS[options.pix_fmt]
        self._buffer = np.empty(int(self._width * self._height * per_pixel), np.uint8)
        self._rate = NOMINAL_RATE if options.fps is None else exact_rate(options.fps)
        self._index = 0
        self._ended = False
        self._pipe = _piped_input()
        self.info = SourceInfo(NAME, self._width, self._height, self._rate)

    @staticmethod
    def _checked_size(options: SourceOptions) -> tuple[int, int]:
        if options.size is None:
            raise UsageError(f"raw frames on {NAME} without a size", do="Give --size WIDTHxHEIGHT")
        width, height = options.size
        if PIX_FMTS[options.pix_fmt][0].denominator == 2 and (width % 2 or height % 2):
            raise UsageError(f"{options.pix_fmt} of {width}x{height}", found="its sides are even")
        return width, height

    def _read(self) -> Frame | None:
        if self._ended:
            return None
        got = self._fill()
        if got < self._buffer.size:
            self._ended = True
            self._check_end(got)
            return None
        image = self._unpack(self._buffer, self._width, self._height)
        frame = Frame(image, self._index, float(self._index / self._rate), self.clock.now())
        self._index += 1
        return frame

    def _fill(self) -> int:
        """Read one frame, in as many pieces as the pipe gives; the number of bytes that came."""
        view, got = memoryview(self._buffer), 0
        while got < len(view) and not self._interrupted:
            if not _ready(self._pipe):
                continue
            count = self._pipe.readinto(view[got:])  # type: ignore[attr-defined]  # RawIOBase
            if not count:
                break
            got += count
        return got

    def _check_end(self, got: int) -> None:
        if self._interrupted:
            return
        missing = f"{got} of the {self._buffer.size} bytes of a frame"
        if self._index == 0:
            raise SourceError(
                f"{NAME} ended before the first frame",
                found=f"it gave {missing}",
                do="Check --size and --pix-fmt, and the program before the pipe",
            )
        if got:
            self.warnings.append(f"{NAME} ended within frame {self._index}: {missing} came")


def _piped_input() -> BinaryIO:
    """Standard input as bytes, unbuffered where it can be.

    A buffered read holds a lock, on which Python aborts when it exits during the read.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"raw frames on {NAME}", found="nothing is piped in")
    buffer = sys.stdin.buffer
    return getattr(buffer, "raw", buffer)


def _ready(pipe: BinaryIO) -> bool:
    """Whether a read would return at once; waits up to POLL_SECONDS where the system can tell."""
    if os.name != "posix":
        return True
    try:
        number = pipe.fileno()
    except OSError:  # bytes in memory
        return True
    return bool(select.select([number], [], [], POLL_SECONDS)[0])
