"""How a network is run."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from rtseg.errors import DeviceError, UsageError

BACKENDS = {
    "torch": "rtseg.backends.pytorch:TorchBackend",
    "torch-compile": "rtseg.backends.pytorch:CompiledBackend",
    "onnx": "rtseg.backends.ort:OnnxBackend",
    "openvino": "rtseg.backends.openvino_runtime:OpenVinoBackend",
    "stub": "rtseg.backends.stub:StubBackend",
}
"""A new backend is one file with a class and one line here."""

SMALLEST, LARGEST = 32, 8192
"""Sides of a network's input, in pixels."""

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


MOST_THREADS = 1024
"""More than any machine has cores; libraries start as many as they are told, until they die."""


@dataclass(frozen=True)
class BackendOptions:
    """What a person may ask of a backend.

    Attributes:
        device: auto, cpu, cuda, cuda:N, mps; for onnx also tensorrt, directml, coreml.
        precision: auto, fp32, tf32, fp16, bf16 or int8; auto is what the device is best at.
        threads: of the processor; None leaves it to the library.
        strict: refuse another device than the one asked for.
        lanes: frames to work on at once, for recordings; a backend that gains nothing has one.
        beside: another thread uses the GPU meanwhile, as one that decodes there does.

    Raises:
        UsageError: there is no such device or precision, or no thread or lane.
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
            known = ", ".join(PRECISIONS)
            raise UsageError(f"unknown precision {self.precision!r}", found=f"there are {known}")
        for name, count in (("threads", self.threads), ("lanes", self.lanes)):
            if count is not None and not 1 <= count <= MOST_THREADS:
                found = "a network needs at least one" if count < 1 else f"at most {MOST_THREADS}"
                raise UsageError(f"{count} {name}", found=found)

    @property
    def family(self) -> str:
        """The kind of device: "cuda" of "cuda:1"."""
        return parse_device(self.device)[0]

    @property
    def number(self) -> int:
        """Which device of its kind: 1 of "cuda:1"."""
        return parse_device(self.device)[1]
