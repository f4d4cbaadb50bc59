"""The table of backends, and how a network is run; imports no library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec

from rtseg.errors import UsageError


@dataclass(frozen=True)
class BackendKind:
    """All that the rest of rtseg knows about a backend.

    Attributes:
        open: "module:name" of what loads a network, called as `name(model, input_size, options)`;
            imported when it is first used.
        formats: the values of `Model.format` that it can load.
        devices: families of devices that it runs on.
        precisions: those that it may run in.
        module: the library that it needs, as it is imported; "" is none.
        packages: distributions of which any brings that library.
        install: the command that installs it.
        measured_on: devices on which `--backend auto` measures it, each with the reduced precisions
            that may pay there.
        slow_on: devices on which it is measured only where it may still win: in full precision
            where no other backend is installed, in reduced where no other offers one.
    """

    open: str
    formats: frozenset[str]
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32",)
    module: str = ""
    packages: tuple[str, ...] = ()
    install: str = ""
    measured_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slow_on: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its library can be imported; this does not import it."""
        return not self.module or find_spec(self.module) is not None


_CHECKPOINTS = frozenset({"torch", "random"})
_FILES = _CHECKPOINTS | {"onnx"}

BACKENDS: dict[str, BackendKind] = {
    "torch": BackendKind(
        "rtseg.backends.pytorch:TorchBackend",
        _CHECKPOINTS,
        devices=("cpu", "cuda", "mps"),
        precisions=("fp32", "tf32", "fp16", "bf16"),
        module="torch",
        packages=("torch",),
        install="python -m pip install torch torchvision",
        measured_on={"cpu": ("bf16",), "cuda": ("fp16",)},
        # in fp32 it took two to three times as long as the others with every network
        slow_on=("cpu",),
    ),
    "torch-compile": BackendKind(
        "rtseg.backends.compiled:CompiledBackend",
        _CHECKPOINTS,
        devices=("cpu", "cuda", "mps"),
        precisions=("fp32", "tf32", "fp16", "bf16"),
        module="torch",
        packages=("torch",),
        install="python -m pip install torch torchvision",
    ),
    "onnx": BackendKind(
        "rtseg.backends.ort:OnnxBackend",
        _FILES,
        devices=("cpu", "cuda", "tensorrt", "directml", "coreml"),
        precisions=("fp32", "fp16", "bf16", "int8"),
        module="onnxruntime",
        packages=("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml"),
        install="python -m pip install onnxruntime",
        measured_on={"cpu": (), "cuda": ("fp16",)},
    ),
    "openvino": BackendKind(
        "rtseg.backends.openvino_runtime:OpenVinoBackend",
        _FILES,
        precisions=("fp32", "fp16", "bf16", "int8"),
        module="openvino",
        packages=("openvino",),
        install='python -m pip install "rtseg[openvino]"',
        measured_on={"cpu": ("bf16", "fp16")},
    ),
    "stub": BackendKind(
        "rtseg.backends.stub:StubBackend",
        frozenset({"none"}),
        precisions=("fp32", "fp16", "bf16", "int8"),
    ),
}

DEVICES = ("auto", *dict.fromkeys(device for kind in BACKENDS.values() for device in kind.devices))
"""Families of devices; of "cuda" and "tensorrt" one can be numbered, as cuda:1."""

PRECISIONS = ("auto", *dict.fromkeys(p for kind in BACKENDS.values() for p in kind.precisions))

NUMBERED = ("cuda", "tensorrt")

MIN_SIDE, MAX_SIDE = 32, 8192
"""Of a network's input, in pixels."""

MAX_COUNT = 1024
"""More threads or lanes than any machine has cores; libraries start as many as they are told."""


def parse_device(text: str) -> tuple[str, int]:
    """Family and index of a device: ("cuda", 1) for "cuda:1"; the index defaults to 0.

    Raises:
        UsageError: no backend has such a device.
    """
    match = re.fullmatch(r"([a-z]+)(?::(\d{1,4}))?", text.strip().lower())
    if match and match[1] in DEVICES and (match[2] is None or match[1] in NUMBERED):
        return match[1], int(match[2] or 0)
    names = (f"{family}[:N]" if family == "cuda" else family for family in DEVICES)
    raise UsageError(f"unknown device {text!r}", found="there are " + ", ".join(names))


@dataclass(frozen=True)
class BackendOptions:
    """How a network is run.

    Attributes:
        device: auto, cpu, cuda, cuda:N, mps; for onnx also tensorrt, directml, coreml.
        precision: one of `PRECISIONS`; auto is what suits the device best.
        threads: CPU threads of the network; None leaves the number to the library.
        strict: raise DeviceError rather than run on another device than the one asked for.
        lanes: frames of a recording to work on at once; a backend that gains nothing has one.
        beside: whether another thread uses the GPU meanwhile, as one that decodes video there does.

    Raises:
        UsageError: there is no such device or precision, or a count is out of range.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    strict: bool = False
    lanes: int = 1
    beside: bool = False

    def __post_init__(self) -> None:
        parse_device(self.device)
        if self.precision not in PRECISIONS:
            found = "there are " + ", ".join(PRECISIONS)
            raise UsageError(f"unknown precision {self.precision!r}", found=found)
        for name, count in (("threads", self.threads), ("lanes", self.lanes)):
            if count is not None and not 1 <= count <= MAX_COUNT:
                raise UsageError(f"{count} {name}", found=f"it is 1 to {MAX_COUNT}")

    @property
    def family(self) -> str:
        """The device's family: "cuda" of "cuda:1"."""
        return parse_device(self.device)[0]

    @property
    def number(self) -> int:
        """The device's index in its family: 1 of "cuda:1"."""
        return parse_device(self.device)[1]


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that run networks, by package."""
    found = {}
    for package in dict.fromkeys(p for kind in BACKENDS.values() for p in kind.packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
