"""What runs a network: PyTorch, ONNX Runtime, OpenVINO, or the stub that only knows colours.

A new backend is one file with a class, and one row in `BACKENDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtseg.backends.options import (
    BACKENDS,
    NAMES,
    BackendKind,
    BackendOptions,
    check_backend,
    default_backend,
)
from rtseg.errors import UsageError
from rtseg.options import expect, imported, made

if TYPE_CHECKING:
    from rtseg.contracts import Backend
    from rtseg.zoo import Model

__all__ = ["BACKENDS", "BackendKind", "BackendOptions", "open_backend"]


def open_backend(
    name: str,
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    **options: Any,
) -> Backend:
    """Load a network, fix its input size and warm it up.

    Args:
        name: of `BACKENDS`; or "auto": the stub for the stub, onnx for an ONNX file, else torch on
            a GPU and onnx on a CPU, where it is mostly faster; see also `auto.open_fastest`.
        input_size: (height, width) of the network's input; None is the size it was made for.
        options: of `BackendOptions`.

    Raises:
        UsageError: no such backend, device, precision or size, or this network cannot have it.
        ModelError: the network's file is not valid, or beyond `rtseg.limits`.
        DeviceError: the device failed, or is missing and `strict_device` is set.
    """
    if name not in NAMES:
        raise UsageError(f"unknown backend {name!r}", found="choices are " + ", ".join(NAMES))
    expect((model, "rtseg.zoo:Model"))
    how = made(BackendOptions, options)
    if name == "auto":
        name = default_backend(model, how.family)
    check_backend(name, model, how)
    from rtseg.backends.base import check_network, input_size_of

    size = input_size_of(model.spec, input_size)
    check_network(name, model, size)
    return imported(BACKENDS[name].open)(model, size, how)
