"""NVIDIA's GPUs as torch sees them: whether one is there, and the order of what is done on it."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch


def cuda_missing(number: int) -> str:
    """Why CUDA device `number` cannot be used; "" when it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no NVIDIA GPU or driver"
    count = torch.cuda.device_count()
    return "" if number < count else f"there are {count} CUDA devices, numbered from 0"


def make_current(number: int) -> None:
    """Make torch's context on CUDA device `number` the one that other libraries find in this
    thread.
    """
    torch.cuda.set_device(number)
    torch.empty(1, device=f"cuda:{number}")


def on_device(device: torch.device) -> Any:
    """The `with` in which Triton's kernels are launched: on that GPU, not the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=4)
def drawing_stream(device: torch.device) -> Any:
    """The stream on which a device draws and sends back, beside the network's."""
    return torch.cuda.Stream(device)
