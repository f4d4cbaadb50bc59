"""Raw frames on stdout, for the next program in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import even, letterbox
from rtseg.errors import UsageError
from rtseg.files import cannot_write, discard_output
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.sinks.options import SinkOptions, opaque


def _nv12(image: Image) -> Any:
    """(H * 3/2, W) uint8: Y, then U and V in turn."""
    planes = cv2.cvtColor(even(image), cv2.COLOR_BGR2YUV_I420)
    height = len(planes) * 2 // 3
    planes[height:] = planes[height:].reshape(2, -1).T.reshape(-1, planes.shape[1])
    return planes


PIXEL_FORMATS: dict[str, Callable[[Image], Any]] = {
    "bgr24": lambda image: image,
    "rgb24": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
    "bgra": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2BGRA),
    "rgba": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGBA),
    "gray": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
    "yuv420p": lambda image: cv2.cvtColor(even(image), cv2.COLOR_BGR2YUV_I420),
    "nv12": _nv12,
}
"""FFmpeg's names of pixel formats, and the conversion from BGR."""


class RawSink(Sink):
    """Writes pixels and nothing else, all frames in the size of the first.

    A reader that goes away (`| head`) ends the run without an error, unless it also writes files.

    Raises:
        UsageError: unknown pixel format.
        SinkError: stdout cannot be written.
    """

    medium = "pipe"

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        if options.pix_fmt not in PIXEL_FORMATS:
            raise UsageError(
                f"unknown pix-fmt {options.pix_fmt!r}",
                found=f"there are {', '.join(PIXEL_FORMATS)}",
            )
        self._convert = PIXEL_FORMATS[options.pix_fmt]
        self._file = sys.stdout.buffer
        self._size: tuple[int, int] | None = None
        self._broken = False

    @property
    def alive(self) -> bool:
        """False once the reader has closed the pipe."""
        return not self._broken

    def write(self, rendered: Rendered) -> None:
        """Write the pixels of one frame, row by row."""
        image = rendered.image
        self._size = self._size or (image.shape[0], image.shape[1])
        pixels = self._convert(letterbox(image, self._size))
        try:
            self._file.write(np.ascontiguousarray(pixels).data)
            self._file.flush()
        except BrokenPipeError:
            self._broken = True
            discard_output(self._file)
        except OSError as error:
            raise cannot_write(Path("stdout"), error) from error


def check_raw(path: Path, options: SinkOptions, alpha: bool) -> None:
    """Raise UsageError if stdout is a terminal, or images have alpha."""
    if sys.stdout.isatty():
        raise UsageError(
            "raw frames would go to the terminal", do="Pipe them into a program: ... -o - | ..."
        )
    if alpha:
        raise opaque("raw frames on stdout")
