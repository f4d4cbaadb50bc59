"""The flags of `rtseg bench`, in the groups in which `--help` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional

from cyclopts import Group, Parameter

from rtseg.cli.values import MODEL, Text, Whole, flag

CLIP = Group("Clip and clocks", sort_key=3)
FIGURES = Group("Figures", sort_key=4)


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class BenchNetworkFlags:
    """The combinations: every one of each list with every one of the others."""

    model: Annotated[
        tuple[str, ...],
        flag("Names of `rtseg models`, or files; comma list or repeated.", "--model", "-m"),
    ] = ()
    weights: Annotated[
        Text, flag('A file, or "random" for networks whose weights are not here.')
    ] = None
    backend: Annotated[
        tuple[str, ...],
        flag("torch, onnx, ... or auto; default all that there are.", "--backend", "-b"),
    ] = ()
    precision: Annotated[
        tuple[str, ...], flag("auto, fp32, tf32, fp16, bf16, int8; default auto.")
    ] = ()
    imgsz: Annotated[
        tuple[str, ...], flag("Input sizes HxW or one number; auto follows the clip's shape.")
    ] = ()
    device: Annotated[str, flag("As of rtseg run.", "--device", "-d")] = "auto"
    threads: Annotated[Whole, flag("Processor threads of the networks.")] = None
    strict_device: Annotated[
        bool, flag("A combination that would run on another device is not measured.")
    ] = False


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class ClockFlags:
    """What is timed on what, and for how long."""

    input: Annotated[
        Text,
        flag("Video or pictures; default a portrait, panned.", "--input", "-i", "--source"),
    ] = None
    duration: Annotated[float, flag("Seconds of each clock in each round.")] = 3.0
    frames: Annotated[Whole, flag("End each of them after so many frames, too.")] = None
    rounds: Annotated[int, flag("How often all combinations take their turns.")] = 3
    encode: Annotated[
        bool, flag("End the loop in an H.264 file, or nowhere.", negative="--no-encode")
    ] = True
    worst_case: Annotated[bool, flag("Time the pipeline with checkerboard logits too.")] = False
    view: Annotated[
        Literal["overlay", "mask", "side", "contours", "cutout"], flag("What to draw.")
    ] = "overlay"
    alpha: Annotated[float, flag("Opacity of the colours, 0 to 1.", "--alpha", "--opacity")] = 0.4


@Parameter(name="*", group=FIGURES)
@dataclass(frozen=True)
class BenchFigureFlags:
    """What is measured beside speed, and where all of it goes."""

    data: Annotated[Text, flag("Labelled pictures, for the mean IoU.")] = None
    max_pictures: Annotated[Whole, flag("So many of them, spread evenly.")] = None
    format: Annotated[
        Optional[Literal["table", "md", "csv", "json"]],  # noqa: UP045 - evaluated under 3.10 too
        flag("What stdout gets, and files whose name does not say; default table."),
    ] = None
    output: Annotated[
        tuple[str, ...],
        flag("Write .json, .csv, .md or .txt too; repeatable.", "--output", "-o"),
    ] = ()
    plot: Annotated[Text, flag("Write a chart: .png, .svg, .pdf, .jpg.")] = None
    compare: Annotated[Text, flag("Print the change against an older .json.")] = None
    threshold: Annotated[
        str, flag("Exit with 5 when --compare finds any clock slower by more than this.")
    ] = "10%"
    overwrite: Annotated[bool, flag("Replace existing files.", "--overwrite", "-y")] = False
    quiet: Annotated[bool, flag("Only the figures, and errors.", "--quiet", "-q")] = False
    debug: Annotated[bool, flag("Show the traceback of an error.")] = False


@dataclass(frozen=True)
class BenchFlags:
    """Everything `rtseg bench` was asked."""

    networks: BenchNetworkFlags
    clocks: ClockFlags
    figures: BenchFigureFlags
