"""What runs a network: torch, ONNX Runtime, OpenVINO, or nothing but colours.

A new backend is one file with a class and one line in `BACKENDS`; `open_backend` makes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rtseg.backends.options import BACKENDS, BackendOptions
from rtseg.errors import UsageError

if TYPE_CHECKING:
    from rtseg.contracts import Backend
    from rtseg.zoo import Model

__all__ = ["BACKENDS", "BackendOptions", "open_backend"]


def open_backend(
    name: str,
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    **options: Any,
) -> Backend:
    """Load a network, fix its input size and warm it up.

    Args:
        name: of `BACKENDS`, or "auto": stub for the stub, onnx for an ONNX file; for our own
            networks torch where it has a GPU, else onnx, which is faster on most processors.
            `fastest.open_fastest` measures instead.
        input_size: (height, width) of the network's input; None is what it was made for.
        options: of `BackendOptions`: device, precision, threads, strict, lanes.

    Raises:
        UsageError: no such backend, device, precision or size, or the network cannot have it.
        ModelError: the network's file is not what it should be.
        DeviceError: the device failed, or is not there and `strict` is set.
    """
    known = ("auto", *BACKENDS)
    if name not in known:
        raise UsageError(f"unknown backend {name!r}", found="there are " + ", ".join(known))
    asked = BackendOptions(**options)
    if name == "auto":
        name = _best(model, asked.family)
    _require_match(name, model)
    if asked.precision == "tf32" and name not in ("torch", "torch-compile"):
        raise UsageError(
            f"precision tf32 for the {name} backend",
            found="torch has it, on NVIDIA's GPUs",
            do="Take --backend torch, or fp32",
        )
    from rtseg.backends.base import input_size_of

    size = input_size_of(model.spec, input_size)
    opened: Backend = _resolve(BACKENDS[name])(model, size, asked)
    return opened


def _best(model: Model, family: str) -> str:
    if model.format == "none":
        return "stub"
    if model.format == "onnx" or family in ("cpu", "tensorrt", "directml", "coreml"):
        return "onnx"
    if family == "mps":
        return "torch"
    from rtseg.backends.options import gpu_is_likely

    if not gpu_is_likely():  # asking torch takes two seconds, and the answer would be no
        return "onnx"
    from rtseg.backends.pytorch import has_gpu

    return "torch" if has_gpu() else "onnx"


def _require_match(name: str, model: Model) -> None:
    files = {"torch", "random", "onnx"}
    kinds = {
        "torch": {"torch", "random"},
        "torch-compile": {"torch", "random"},
        "onnx": files,
        "openvino": files,
        "stub": {"none"},
    }
    if model.format not in kinds[name]:
        right = next(other for other, formats in kinds.items() if model.format in formats)
        raise UsageError(
            f"backend {name} for {model.spec.name}",
            found="it is no network" if model.format == "none" else f"it is of {right}",
            do=f"Take the {right} backend, or auto",
        )


def _resolve(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)
