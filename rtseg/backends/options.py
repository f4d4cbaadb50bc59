"""How a network is run."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.backends.devices import PRECISIONS, parse_device
from rtseg.errors import UsageError

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
