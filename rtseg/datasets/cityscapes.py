"""Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; its 19 training classes, others 255."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

import numpy as np

from rtseg.datasets.contract import Dataset, Layout, Problem
from rtseg.datasets.folders import (
    SPLITS,
    Pair,
    Values,
    assign_lists,
    by_name,
    duplicates,
    identity,
    images_under,
    samples_of,
)
from rtseg.errors import DatasetError
from rtseg.frame import Mask
from rtseg.labels import CITYSCAPES, VOID
from rtseg.text import listed

IMAGES = "leftImg8bit"
MASKS = ("gtFine", "gtCoarse")
KINDS = ("labelIds", "labelTrainIds")
TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each train id (cityscapesScripts, labels.py)."""

MOST_LABEL_ID = 33
_FRAME = re.compile(r"(.+_\d+)_\d+")
"""city_sequence_frame."""
_ENDING = re.compile(r"_gt(?:Fine|Coarse)_(\w+)$")
"""The kind of a mask, after the name of its image."""


def index_cityscapes(root: Path) -> Dataset:
    """Every image with its labelIds mask, or its labelTrainIds mask if there are only those."""
    several = by_name(images_under(root / IMAGES), partial(_key, root))
    images = {key: paths[0] for key, paths in several.items()}
    kind, masks = _masks(root)
    masks = _matched(images, masks)
    pairs = [_pair(root, key, images[key], masks[key]) for key in images if key in masks]
    problems, notes = _without_masks(root, images, masks, kind)
    problems += [each for ps in several.values() for each in duplicates(ps, _split(root, ps[0]))]
    problems += [
        Problem(path, "there is no image with its name", _split(root, path))
        for key, path in masks.items()
        if key not in images
    ]
    pairs, list_problems, list_notes = assign_lists(root, pairs)
    samples = samples_of(pairs, _read)
    all_problems = (*problems, *list_problems)
    return Dataset(root, "cityscapes", CITYSCAPES, samples, all_problems, (*notes, *list_notes))


def _key(root: Path, path: Path) -> str:
    """The folders below `IMAGES` or `MASKS`, and the name: cities of two splits share names."""
    folders = path.relative_to(root).parts[1:-1]
    return "/".join((*folders, _ENDING.sub("", path.stem.removesuffix(f"_{IMAGES}"))))


def _matched(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """The masks by the keys of their images.

    A mask that lies in another folder than its image belongs to it if no other image and no other
    mask has the name, and no two splits are mixed.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for key in {**images, **masks}:
        named[key.rpartition("/")[2]].append(key)
    moved = {}
    for one, *others in named.values():
        if len(others) != 1 or one in masks or others[0] in images:
            continue
        if len({SPLITS.get(key.split("/")[0].casefold(), "") for key in (one, *others)} - {""}) < 2:
            moved[others[0]] = one
    return {moved.get(key, key): path for key, path in masks.items()}


def _masks(root: Path) -> tuple[str, dict[str, Path]]:
    """The kind of the masks, and each mask by its key; fine before coarse."""
    folders = [root / name for name in MASKS if (root / name).is_dir()]
    files = [path for folder in folders for path in images_under(folder)]
    for kind in KINDS:
        found: dict[str, Path] = {}
        for path in files:
            if _kind(path) == kind:
                found.setdefault(_key(root, path), path)
        if found:
            return kind, found
    return KINDS[0], {}


def _kind(mask_path: Path) -> str:
    """The kind in a mask's file name; "" if it is not named like a mask of Cityscapes."""
    match = _ENDING.search(mask_path.stem)
    return match[1] if match else ""


def _read(mask_path: Path, image_path: Path) -> Mask:
    """As `Values.read`, by the kind of this mask: a list may name masks of another kind."""
    kind = _kind(mask_path)
    if kind not in KINDS:
        raise DatasetError(
            f"cannot use the mask {mask_path}",
            found=f"its name ends in neither {' nor '.join(KINDS)}",
            do="List masks of one of these kinds.",
        )
    return _values(kind).read(mask_path, image_path)


@cache
def _values(kind: str) -> Values:
    """Train ids are the classes; label ids of classes that are not trained become 255."""
    table = identity(CITYSCAPES)
    if kind == "labelIds":
        table = np.full(256, -1, np.int16)
        table[: MOST_LABEL_ID + 1] = VOID
        table[list(TRAIN_IDS)] = np.arange(len(TRAIN_IDS))
        table[VOID] = VOID
    return Values(CITYSCAPES, table, None, f"These are not {kind} of Cityscapes.")


def _pair(root: Path, key: str, image: Path, mask: Path) -> Pair:
    match = _FRAME.fullmatch(key.rpartition("/")[2])
    return Pair(key, image, mask, _split(root, image), match[1] if match else "")


def _split(root: Path, path: Path) -> str:
    """The split that the folder below `IMAGES` or `MASKS` names, else ""."""
    return SPLITS.get(path.relative_to(root).parts[1].casefold(), "")


def _without_masks(
    root: Path, images: dict[str, Path], masks: dict[str, Path], kind: str
) -> tuple[list[Problem], list[str]]:
    """A problem if the city has other masks, else a note: the test split comes without masks."""
    labelled = {path.parent for key, path in images.items() if key in masks}
    without = [path for key, path in images.items() if key not in masks]
    problems = [
        Problem(path, f"it has no mask ({kind})", _split(root, path))
        for path in without
        if path.parent in labelled
    ]
    cities = sorted({p.parent.as_posix() for p in without if p.parent not in labelled})
    notes = [f"images without masks are left out: all in {listed(cities)}"] if cities else []
    return problems, notes


def _matches(path: Path) -> bool:
    return (path / IMAGES).is_dir() and any((path / folder).is_dir() for folder in MASKS)


LAYOUT = Layout(
    f"{IMAGES}/ and {MASKS[0]}/ with train/CITY/*_{MASKS[0]}_{KINDS[0]}.png",
    _matches,
    index_cityscapes,
)
