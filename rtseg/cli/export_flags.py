"""The flags of `rtseg export`, in the groups in which `--help` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional

from cyclopts import Group, Parameter

from rtseg.cli.values import Text, Whole, flag

FILE = Group("File", sort_key=1)
PROOF = Group("Proof", sort_key=2)


@Parameter(name="*", group=FILE)
@dataclass(frozen=True)
class ExportFlags:
    """What is written."""

    model: Annotated[
        Text,
        flag(
            "A name of `rtseg models`, a checkpoint, a run's folder, or an ONNX file.",
            "--model",
            "-m",
        ),
    ] = None
    weights: Annotated[Text, flag('Weights file, or "random" to time a network.')] = None
    output: Annotated[Text, flag("The file to write, as net.onnx.", "--output", "-o")] = None
    imgsz: Annotated[
        Text, flag("Input size HxW, or one number; default is what the network was made for.")
    ] = None
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        flag("Arithmetic of the network; int8 leaves sensitive layers in float."),
    ] = "fp32"
    dynamic_batch: Annotated[bool, flag("Leave the number of pictures at a time open.")] = False
    opset: Annotated[Whole, flag("Version of ONNX's operators, 13 to 20; default 18.")] = None
    overwrite: Annotated[bool, flag("Replace an existing file.", "--overwrite", "-y")] = False


@Parameter(name="*", group=PROOF)
@dataclass(frozen=True)
class ProofFlags:
    """What it is compared on, and how near it must come."""

    samples: Annotated[
        Text,
        flag("Clip, folder or picture to compare on; default --calibration, or the demo's clip."),
    ] = None
    calibration: Annotated[
        tuple[str, ...],
        flag("int8: clips, folders or pictures to calibrate on; default --samples."),
        Parameter(consume_multiple=True),
    ] = ()
    min_agreement: Annotated[
        Optional[float],  # noqa: UP045 - evaluated under Python 3.10 too
        flag("Exit with 5 below this mean mask agreement; default 0.999, fp16 and int8 0.99."),
    ] = None
    keep: Annotated[bool, flag("Keep a file that fails, as net.rejected.onnx.")] = False
    quiet: Annotated[bool, flag("Only the table, and errors.", "--quiet", "-q")] = False
