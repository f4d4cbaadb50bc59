"""How many processor cores there are for this program."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OF_THIS_PROCESS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Processor cores that this program may use, hyper-threads counted.

    A container that is given so much of the processor's time (`docker run --cpus 2`) sees all cores
    of the machine, but is stopped for the rest of each tenth of a second once that is used up: it
    has no more cores than that, a part of one counted as one.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(cores, time_limit())


def limited_cores() -> int | None:
    """The cores, where a limit of time leaves fewer than libraries count by themselves."""
    cores = usable_cores()
    return cores if cores == time_limit() else None


def physical_cores() -> int:
    """As many of them as there are without hyper-threads, which compute nothing by themselves."""
    import psutil

    usable = usable_cores()
    return min(psutil.cpu_count(logical=False) or usable, usable)


@cache
def time_limit() -> int:
    """How many cores' time this process may take by its control groups; very many without one.

    Of version 2 `cpu.max` holds "quota period" in microseconds, of version 1 two files do (the
    kernel's Documentation/admin-guide/cgroup-v2.rst, Documentation/scheduler/sched-bwc.rst).
    """
    limits = [math.ceil(quota / period) for quota, period in _limits() if quota > 0 and period > 0]
    return max(1, min(limits, default=1 << 20))


def _limits() -> Iterator[tuple[int, int]]:
    """(quota, period) of this process's groups and of those that they are in."""
    for line in _read(OF_THIS_PROCESS).splitlines():
        _, kinds, group = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        root = CGROUPS / kinds if (CGROUPS / kinds).is_dir() else CGROUPS / "cpu"
        # a container sees its own group in the place of the first one
        path = (root if kinds else CGROUPS) / group.lstrip("/")
        for folder in (path, *path.parents):
            if not folder.is_relative_to(CGROUPS):
                break
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if kinds else ("cpu.max",)
            words = " ".join(_read(folder / name) for name in files).split()
            if len(words) == 2 and words[0].lstrip("-").isdigit() and words[1].isdigit():
                yield int(words[0]), int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


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


QUIET = {"OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_LOG_LEVEL": "SILENT"}
"""Log levels that keep OpenCV and its FFmpeg off the terminal."""


def hush_opencv() -> None:
    """Keep OpenCV and its FFmpeg off the terminal, unless the environment asks for their logs."""
    wanted = any(os.environ.get(name, quiet) != quiet for name, quiet in QUIET.items())
    if wanted or "OPENCV_FFMPEG_DEBUG" in os.environ:
        return
    import cv2

    os.environ.update(QUIET)
    silent = 0
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(silent)
    else:
        cv2.utils.logging.setLogLevel(silent)
