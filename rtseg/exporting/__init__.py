"""Export a model as an ONNX file, compared with its original before it gets its name.

Only the options are here; `rtseg.exporting.program.export_network` does the work.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.errors import UsageError
from rtseg.options import check, option

MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.99}
"""Default of the mean mask agreement that a file must reach."""

OPSETS = (13, 20)
"""The first has per-channel quantisation; the last is the newest that the exporter writes."""


@dataclass(frozen=True)
class ExportOptions:
    """How to export a model.

    Attributes:
        imgsz: Input size: HxW or one number; default is the model's own.
        precision: Numeric precision; int8 leaves sensitive layers in float.
        dynamic_batch: Allow any batch size.
        opset: ONNX opset, 13 to 20; default 18, or a foreign file's own.
        overwrite: Replace an existing file.
        samples: Clip, folder or image to compare on; default --calibration, or the demo clip.
        calibration: int8: clips, folders or images to calibrate on; default --samples.
        min_agreement: Exit with 5 below this mean mask agreement; default 0.999, fp16 and int8
            0.99.
        keep: Keep a rejected file, as net.rejected.onnx.

    Raises:
        UsageError: a value is out of range, or has no meaning for the precision.
    """

    imgsz: tuple[int, int] | None = None
    precision: str = option("fp32", choices=MIN_AGREEMENT)
    dynamic_batch: bool = False
    opset: int | None = option(None, least=OPSETS[0], most=OPSETS[1])
    overwrite: bool = False
    samples: str | None = None
    calibration: tuple[str, ...] = ()
    min_agreement: float | None = option(None, least=0, most=1)
    keep: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.calibration and self.precision != "int8":
            raise UsageError(f"--calibration for {self.precision}", found="only int8 needs it")

    @property
    def threshold(self) -> float:
        """The mean agreement to reach, 0 to 1."""
        given = self.min_agreement
        return MIN_AGREEMENT[self.precision] if given is None else given
