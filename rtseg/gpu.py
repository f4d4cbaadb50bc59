"""NVIDIA GPUs as torch sees them: availability, failures, streams."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from rtseg.errors import MORE_MEMORY, DeviceError, first_line

_streams: dict[torch.device, Any] = {}


def has_cuda() -> bool:
    """Whether torch can use an NVIDIA GPU; hides its warning about an unfit driver."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.cuda.is_available()


def best_device() -> str:
    """The family of devices that torch runs fastest on here: "cuda", "mps" or "cpu"."""
    return "cuda" if has_cuda() else "mps" if torch.backends.mps.is_available() else "cpu"


def device_missing(family: str, number: int) -> str:
    """Why device `number` of a family cannot be used; "" when it can."""
    if family == "cuda":
        return cuda_missing(number)
    if family == "mps" and not torch.backends.mps.is_available():
        return f"torch {torch.__version__} finds no Apple GPU"
    return ""


def cuda_missing(number: int) -> str:
    """Why CUDA device `number` cannot be used; "" when it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not has_cuda():
        return f"torch {torch.__version__} cannot use one: {_why_not()}"
    count = torch.cuda.device_count()
    return "" if number < count else f"there are {count} CUDA devices, numbered from 0"


def _why_not() -> str:
    """Torch's reason, mostly about the driver."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return "it finds no NVIDIA GPU"


def make_current(number: int) -> None:
    """Make torch's context on CUDA device `number` current for other libraries in this thread."""
    torch.cuda.set_device(number)
    torch.empty(1, device=f"cuda:{number}")


def device_failures() -> tuple[type[Exception], ...]:
    """What work on a device may raise.

    torch's errors are RuntimeErrors; those of Triton, which compiles a kernel at its first launch,
    and of the C compiler that it calls, are not.
    """
    if "triton" not in sys.modules:
        return (RuntimeError,)
    from triton.errors import TritonError

    return RuntimeError, TritonError, subprocess.CalledProcessError


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Turn the failures of work on a device, which surface anywhere, into DeviceError.

    Raises:
        DeviceError: the device failed, was lost, or is out of memory.
    """
    try:
        yield
    except device_failures() as error:
        do = MORE_MEMORY if isinstance(error, torch.OutOfMemoryError) else ""
        raise DeviceError(f"{device} failed", found=first_line(error), do=do) from error


def on_device(device: torch.device) -> Any:
    """Context in which Triton launches kernels on that GPU instead of the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def drawing_stream(device: torch.device) -> Any:
    """The stream in which a device draws and downloads; one for all threads.

    Of high priority: its short kernels pass the layers of the next batch, and torch, which hands
    out a few streams in turn, never gives it to a network as well.
    """
    # two threads at once may make two, of which `setdefault` keeps one
    return _streams.get(device) or _streams.setdefault(
        device, torch.cuda.Stream(device, priority=-1)
    )
