"""Cityscapes: leftImg8bit/SPLIT/CITY, gtFine/SPLIT/CITY; its 19 trained classes, others 255."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

from rtseg.datasets.contract import Dataset, Layout, Problem
from rtseg.datasets.folders import (
    SPLITS,
    Pair,
    Values,
    assign_lists,
    identity,
    pictures_under,
    samples_of,
)
from rtseg.errors import DatasetError
from rtseg.frame import VOID, Mask
from rtseg.labels import CITYSCAPES
from rtseg.text import listed

PICTURES = "leftImg8bit"
MASKS = ("gtFine", "gtCoarse")
KINDS = ("labelIds", "labelTrainIds")
TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the classes that are trained, by train id (cityscapesScripts, labels.py)."""

MOST_LABEL_ID = 33
_FRAME = re.compile(r"(.+_\d+)_\d+")
"""city_sequence_frame."""
_ENDING = re.compile(r"_gt(?:Fine|Coarse)_(\w+)$")
"""Kind of a mask, behind the name of its picture."""


def index_cityscapes(root: Path) -> Dataset:
    """Every picture with its labelIds, or with its labelTrainIds where there are only those."""
    pictures = {
        path.stem.removesuffix(f"_{PICTURES}"): path for path in pictures_under(root / PICTURES)
    }
    kind, masks = _masks(root)
    pairs = [_pair(root, key, pictures[key], masks[key]) for key in pictures if key in masks]
    problems, notes = _without_masks(root, pictures, masks, kind)
    problems += [
        Problem(path, "no picture has its name", _split(root, path))
        for key, path in masks.items()
        if key not in pictures
    ]
    pairs, wrong, said = assign_lists(root, pairs)
    samples = samples_of(pairs, _read)
    all_problems = (*problems, *wrong)
    return Dataset(root, "cityscapes", CITYSCAPES, samples, all_problems, (*notes, *said))


def _masks(root: Path) -> tuple[str, dict[str, Path]]:
    """The kind of the masks, and each by the name of its picture; fine ones before coarse."""
    folders = [root / name for name in MASKS if (root / name).is_dir()]
    files = [path for folder in folders for path in pictures_under(folder)]
    for kind in KINDS:
        found: dict[str, Path] = {}
        for path in files:
            if _kind(path) == kind:
                found.setdefault(_ENDING.sub("", path.stem), path)
        if found:
            return kind, found
    return KINDS[0], {}


def _kind(mask_path: Path) -> str:
    """What a mask's name says that its values are; "" if it is called like none of Cityscapes."""
    match = _ENDING.search(mask_path.stem)
    return match[1] if match else ""


def _read(mask_path: Path, image_path: Path) -> Mask:
    """As `Values.read`, by the kind of this very mask: a list may name another than is usual."""
    kind = _kind(mask_path)
    if kind not in KINDS:
        raise DatasetError(
            f"cannot use the mask {mask_path}",
            found=f"its name ends neither in {' nor in '.join(KINDS)}",
            do="Name masks of one of these kinds in the list.",
        )
    return _values(kind).read(mask_path, image_path)


@cache
def _values(kind: str) -> Values:
    """Label ids of other classes than the trained ones are 255; train ids stay."""
    table = identity(CITYSCAPES)
    if kind == "labelIds":
        table = np.full(256, -1, np.int16)
        table[: MOST_LABEL_ID + 1] = VOID
        table[list(TRAIN_IDS)] = np.arange(len(TRAIN_IDS))
        table[VOID] = VOID
    return Values(CITYSCAPES, table, None, f"These are no {kind} of Cityscapes.")


def _pair(root: Path, key: str, image: Path, mask: Path) -> Pair:
    match = _FRAME.fullmatch(key)
    return Pair(key, image, mask, _split(root, image), match[1] if match else "")


def _split(root: Path, path: Path) -> str:
    """The split that the folder below that of all pictures or masks is called like, else ""."""
    return SPLITS.get(path.relative_to(root).parts[1].casefold(), "")


def _without_masks(
    root: Path, pictures: dict[str, Path], masks: dict[str, Path], kind: str
) -> tuple[list[Problem], list[str]]:
    """A problem where the city has other masks, else told of: test comes without any."""
    labelled = {path.parent for key, path in pictures.items() if key in masks}
    without = [path for key, path in pictures.items() if key not in masks]
    problems = [
        Problem(path, f"it has no mask ({kind})", _split(root, path))
        for path in without
        if path.parent in labelled
    ]
    cities = sorted({p.parent.as_posix() for p in without if p.parent not in labelled})
    notes = [f"pictures without masks are left out: all in {listed(cities)}"] if cities else []
    return problems, notes


def _looks_like_it(path: Path) -> bool:
    return (path / PICTURES).is_dir() and any((path / folder).is_dir() for folder in MASKS)


LAYOUT = Layout(
    f"{PICTURES}/ and {MASKS[0]}/ with train/CITY/*_{MASKS[0]}_{KINDS[0]}.png",
    _looks_like_it,
    index_cityscapes,
)
