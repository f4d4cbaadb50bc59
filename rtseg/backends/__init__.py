"""What runs a network: PyTorch, ONNX Runtime, OpenVINO, or the stub that only knows colours.

A new backend is one file with a class, and one row in `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rtseg.backends.options import (
    BACKENDS,
    DEVICES,
    NAMES,
    PRECISIONS,
    BackendKind,
    BackendOptions,
    backend_on,
    parse_device,
)
from rtseg.errors import UsageError
from rtseg.system import gpu_is_likely

if TYPE_CHECKING:
    from rtseg.contracts import Backend
    from rtseg.zoo import Model

__all__ = [
    "BACKENDS",
    "DEVICES",
    "PRECISIONS",
    "BackendKind",
    "BackendOptions",
    "open_backend",
    "parse_device",
]


def open_backend(
    name: str,
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    **options: Any,
) -> Backend:
    """Load a network, fix its input size and warm it up.

    Args:
        name: of `BACKENDS`; or "auto", which takes the stub for the stub, onnx for an ONNX file,
            and for other networks torch if it has a GPU, else onnx, which is faster on most CPUs.
            `rtseg.backends.auto.open_fastest` measures instead.
        input_size: (height, width) of the network's input; None is the size it was made for.
        options: of `BackendOptions`.

    Raises:
        UsageError: no such backend, device, precision or size, or this network cannot have it.
        ModelError: the network's file is not valid.
        DeviceError: the device failed, or is missing and `strict_device` is set.
    """
    if name not in NAMES:
        raise UsageError(f"unknown backend {name!r}", found="there are " + ", ".join(NAMES))
    how = BackendOptions(**options)
    if name == "auto":
        name = _default_backend(model, how.family)
    _check(name, model, how)
    from rtseg.backends.base import input_size_of

    size = input_size_of(model.spec, input_size)
    module, _, attribute = BACKENDS[name].open.partition(":")
    opened: Backend = getattr(import_module(module), attribute)(model, size, how)
    return opened


def _default_backend(model: Model, family: str) -> str:
    """What "auto" stands for, without measuring anything."""
    if model.format == "none":
        return "stub"
    if family not in ("auto", "cpu", "cuda"):
        return backend_on(family, model.format)
    # importing torch to ask for a GPU takes two seconds
    if model.format == "onnx" or family == "cpu" or not gpu_is_likely():
        return "onnx"
    from rtseg.backends.pytorch import has_gpu

    return "torch" if has_gpu() else "onnx"


def _check(name: str, model: Model, options: BackendOptions) -> None:
    """Raise UsageError for a network, device or precision that the backend does not take.

    A backend of the CPU alone is not refused for its device: it runs there with a note.
    """
    kind = BACKENDS[name]
    if model.format not in kind.formats:
        fitting = [other for other, row in BACKENDS.items() if model.format in row.formats]
        raise UsageError(
            f"backend {name} for {model.spec.name}",
            found=f"{name} cannot load it; {', '.join(fitting)} can",
            do=f"Use --backend {fitting[0]}, or auto",
        )
    if kind.devices != ("cpu",):
        _check_value("device", options.family, name, {n: k.devices for n, k in BACKENDS.items()})
    precisions = {n: k.precisions for n, k in BACKENDS.items()}
    _check_value("precision", options.precision, name, precisions)
    if not kind.installed:
        raise UsageError(
            f"the {name} backend was requested",
            found=f"{kind.module} is not installed",
            do=f"Install it: {kind.install}",
        )


def _check_value(what: str, value: str, name: str, table: Mapping[str, tuple[str, ...]]) -> None:
    if value in ("auto", *table[name]):
        return
    others = [other for other, values in table.items() if value in values and other != "stub"]
    raise UsageError(
        f"{what} {value} for the {name} backend",
        found=f"it has {', '.join(table[name])}",
        do=f"Use --backend {others[0]}, or another {what}",
    )
