"""Raw frames on stdout, for the next program in the pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import even, letterbox
from rtseg.errors import UsageError
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions
from rtseg.sinks.files import cannot_write

PIXELS: dict[str, Callable[[Image], Any]] = {
    "bgr24": lambda image: image,
    "rgb24": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
    "bgra": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2BGRA),
    "rgba": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGBA),
    "gray": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
    "yuv420p": lambda image: cv2.cvtColor(even(image), cv2.COLOR_BGR2YUV_I420),
}
"""FFmpeg's names of pixel layouts, and how BGR becomes them."""


class RawSink(Sink):
    """Writes pixels and nothing else, all in the size of the first picture.

    A reader that goes away (`| head`) ends the run quietly.

    Raises:
        UsageError: an unknown pixel format, or stdout is a terminal.
        SinkError: stdout cannot be written.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        if options.pix_fmt not in PIXELS:
            raise UsageError(
                f"unknown pix-fmt {options.pix_fmt!r}", found=f"there are {', '.join(PIXELS)}"
            )
        self._convert = PIXELS[options.pix_fmt]
        self._file = sys.stdout.buffer
        self._size: tuple[int, int] | None = None
        self._reader_left = False

    @property
    def alive(self) -> bool:
        """False once the reader has gone."""
        return not self._reader_left

    def write(self, rendered: Rendered) -> None:
        """Write one picture's pixels, row by row."""
        image = rendered.image
        self._size = self._size or (image.shape[0], image.shape[1])
        pixels = self._convert(letterbox(image, self._size))
        try:
            self._file.write(np.ascontiguousarray(pixels).data)
            self._file.flush()
        except BrokenPipeError:
            self._reader_left = True
            silence(self._file)
        except OSError as error:
            raise cannot_write(Path("stdout"), error) from error


def silence(file: IO[Any]) -> None:
    """Point a pipe whose reader has gone at nothing, so that its last flush does not fail too."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, file.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return  # not a real file: nothing flushes it at exit
