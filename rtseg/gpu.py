"""NVIDIA's GPUs as torch sees them: whether one is there, and the order of what is done on it."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from rtseg.errors import MORE_MEMORY, DeviceError

_streams: dict[torch.device, Any] = {}


def has_cuda() -> bool:
    """Whether torch can use an NVIDIA GPU; what it would print of an unfit driver is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.cuda.is_available()


def cuda_missing(number: int) -> str:
    """Why CUDA device `number` cannot be used; "" when it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not has_cuda():
        return f"torch {torch.__version__} cannot use one: {_why_not()}"
    count = torch.cuda.device_count()
    return "" if number < count else f"there are {count} CUDA devices, numbered from 0"


def _why_not() -> str:
    """What torch says when it is made to begin: of the driver, mostly."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return "it finds no NVIDIA GPU"


def make_current(number: int) -> None:
    """Make torch's context on CUDA device `number` the one that other libraries find in this
    thread.
    """
    torch.cuda.set_device(number)
    torch.empty(1, device=f"cuda:{number}")


def device_failures() -> tuple[type[Exception], ...]:
    """What work on a device may raise: torch's errors are RuntimeErrors, and those of Triton, which
    compiles when a kernel is met, and of the C compiler that it calls, are not.
    """
    if "triton" not in sys.modules:
        return (RuntimeError,)
    from triton.errors import TritonError

    return RuntimeError, TritonError, subprocess.CalledProcessError


@contextmanager
def failures_told(device: torch.device) -> Iterator[None]:
    """The `with` for work on a device, whose failures come to light anywhere.

    Raises:
        DeviceError: torch says that it failed, was lost, or has not the memory.
    """
    try:
        yield
    except device_failures() as error:
        advice = MORE_MEMORY if isinstance(error, torch.OutOfMemoryError) else ""
        raise DeviceError(
            f"{device} failed", found=str(error).partition("\n")[0], do=advice
        ) from error


def on_device(device: torch.device) -> Any:
    """The `with` in which Triton's kernels are launched: on that GPU, not the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def drawing_stream(device: torch.device) -> Any:
    """The stream on which a device draws and sends back, beside the network's: one, whatever the
    thread.
    """
    # two threads that come first at once make two, of which `setdefault` keeps one
    return _streams.get(device) or _streams.setdefault(device, torch.cuda.Stream(device))
