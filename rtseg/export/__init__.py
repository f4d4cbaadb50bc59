"""Export a model as an ONNX file, compared with its original before it gets its name.

Only the options are here; `rtseg.export.program.export_network` does the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rtseg.errors import UsageError

LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.99}
"""Default of the mean mask agreement that a file must reach."""

OPSETS = (13, 20)
"""The first has per-channel quantisation; the last is the newest that the exporter writes."""


@dataclass(frozen=True)
class ExportOptions:
    """How to export a model.

    Attributes:
        size: (height, width) of the input; None is the model's own.
        opset: version of the operators; None is 18, or a foreign file's own.
        samples: clip, folder or image to compare on; None is `calibration`, or the demo clip.
        calibration: clips, folders or images to calibrate int8 on; () is `samples`.
        least_agreement: with the original, 0 to 1; None takes `LEAST_AGREEMENT`.
        keep: keep a rejected file as NAME.rejected.onnx.

    Raises:
        UsageError: a value is out of range, or has no meaning for the precision.
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
            raise UsageError(f"precision {self.precision}", found=f"precisions are {known}")
        if self.calibration and self.precision != "int8":
            raise UsageError(f"calibration for {self.precision}", found="only int8 needs it")
        if not 0 <= self.threshold <= 1:
            raise UsageError(
                f"agreement {self.threshold:g}", found="it must be a share from 0 to 1"
            )
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise UsageError(f"opset {self.opset}", found=f"it must be {OPSETS[0]} to {OPSETS[1]}")

    @property
    def threshold(self) -> float:
        """The mean agreement to reach, 0 to 1."""
        given = self.least_agreement
        return LEAST_AGREEMENT[self.precision] if given is None else given
