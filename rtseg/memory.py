"""Memory of the process, as the system sees it."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Give freed memory back to the system, after something large has ended.

    glibc keeps what is freed between things that are still in use, in each thread's own arena, and
    a run that loads networks and opens encoders in its threads grows by it. Takes some
    milliseconds. Other C libraries manage without, or have no such call: nothing happens there.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
