"""Memory of the process, as the system sees it.

glibc keeps what is freed between things that are still in use, in an arena for each thread, and
the more, the larger the largest thing was that was ever freed. A run that for hours opens encoders
and loads networks in its threads would grow by it. Other C libraries manage without, or have no
such calls: nothing happens there.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of malloc.h, for `mallopt`
MOST_KEPT = 8 << 20
"""Bytes that an arena keeps at its end: three frames of 1280x720. Nothing larger goes into one."""


STEP_BYTES = 256 << 20
"""What is asked of the system at a time where much is kept."""


def keep_little() -> None:
    """Have little of what is freed kept, from now on; for a program to call when it begins.

    Whoever has set this up in the environment is left alone.
    """
    _tune({_MMAP_THRESHOLD: MOST_KEPT, _TRIM_THRESHOLD: MOST_KEPT})


def keep_much() -> None:
    """Have all of what is freed kept, from now on: for training, each step of which asks for the
    same again, and would else have its pages cleared by the system every time.

    Whoever has set this up in the environment is left alone.
    """
    _tune({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: STEP_BYTES})


def _tune(values: dict[int, int]) -> None:
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    tune = getattr(_libc, "mallopt", None)
    if tune is not None and not told:
        for name, value in values.items():
            tune(name, value)


def give_back() -> None:
    """Give all back that is free, after something large has ended; takes some milliseconds."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
