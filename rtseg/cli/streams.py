"""Standard streams that were closed before we came, or whose reader leaves."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class Unheard(io.FileIO):
    """Bytes that are lost when nobody can read them any more, and stop no work."""

    def write(self, data: Any) -> int:
        """Write, or not."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def steady_streams() -> None:
    """Open standard streams that are closed, and go on without those who listened to stderr.

    A file of ours would get the number of a closed stream, and what libraries print into it; and
    `rtseg clip.mp4 -o out.mp4 2>&1 | head` is no reason to write half a video.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    if sys.stderr is None or not sys.stderr.isatty():
        unheard = io.BufferedWriter(Unheard(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(unheard, errors="backslashreplace", line_buffering=True)
