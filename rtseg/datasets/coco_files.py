"""COCO-JSON files: which there are, what they hold, and where their pictures lie."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtseg.datasets.names import is_background
from rtseg.datasets.pairs import SPLITS
from rtseg.errors import DatasetError

ROBOFLOW = "_annotations.coco.json"
OWN = "instances_"
"""How COCO's own files of things begin; captions and keypoints lie beside them."""

FILES = ("*.json", "annotations/*.json", f"*/{ROBOFLOW}", "*/annotations/*.json")

Record = dict[str, Any]


def is_key(value: Any) -> bool:
    """Whether it can be an id or a name."""
    return isinstance(value, (int, float, str))


@dataclass(frozen=True)
class CocoFile:
    """What one JSON file holds; pictures have an id and a file name, categories id and name."""

    path: Path
    split: str
    images: list[Record]
    annotations: list[Record]
    categories: list[Record]


def find_files(root: Path) -> list[tuple[Path, str]]:
    """The COCO-JSON files below a folder, or the one named, each with its split ("" if none)."""
    if root.is_file():
        return [(root, _split_of(root))] if root.suffix.lower() == ".json" else []
    found = sorted({path for pattern in FILES for path in root.glob(pattern)})
    found = [path for path in found if path.is_file() and _is_coco(path)]
    own = [path for path in found if path.name.startswith(OWN)]
    return [(path, _split_of(path)) for path in own or found]


def _is_coco(path: Path) -> bool:
    if path.name == ROBOFLOW or path.name.startswith(OWN):
        return True
    try:
        content = path.read_bytes()
    except OSError:
        return False
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return content.lstrip()[:1] == b"{" and all(key in content for key in keys)


def _split_of(path: Path) -> str:
    """The split that a file's own name tells, else that of a folder around it."""
    for word in re.split(r"[^a-z]+", path.stem.casefold()):
        if word in SPLITS:
            return SPLITS[word]
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    return SPLITS.get(folder.name.casefold(), "")


def read_file(path: Path, split: str) -> CocoFile:
    """Read one file.

    Raises:
        DatasetError: it is broken, or not as COCO has it.
    """
    asked = f"cannot read {path}"
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(asked, found=f"it is no JSON: {error}") from error
    needed = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    for key, fields in needed.items():
        records = value.get(key) if isinstance(value, dict) else None
        if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
            raise DatasetError(asked, found=f"it is no COCO-JSON: it has no list of {key}")
        for name in fields:
            lack = sum(not is_key(record.get(name)) for record in records)
            if lack:
                raise DatasetError(asked, found=f"{lack} of its {key} have no {name}")
    return CocoFile(path, split, value["images"], value["annotations"], value["categories"])


@dataclass(frozen=True)
class Categories:
    """The classes of all files together: background, then the categories by id.

    Attributes:
        class_of: category id -> class.
        notes: what a person should know.
    """

    names: tuple[str, ...]
    class_of: dict[Any, int]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, files: Sequence[CocoFile]) -> Categories:
        """Put the categories of all files together.

        Raises:
            DatasetError: two files call one id by different names, or there are no categories.
        """
        records = _united(files)
        notes = []
        top = _unused_top(files, records)
        if top is not None:
            name = records.pop(top)["name"]
            notes.append(f"category {top}, {name}, stands over the others and is left out")
        if not records:
            raise DatasetError(f"no categories in {files[0].path}")
        nothing = [n for n, r in records.items() if is_background(str(r["name"]))]
        things = [number for number in sorted(records, key=_by_number) if number not in nothing[:1]]
        first = str(records[nothing[0]]["name"]) if nothing else "background"
        class_of = dict.fromkeys(nothing[:1], 0) | {n: i for i, n in enumerate(things, 1)}
        return cls((first, *(str(records[n]["name"]) for n in things)), class_of, notes)


def _by_number(number: Any) -> tuple[bool, Any]:
    """A sort key: numbers before words."""
    return isinstance(number, str), number


def _united(files: Sequence[CocoFile]) -> dict[Any, Record]:
    records: dict[Any, Record] = {}
    for file in files:
        for record in file.categories:
            before = records.setdefault(record["id"], record)
            if before["name"] != record["name"]:
                raise DatasetError(
                    f"cannot use {file.path}",
                    found=f"it calls category {record['id']} {record['name']!r}, another file "
                    f"{before['name']!r}",
                )
    return records


def _unused_top(files: Sequence[CocoFile], records: dict[Any, Record]) -> Any:
    """Roboflow's category 0: the superclass of the others, which no annotation uses."""
    used = any(each.get("category_id") == 0 for file in files for each in file.annotations)
    above = {record.get("supercategory") for number, record in records.items() if number != 0}
    return 0 if 0 in records and not used and records[0]["name"] in above else None


class Pictures:
    """Where the pictures of one file lie; looked for in the folders that are usual."""

    def __init__(self, file: CocoFile, root: Path) -> None:
        beside = file.path.parent
        bases = [beside, *([beside.parent] if root.is_file() or beside != root else [])]
        raw = re.sub(rf"^{OWN}|\.json$", "", file.path.name)
        folders = [raw, file.split, *(k for k, v in SPLITS.items() if v == file.split), "default"]
        ends = [f"{start}{folder}" for start in ("", "images/") for folder in folders if folder]
        self._folders = [base / end for base in bases for end in (*ends, "images", ".")]
        self._folders = [folder for folder in self._folders if folder.is_dir()]

    def find(self, file_name: str) -> Path | None:
        """The picture, by its name or by its name's last part; None where there is none."""
        path = Path(str(file_name).replace("\\", "/"))
        for folder in self._folders:
            for name in dict.fromkeys((path, Path(path.name))):
                if (folder / name).is_file():
                    self._folders.remove(folder)
                    self._folders.insert(0, folder)  # the next one lies there too
                    return folder / name
        return None
