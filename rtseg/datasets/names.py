"""Names of classes: from the file that lies beside the pictures, or from the values in masks."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtseg.errors import DatasetError
from rtseg.frame import VOID
from rtseg.labels import Colour, LabelSet, random_colours

NAME_FILES = (
    "labelmap.txt label_map.txt classes.json classes.txt labels.json labels.txt names.txt "
    "class_dict.csv class_names.txt"
).split()
"""Where class names may stand, in the order in which they are looked for."""

BACKGROUND_NAMES = frozenset("background bg null none nothing backgroundclass".split())
"""Names, folded, of the class that means "nothing"."""


def fold(name: str) -> str:
    """A name without what people write in different ways: case, blanks, `_` and `-`."""
    return re.sub(r"[\s_\-]+", "", name.casefold())


SAME = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}
"""Pascal VOC's name, folded -> COCO's for the same class (as in torchvision's references)."""


def is_background(name: str) -> bool:
    """Whether a class so called means "nothing"."""
    return fold(name) in BACKGROUND_NAMES


def canonical(name: str) -> str:
    """One spelling for all the names of a class."""
    return SAME.get(fold(name), fold(name))


@dataclass(frozen=True)
class Names:
    """Class names in the order of their indices.

    Attributes:
        colours: what a mask in full colour shows them in (RGB), where the file says so.
        path: the file they come from.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    path: Path

    @property
    def labels(self) -> LabelSet:
        """The names as labels, in colours of the file's, else in distinct ones."""
        return label_set(self.names, self.path, colours=self.colours)


def label_set(
    names: Sequence[str],
    where: Path,
    *,
    colours: Sequence[Colour] | None = None,
) -> LabelSet:
    """Labels called so; the first that is called background, null or so means "nothing".

    Raises:
        DatasetError: there are fewer than 2 names or more than 255, or two are the same.
    """
    if not 2 <= len(names) <= VOID:
        raise DatasetError(
            f"cannot use the classes of {where}",
            found=f"there are {len(names)}",
            do=f"A mask of 8 bits holds 2 to {VOID} classes.",
        )
    folded = [fold(name) for name in names]
    twice = sorted({name for name in names if folded.count(fold(name)) > 1})
    if twice:
        raise DatasetError(
            f"cannot use the classes of {where}", found="named twice: " + ", ".join(twice)
        )
    background = next((i for i, name in enumerate(names) if is_background(name)), None)
    return LabelSet(tuple(names), tuple(colours or _colours(len(names), background)), background)


def _colours(count: int, background: int | None) -> list[Colour]:
    """Distinct colours; the background is black."""
    black, *others = random_colours(0, count + 1)
    if background is not None:
        others.insert(background, black)
    return others[:count]


def find_names(folders: Iterable[Path]) -> Names | None:
    """The names in the first file of `NAME_FILES` in these folders; None where there is none.

    Raises:
        DatasetError: there is a file but it cannot be read.
    """
    files = [file for file in map(name_file, folders) if file]
    return read_names(files[0]) if files else None


def name_file(folder: Path) -> Path | None:
    """The first file of `NAME_FILES` in a folder, if any."""
    return next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)


def read_names(path: Path) -> Names:
    """Names from a JSON list or dict, a CSV of name,r,g,b, CVAT's labelmap, or lines.

    Raises:
        DatasetError: the file cannot be read, or holds no names.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            return Names(_json_names(json.loads(text)), None, path)
        lines = [line.strip() for line in text.splitlines()]
        return _line_names([line for line in lines if line and not line.startswith("#")], path)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DatasetError(
            f"cannot read the class names of {path}",
            found=str(error),
            do="Write a JSON list of names, or one name per line, in the order of the indices.",
        ) from error


def _json_names(value: Any) -> tuple[str, ...]:
    """A list; {"names": [...]}; {"0": "sky", ...} or {"sky": 0, ...}."""
    if isinstance(value, dict):
        for key in ("names", "classes", "labels"):
            if key in value:
                return _json_names(value[key])
        pairs = [
            (int(key), name) if isinstance(name, str) else (int(name), key)
            for key, name in value.items()
        ]
        return _in_order(pairs)
    if not isinstance(value, list):
        raise ValueError("it is no JSON list of names")
    return tuple(
        str(entry["name"] if isinstance(entry, dict) else entry).strip() for entry in value
    )


def _in_order(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    ordered = sorted(pairs)
    if [index for index, _ in ordered] != list(range(len(ordered))):
        raise ValueError("the numbers of its classes are not 0, 1, 2, ...")
    return tuple(name for _, name in ordered)


def _line_names(lines: list[str], path: Path) -> Names:
    rows = [next(csv.reader([line], skipinitialspace=True)) for line in lines]
    if path.suffix == ".csv":
        found = [(row[0], _colour(row[1:4])) for row in rows[1:]]
    elif path.stem.replace("_", "") == "labelmap" and all(":" in line for line in lines):
        # CVAT: name:r,g,b:parts:actions
        parts = [line.split(":") for line in lines]
        found = [(part[0], _colour(part[1].split(","))) for part in parts]
    else:
        return Names(_plain(lines), None, path)
    return Names(tuple(name for name, _ in found), tuple(colour for _, colour in found), path)


def _plain(lines: list[str]) -> tuple[str, ...]:
    """One name a line; numbers before them are left out where they count the lines."""
    numbered = [re.fullmatch(r"(\d+)\s*[:,\s]\s*(\S.*)", line) for line in lines]
    if all(numbered):
        return _in_order((int(match[1]), match[2].strip()) for match in numbered if match)
    return tuple(lines)


def _colour(parts: Sequence[str]) -> Colour:
    r, g, b = (int(part) for part in parts)
    if not all(0 <= part <= 255 for part in (r, g, b)):
        raise ValueError(f"{r},{g},{b} is no colour")
    return r, g, b
