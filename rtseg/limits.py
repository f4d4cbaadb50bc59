"""Limits on what a file may cost, so that no small file fills the memory or never ends.

All are far above what real files need, and an environment variable raises each.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from rtseg.errors import UsageError


class Limit(NamedTuple):
    """A limit and the environment variable that replaces it.

    Attributes:
        usual: if the variable is not set.
    """

    variable: str
    usual: float

    def value(self) -> float:
        """The limit in force.

        Raises:
            UsageError: the variable is not a number above 0.
        """
        text = os.environ.get(self.variable, "")
        try:
            value = float(text or self.usual)
        except ValueError:
            value = math.nan
        if not value > 0:
            raise UsageError(f"{self.variable}={text}", found="it must be a number above 0")
        return value

    @property
    def advice(self) -> str:
        """What to do about a file beyond it."""
        return f"Set {self.variable} higher if you trust the file"


IMAGE_PIXELS = Limit("RTSEG_MAX_PIXELS", 2**28)
"""Of one image; 16384x16384."""

VIDEO_PIXELS = Limit("RTSEG_MAX_PIXELS", 2**27)
"""Of a frame of a video, of which several are held at once; 16384x8192."""

MODEL_SECONDS = Limit("RTSEG_MAX_MODEL_SECONDS", 120)
"""In which a foreign network must load and run once on the CPU, unless its graph is plain."""

MODEL_GB = Limit("RTSEG_MAX_MODEL_GB", 16)
"""Memory (1e9 bytes) of that run, and of an unpacked checkpoint."""

OUTLINES = Limit("RTSEG_MAX_OUTLINES", 20_000)
"""Objects of one image of a dataset, which are painted one by one."""

OUTLINE_PIXELS = Limit("RTSEG_MAX_OUTLINE_PIXELS", 2**35)
"""Pixels of the columns of one image that its objects are in, each counted by itself; for a minute
or two."""


def too_large(pixels: int, limit: Limit) -> str:
    """Why a picture of as many pixels is refused; "" if they are within the limit.

    Raises:
        UsageError: as `Limit.value`.
    """
    most = limit.value()
    if pixels <= most:
        return ""
    return f"its {pixels / 1e6:.1f} megapixels are more than {most / 1e6:.1f}"


class Pace:
    """Watches that a server sends something worth waiting for.

    A timeout of a connection does not: a byte before its end renews it.

    Args:
        seconds: in each of which at least `BYTES_PER_SECOND` are to arrive on average.
        now: seconds of a clock.
    """

    BYTES_PER_SECOND = 2000

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._since, self._bytes = now(), 0

    def __call__(self, count: int) -> None:
        """Note that `count` bytes arrived; raises TimeoutError if too few do."""
        self._bytes += count
        passed = self._now() - self._since
        if passed >= self._seconds:
            if self._bytes < passed * self.BYTES_PER_SECOND:
                raise TimeoutError(f"only {self._bytes} bytes came in {passed:.0f} seconds")
            self._since, self._bytes = self._now(), 0
