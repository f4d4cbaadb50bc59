"""The flags of `rtseg eval`, in the groups in which `--help` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional  # noqa: F401 - Literal: fields of ModelFlags are evaluated here

from cyclopts import Group, Parameter

from rtseg.cli.options import MODEL, ModelFlags, Text, Whole, _flag

SETS = Group("Labelled pictures", sort_key=1)
FIGURES = Group("Figures", sort_key=3)


@Parameter(name="*", group=SETS)
@dataclass(frozen=True)
class SetFlags:
    """What is measured on."""

    data: Annotated[
        tuple[str, ...],
        _flag("A folder or file of labelled pictures; several may follow."),
        Parameter(consume_multiple=True),
    ] = ()
    suite: Annotated[
        Text, _flag("TOML file that names sets and networks; see rtseg/evaluate/suite.py.")
    ] = None
    root: Annotated[Text, _flag("Folder of the suite's paths, over what it says itself.")] = None
    format: Annotated[str, _flag("Layout of --data: auto, coco, cityscapes, voc, ...")] = "auto"
    split: Annotated[
        Text, _flag("Split of --data; default val, else test, else all there is; or all.")
    ] = None
    classes: Annotated[
        tuple[str, ...],
        _flag("Which class of --data is which of the network's, as person=*; repeatable."),
    ] = ()
    min_share: Annotated[
        tuple[str, ...],
        _flag("Only pictures of --data in which a class covers so much, as person=0.05."),
    ] = ()
    names: Annotated[Text, _flag("Only pictures of --data named in this file, one a line.")] = None
    max_pictures: Annotated[Whole, _flag("So many pictures a set, spread evenly over it.")] = None


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class NetworkFlags(ModelFlags):
    """Which networks, and what runs them."""

    model: Annotated[
        tuple[str, ...],
        _flag("Names of `rtseg models`, or files; several may follow.", "--model", "-m"),
        Parameter(consume_multiple=True),
    ] = ()  # type: ignore[assignment]
    imgsz: Annotated[
        Text,
        _flag(
            "Input size: auto (as live, in the usual shape nearest to the picture's), exact (its "
            "own shape, as live), HxW, one number, or long:N (long side N, shape kept)."
        ),
    ] = "auto"
    align_corners: Annotated[
        Optional[bool],  # noqa: UP045 - evaluated under Python 3.10 too
        _flag(
            "Foreign ONNX: its outermost scores lie on the outermost pixels.",
            negative="--no-align-corners",
        ),
    ] = None


@Parameter(name="*", group=FIGURES)
@dataclass(frozen=True)
class FigureFlags:
    """What is measured, and where it goes."""

    show_class: Annotated[
        tuple[str, ...], _flag("Give this class's IoU a column of the table; repeatable.")
    ] = ()
    boundary: Annotated[bool, _flag("Measure the boundary F-score too.")] = False
    min_miou: Annotated[
        Optional[float],  # noqa: UP045
        _flag("Exit with 5 when any mean IoU is below this, 0 to 1."),
    ] = None
    json: Annotated[Text, _flag("Write every figure to this JSON file, - for stdout.")] = None
    confusion: Annotated[Text, _flag("Write the confusion matrix as a picture.")] = None
    worst: Annotated[Whole, _flag("Keep so many of the worst pictures; needs --worst-to.")] = None
    worst_to: Annotated[Text, _flag("Folder for the worst pictures: truth, prediction.")] = None
    overwrite: Annotated[bool, _flag("Replace existing files.", "--overwrite", "-y")] = False
    quiet: Annotated[bool, _flag("Only the table, and errors.", "--quiet", "-q")] = False
    debug: Annotated[bool, _flag("Show the traceback of an error.")] = False


@dataclass(frozen=True)
class EvalFlags:
    """Everything `rtseg eval` was asked."""

    sets: SetFlags
    networks: NetworkFlags
    figures: FigureFlags
