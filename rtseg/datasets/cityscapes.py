"""Cityscapes: leftImg8bit/SPLIT/CITY, gtFine/SPLIT/CITY; its 19 trained classes, others 255."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rtseg.datasets.contract import Dataset, Layout, Problem
from rtseg.datasets.lists import assign_lists
from rtseg.datasets.pairs import SPLITS, Pair, Values, identity, listed, pictures_under, samples_of
from rtseg.frame import VOID
from rtseg.palette_tables import CITYSCAPES

PICTURES = "leftImg8bit"
MASKS = ("gtFine", "gtCoarse")
KINDS = ("labelIds", "labelTrainIds")
TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the classes that are trained, by train id (cityscapesScripts, labels.py)."""

MOST_LABEL_ID = 33
_FRAME = re.compile(r"(.+_\d+)_\d+")
"""city_sequence_frame."""


def index_cityscapes(root: Path) -> Dataset:
    """Every picture with its labelIds, or with its labelTrainIds where there are only those."""
    pictures = {
        path.stem.removesuffix(f"_{PICTURES}"): path for path in pictures_under(root / PICTURES)
    }
    kind, masks = _masks(root)
    values = _values(kind)
    pairs = [_pair(root, key, pictures[key], masks[key]) for key in pictures if key in masks]
    problems, notes = _without_masks(pictures, masks, kind)
    problems += [
        Problem(p, "no picture has its name") for k, p in masks.items() if k not in pictures
    ]
    pairs, wrong, said = assign_lists(root, pairs)
    samples = samples_of(pairs, values)
    all_problems = (*problems, *wrong)
    return Dataset(root, "cityscapes", values.labels, samples, all_problems, (*notes, *said))


def _masks(root: Path) -> tuple[str, dict[str, Path]]:
    """The kind of the masks, and each by the name of its picture; fine ones before coarse."""
    folders = [root / name for name in MASKS if (root / name).is_dir()]
    files = [path for folder in folders for path in pictures_under(folder)]
    for kind in KINDS:
        ending = re.compile(rf"_gt(?:Fine|Coarse)_{kind}$")
        found: dict[str, Path] = {}
        for path in files:
            if ending.search(path.stem):
                found.setdefault(ending.sub("", path.stem), path)
        if found:
            return kind, found
    return KINDS[0], {}


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
    folders = image.relative_to(root / PICTURES).parts
    match = _FRAME.fullmatch(key)
    split = SPLITS.get(folders[0].casefold(), "")
    return Pair(key, image, mask, split, match[1] if match else "")


def _without_masks(
    pictures: dict[str, Path], masks: dict[str, Path], kind: str
) -> tuple[list[Problem], list[str]]:
    """A problem where the city has other masks, else told of: test comes without any."""
    labelled = {path.parent for key, path in pictures.items() if key in masks}
    without = [path for key, path in pictures.items() if key not in masks]
    problems = [Problem(p, f"it has no mask ({kind})") for p in without if p.parent in labelled]
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
