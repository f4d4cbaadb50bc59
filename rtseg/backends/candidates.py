"""What could run a network here, and in which arithmetic: found without loading any of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rtseg.backends.options import BackendOptions
from rtseg.nets.onnx_facts import precision_of
from rtseg.zoo import Model

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
FP16_FLAGS = {"avx512_fp16", "amx_fp16", "asimdhp"}
"""What a processor calls its own arithmetic in 16 bits, x86 and Arm; without it, bf16 and fp16 are
done in 32 bits at the cost of turning them to and fro."""


class Candidate(NamedTuple):
    """A backend, and the precision to ask of it.

    Attributes:
        exact: whether its masks are taken as they are; others are held against an exact one.
    """

    backend: str
    precision: str
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


def installed(library: str) -> bool:
    """Whether a library can be imported; it is not."""
    return find_spec(library) is not None


@cache
def reduced_precisions() -> frozenset[str]:
    """Those of bf16 and fp16 that this processor computes in; none where it does not say."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text("utf-8").split()) if info.is_file() else set()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        words.add("asimdhp")
    known = {"bf16": BF16_FLAGS, "fp16": FP16_FLAGS}
    return frozenset(name for name, flags in known.items() if words & flags)


def candidates(
    model: Model,
    options: BackendOptions,
    *,
    there: Callable[[str], bool] = installed,
    reduced: frozenset[str] | None = None,
    on_gpu: Collection[str] = (),
) -> list[Candidate]:
    """What is worth measuring, what is taken where nothing else is faster first.

    Nothing is where a GPU was asked for that no library reaches: the usual backend tells so at
    once. A precision that a person asked for is exact enough for that person. A file of another's
    has its own precision, and OpenVINO may compute it in less.

    Args:
        there: whether a library is installed.
        reduced: precisions that the processor gains by; None asks it.
        on_gpu: backends whose library reaches an NVIDIA GPU; the others stay out where there are
            any.

    Raises:
        ModelError: the network's file cannot be read.
    """
    family = options.family
    if model.format == "none":
        return [Candidate("stub", options.precision)]
    if family not in ("auto", "cpu", "cuda"):
        name = "torch" if family == "mps" and model.format != "onnx" else "onnx"
        return [Candidate(name, options.precision)]
    fit = {
        gpu: [
            name
            for name, library in libraries.items()
            if there(library) and (name != "torch" or model.format != "onnx")
        ]
        for gpu, libraries in _LIBRARIES.items()
    }
    reaching = [name for name in fit[True] if name in on_gpu]
    gpu = family != "cpu" and bool(reaching)
    if family == "cuda" and not gpu:
        return []
    names = reaching if gpu else fit[False]
    if options.precision != "auto":
        return [Candidate(name, options.precision) for name in names]
    full = precision_of(model.file) if model.format == "onnx" and model.file else "fp32"
    exact = [Candidate(n, full) for n in names if n not in _OUTDONE[gpu] or n == names[0]]
    if full != "fp32":
        return exact
    less = {"fp16"} if gpu else reduced_precisions() if reduced is None else reduced
    return exact + [
        Candidate(name, precision, exact=False)
        for name, precisions in _gains(model, names, gpu=gpu).items()
        for precision in precisions
        if precision in less
    ]


def _gains(model: Model, names: Sequence[str], *, gpu: bool) -> dict[str, tuple[str, ...]]:
    """Reduced precisions that each of the backends may gain by.

    On x86 processors ONNX Runtime has no kernels for them: it turns each tensor to 32 bits and
    back. It runs a file of another's as that is.
    """
    known: dict[str, tuple[str, ...]]
    if gpu:
        known = {"torch": ("fp16",), "onnx": () if model.format == "onnx" else ("fp16",)}
    elif "openvino" in names:
        known = {"openvino": ("bf16", "fp16")}
    else:
        known = {"torch": ("bf16",)}
    return {name: known.get(name, ()) for name in names}


_LIBRARIES = {
    False: {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"},
    True: {"torch": "torch", "onnx": "onnxruntime"},
}
"""The library of each backend worth trying, on a processor and on an NVIDIA GPU."""

_OUTDONE: dict[bool, tuple[str, ...]] = {False: ("torch",), True: ()}
"""Not worth the seconds that it takes to load where anything else is installed, likewise: on
processors, in fp32, torch took twice to three times as long as the others with every network."""
