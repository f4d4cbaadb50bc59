"""The flags of `rtseg eval`, in the groups in which `--help` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional  # noqa: F401 - Literal: fields of ModelFlags are evaluated here

from cyclopts import Group, Parameter

from rtseg.cli.values import MODEL, ModelFlags, Text, Whole, flag

SETS = Group("Labelled pictures", sort_key=1)
FIGURES = Group("Figures", sort_key=3)


@Parameter(name="*", group=SETS)
@dataclass(frozen=True)
class SetFlags:
    """What is measured on."""

    data: Annotated[
        tuple[str, ...],
        flag("A folder or file of labelled pictures; several may follow."),
        Parameter(consume_multiple=True),
    ] = ()
    clip: Annotated[
        tuple[str, ...],
        flag("A video without labels, or a folder of frames, for its flicker; several may follow."),
        Parameter(consume_multiple=True),
    ] = ()
    max_frames: Annotated[Whole, flag("So many frames of each --clip.")] = None
    suite: Annotated[
        Text, flag("TOML file that names sets and networks; see rtseg/evaluate/suite.py.")
    ] = None
    root: Annotated[Text, flag("Folder of the suite's paths, over what it says itself.")] = None
    format: Annotated[str, flag("Layout of --data: auto, coco, cityscapes, voc, ...")] = "auto"
    split: Annotated[
        Text, flag("Split of --data; default val, else test, else all there is; or all.")
    ] = None
    classes: Annotated[
        tuple[str, ...],
        flag("Which class of --data is which of the network's, as person=*; repeatable."),
    ] = ()
    min_share: Annotated[
        tuple[str, ...],
        flag("Only pictures of --data in which a class covers so much, as person=0.05."),
    ] = ()
    names: Annotated[Text, flag("Only pictures of --data named in this file, one a line.")] = None
    max_pictures: Annotated[Whole, flag("So many pictures a set, spread evenly over it.")] = None


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class NetworkFlags(ModelFlags):
    """Which networks, and what runs them."""

    model: Annotated[
        tuple[str, ...],
        flag("Names of `rtseg models`, or files; several may follow.", "--model", "-m"),
        Parameter(consume_multiple=True),
    ] = ()  # type: ignore[assignment]
    models: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    imgsz: Annotated[
        Text,
        flag(
            "Input size: auto (as live, in the usual shape nearest to the picture's), exact (its "
            "own shape, as live), HxW, one number, or long:N (long side N, shape kept)."
        ),
    ] = "auto"
    refine: Annotated[bool, flag("Let the edges of masks follow the picture's, as live.")] = False
    align_corners: Annotated[
        Optional[bool],  # noqa: UP045 - evaluated under Python 3.10 too
        flag(
            "Foreign ONNX: its outermost scores lie on the outermost pixels.",
            negative="--no-align-corners",
        ),
    ] = None


@Parameter(name="*", group=FIGURES)
@dataclass(frozen=True)
class FigureFlags:
    """What is measured, and where it goes."""

    show_class: Annotated[
        tuple[str, ...], flag("Give this class's IoU a column of the table; repeatable.")
    ] = ()
    smooth: Annotated[
        Optional[float],  # noqa: UP045
        flag("Measure sequences and clips once more, their scores smoothed over time: 0 to 1."),
    ] = None
    boundary: Annotated[bool, flag("Measure the boundary F-score too.")] = False
    min_miou: Annotated[
        Optional[float],  # noqa: UP045
        flag("Exit with 5 when any mean IoU is below this, 0 to 1."),
    ] = None
    json: Annotated[Text, flag("Write every figure to this JSON file, - for stdout.")] = None
    confusion: Annotated[Text, flag("Write the confusion matrix as a picture.")] = None
    worst: Annotated[Whole, flag("Keep so many of the worst pictures; needs --worst-to.")] = None
    worst_to: Annotated[Text, flag("Folder for the worst pictures: truth, prediction.")] = None
    overwrite: Annotated[bool, flag("Replace existing files.", "--overwrite", "-y")] = False
    quiet: Annotated[bool, flag("Only the table, and errors.", "--quiet", "-q")] = False
    debug: Annotated[bool, flag("Show the traceback of an error.")] = False


@dataclass(frozen=True)
class EvalFlags:
    """Everything `rtseg eval` was asked."""

    sets: SetFlags
    networks: NetworkFlags
    figures: FigureFlags
