"""What a person may ask of an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rtseg.errors import UsageError

LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.99}
"""Mean mask agreement that a file must reach, unless another is asked for."""

OPSETS = (13, 20)
"""The first has per-channel quantisation; the last is the exporter's."""


@dataclass(frozen=True)
class ExportOptions:
    """What a person may ask of an exported file.

    Attributes:
        size: (height, width) of the pictures it takes; None is what the network was made for.
        opset: version of the operators; None is ours, or the one a foreign file has.
        samples: clip, folder or picture to compare on; None is the calibration's, or the demo's.
        calibration: clips, folders or pictures to calibrate int8 on; none is the samples.
        least_agreement: with the original, 0 to 1; None is that of `LEAST_AGREEMENT`.
        keep: leave a file that failed beside the name it does not get.

    Raises:
        UsageError: a value makes no sense, or has no meaning for the precision.
    """

    size: tuple[int, int] | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    dynamic_batch: bool = False
    opset: int | None = None
    samples: str | None = None
    calibration: tuple[str, ...] = ()
    least_agreement: float | None = None
    overwrite: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        if self.precision not in LEAST_AGREEMENT:
            known = ", ".join(LEAST_AGREEMENT)
            raise UsageError(f"precision {self.precision}", found=f"files are in {known}")
        if self.calibration and self.precision != "int8":
            raise UsageError(f"calibration for {self.precision}", found="only int8 needs it")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"agreement {self.threshold:g}", found="it is a share, 0 to 1")
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise UsageError(f"opset {self.opset}", found=f"it is {OPSETS[0]} to {OPSETS[1]}")

    @property
    def threshold(self) -> float:
        """The mean agreement that must be reached, 0 to 1."""
        given = self.least_agreement
        return LEAST_AGREEMENT[self.precision] if given is None else given
