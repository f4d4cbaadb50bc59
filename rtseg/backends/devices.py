"""Names of devices, and what both libraries must agree on about them."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from rtseg.errors import DeviceError, UsageError

FAMILIES = ("auto", "cpu", "cuda", "mps", "tensorrt", "directml", "coreml")
PRECISIONS = ("auto", "fp32", "tf32", "fp16", "bf16", "int8")


def parse_device(text: str) -> tuple[str, int]:
    """("cuda", 1) of "cuda:1"; the number is 0 where none is given.

    Raises:
        UsageError: there is no such kind of device.
    """
    match = re.fullmatch(r"([a-z]+)(?::(\d{1,4}))?", text.strip().lower())
    if match and match[1] in FAMILIES and (match[2] is None or match[1] in ("cuda", "tensorrt")):
        return match[1], int(match[2] or 0)
    known = ", ".join(f"{family}[:N]" if family == "cuda" else family for family in FAMILIES)
    raise UsageError(f"unknown device {text!r}", found=f"there are {known}")


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed; says nothing of a library's ability to use it.

    Who hides all GPUs from CUDA's libraries wants none of them.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    files = ("/proc/driver/nvidia/version", "/dev/nvidiactl")  # a container may lack the first
    return any(Path(file).exists() for file in files) or shutil.which("nvidia-smi") is not None


UNUSED = "the GPU is not used"
"""How every note on a GPU begins that is there, for all its driver says, and stands still."""


def gpu_is_likely() -> bool:
    """Whether it is worth asking torch, which takes seconds to load, for a GPU."""
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return apple or nvidia_driver()


def first_line(error: Exception) -> str:
    """What a library says of a failure, without the trace of its own that follows."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def not_there(device: str, found: str, strict: bool, instead: str = "cpu") -> str:
    """The note that another device stands in for one.

    Raises:
        DeviceError: `strict` forbids it.
    """
    if strict:
        raise DeviceError(
            f"device {device} was required",
            found=found,
            do="rtseg doctor shows what runs here",
        )
    return f"device {device} was asked for, but {found}; {instead} runs instead"
