"""Roboflow's "PNG masks": a folder per split with `a.jpg`, `a_mask.png` and `_classes.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rtseg.datasets.classes import label_set
from rtseg.datasets.contract import Dataset, Layout, Problem
from rtseg.datasets.folders import (
    SPLITS,
    Pair,
    Values,
    any_coloured,
    duplicates,
    images_in,
    read_lines,
    repeated,
    samples_of,
    subfolders,
)
from rtseg.documents import shown
from rtseg.errors import DatasetError
from rtseg.labels import VOID
from rtseg.text import listed

TABLE = "_classes.csv"
MASK = "_mask"


def index_masks_csv(root: Path) -> Dataset:
    """Every image with its mask, in the folder itself and in its splits' folders.

    Raises:
        DatasetError: there is no `_classes.csv`, or one cannot be read or differs from another.
    """
    folders = [*([root] if _has_table(root) else []), *_tables_below(root)]
    if not folders:
        raise DatasetError(f"no {TABLE} in {root} or its subfolders")
    values = _values(folders)
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for folder in folders:
        split = "" if folder == root else SPLITS.get(folder.name.casefold(), "")
        found, found_problems = _pairs(root, folder, split)
        pairs += found
        problems += found_problems
    any_coloured([pair.mask for pair in pairs])  # their palettes may contradict
    return Dataset(
        root, "masks-csv", values.labels, samples_of(pairs, values.read), tuple(problems)
    )


def _pairs(root: Path, folder: Path, split: str) -> tuple[list[Pair], list[Problem]]:
    several = images_in(folder)
    twice = [problem for paths in several.values() for problem in duplicates(paths, split)]
    files = {stem: paths[0] for stem, paths in several.items()}
    masks = {stem.removesuffix(MASK): path for stem, path in files.items() if stem.endswith(MASK)}
    images = {stem: path for stem, path in files.items() if not stem.endswith(MASK)}
    prefix = "" if folder == root else f"{folder.name}/"
    pairs = [
        Pair(prefix + stem, path, masks[stem], split)
        for stem, path in images.items()
        if stem in masks
    ]
    without = {
        path: f"there is no mask {stem}{MASK}.png"
        for stem, path in images.items()
        if stem not in masks
    }
    without |= {
        path: "there is no image with its name"
        for stem, path in masks.items()
        if stem not in images
    }
    problems = [*twice, *(Problem(path, message, split) for path, message in without.items())]
    if not files:
        problems.append(Problem(folder, "the split is empty", split))
    return pairs, problems


def _values(folders: list[Path]) -> Values:
    tables = {folder / TABLE: _read_table(folder / TABLE) for folder in folders}
    (path, first), *others = tables.items()
    for other, rows in others:
        if rows != first:
            raise DatasetError(
                f"cannot use {other}", found=f"its classes differ from those of {path}"
            )
    numbers = sorted(first)
    labels = label_set([first[number] for number in numbers], path)
    table = np.full(256, -1, np.int16)
    table[VOID] = VOID
    table[numbers] = np.arange(len(numbers))
    return Values(labels, table, None, f"{path} lists the value of each class.")


def _read_table(path: Path) -> dict[int, str]:
    rows = list(_rows(path))
    if twice := repeated(str(number) for number, _ in rows):
        raise DatasetError(f"cannot read {path}", found=f"given twice: {listed(twice)}")
    return dict(rows)


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    try:
        rows = list(csv.reader(read_lines(path), skipinitialspace=True))[1:]
    except csv.Error as error:
        raise DatasetError(f"cannot read {path}", found=str(error)) from error
    for row in rows:
        number = row[0].strip() if len(row) > 1 else ""
        if not number.isdecimal() or len(number) > 3 or int(number) > VOID:
            raise DatasetError(
                f"cannot read {path}",
                found=f"the line {shown(','.join(row))}",
                do='Write "Pixel Value, Class", then lines like "1, cat".',
            )
        yield int(number), row[1].strip()


def _has_table(folder: Path) -> bool:
    return (folder / TABLE).is_file()


def _tables_below(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if _has_table(folder)]


def _matches(path: Path) -> bool:
    return path.is_dir() and (_has_table(path) or bool(_tables_below(path)))


LAYOUT = Layout(
    f"train/, valid/, test/ with a.jpg, a{MASK}.png and {TABLE}", _matches, index_masks_csv
)
