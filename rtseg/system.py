"""What this machine has: cores, instructions, packages, GPU driver, memory; and quiet OpenCV."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")

NATIVE_FLAGS = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}
"""CPU flags, of x86 and Arm, of native arithmetic in 16 bits."""

INT8_FLAGS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
    "asimddp": "Arm dot products",
    "i8mm": "Arm int8 matrix products",
}
"""CPU flags, of x86 and Arm, of native products of 8-bit numbers, and their names."""

GPU_UNUSED = "the GPU is not used"
"""Start of every note about a GPU that has a driver and that no library can use."""

KEPT_BYTES = 8 << 20
"""Free bytes that an arena keeps at its end: three frames of 1280x720. Larger blocks are mapped."""

STEP_BYTES = 256 << 20
"""What is requested from the system at a time where freed memory is kept."""

QUIET = {"OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_LOG_LEVEL": "SILENT"}
"""Log levels that keep OpenCV and its FFmpeg off the terminal."""


# --- processor -----------------------------------------------------------------------------------


def usable_cores() -> int:
    """Logical processor cores that this program may use.

    A container with a CPU quota (`docker run --cpus 2`) sees all cores of the machine, but is
    stopped for the rest of each period once the quota is used up: the quota, rounded up, counts.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(cores, cpu_quota())


def limited_cores() -> int | None:
    """The cores, if a quota leaves fewer than libraries count by themselves; else None."""
    cores = usable_cores()
    return cores if cores == cpu_quota() else None


def physical_cores() -> int:
    """Usable cores without hyper-threads, which add no arithmetic."""
    import psutil

    usable = usable_cores()
    return min(psutil.cpu_count(logical=False) or usable, usable)


@cache
def cpu_quota() -> int:
    """Cores' worth of time that the control groups of this process allow; huge without a quota.

    Version 2 has "quota period" in microseconds in `cpu.max`, version 1 in two files (the kernel's
    Documentation/admin-guide/cgroup-v2.rst, Documentation/scheduler/sched-bwc.rst).
    """
    limits = [math.ceil(quota / period) for quota, period in _quotas() if quota > 0 and period > 0]
    return max(1, min(limits, default=1 << 20))


@cache
def native_precisions() -> frozenset[str]:
    """Those of bf16 and fp16 that the processor computes in; empty if it does not tell.

    Without native arithmetic, 16-bit numbers are converted to 32 bits and back, which costs time.
    """
    flags = _cpu_flags() or frozenset()
    return frozenset(name for name, any_of in NATIVE_FLAGS.items() if flags & any_of)


def multiplies_tiles() -> bool:
    """Whether the processor multiplies tiles of bfloat16 (AMX)."""
    return "amx_bf16" in (_cpu_flags() or ())


@cache
def int8_instructions() -> tuple[str, ...] | None:
    """Names of the processor's instructions for products of 8-bit numbers; None if it does not
    tell.
    """
    flags = _cpu_flags()
    return (
        None if flags is None else tuple(INT8_FLAGS[name] for name in INT8_FLAGS if name in flags)
    )


def _cpu_flags() -> frozenset[str] | None:
    """The processor's flags by their names in Linux; None if the system does not tell."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset({"asimdhp", "asimddp"})  # every one of Apple's
    found: set[str] = set()
    for line in _read(CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found.update(value.split())
    return frozenset(found) or None


def processor() -> str:
    """Model and flags of the processor: a virtual machine may hide either."""
    pairs = (line.partition(":") for line in _read(CPU_INFO).splitlines())
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    found = (facts.get("model name"), facts.get("flags") or facts.get("Features"))
    return " ".join(text for text in found if text) or (
        f"{platform.machine()} {platform.processor()}"
    )


def _quotas() -> Iterator[tuple[int, int]]:
    """(quota, period) of this process's control groups and of their parents."""
    for line in _read(OWN_CGROUPS).splitlines():
        _, kinds, group = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        root = CGROUPS / kinds if (CGROUPS / kinds).is_dir() else CGROUPS / "cpu"
        # a container sees its own group as the root
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


# --- packages ------------------------------------------------------------------------------------


PACKAGES = "torchvision onnx opencv-python av numba numpy".split()
"""Packages whose versions reports name, beside those that run networks."""


def installed_version(package: str) -> str:
    """The version of a package; "" if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed, by package."""
    return {each: version for each in packages if (version := installed_version(each))}


# --- GPU -----------------------------------------------------------------------------------------


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed; a library may still be unable to use the GPU.

    False if CUDA_VISIBLE_DEVICES hides all GPUs: then none is wanted.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    files = ("/proc/driver/nvidia/version", "/dev/nvidiactl")  # a container may lack the first
    return any(Path(file).exists() for file in files) or shutil.which("nvidia-smi") is not None


def gpu_is_likely() -> bool:
    """Whether it is worth importing torch, which takes seconds, to ask for a GPU."""
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return apple or nvidia_driver()


# --- OpenCV --------------------------------------------------------------------------------------


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


# --- memory --------------------------------------------------------------------------------------


def return_freed_memory() -> None:
    """Have glibc return most freed memory to the system from now on; for the start of a program.

    Does nothing if the environment already tunes malloc.
    """
    _tune({_MMAP_THRESHOLD: KEPT_BYTES, _TRIM_THRESHOLD: KEPT_BYTES})


def keep_freed_memory() -> None:
    """Have glibc keep all freed memory from now on.

    For training: each step allocates the same again, and the system would clear its pages every
    time. Does nothing if the environment already tunes malloc.
    """
    _tune({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: STEP_BYTES})


def trim_memory() -> None:
    """Return all free memory now, after something large has ended; takes some milliseconds."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tune(values: dict[int, int]) -> None:
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    tune = getattr(_libc, "mallopt", None)
    if tune is not None and not tuned:
        for name, value in values.items():
            tune(name, value)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of malloc.h, for `mallopt`


def python_command(code: str) -> list[str]:
    """What runs code in another Python with the modules of this one; those that lie in the current
    folder, which `python -c` would find first, are not among them."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:] = {[p for p in sys.path if p]!r}\n{code}",
    ]
