"""COCO-JSON: COCO's own folders, Roboflow's, CVAT's, or a JSON file beside its pictures.

Classes are background, then the categories in the order of their ids. How objects that overlap
are painted stands in `coco_masks`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rtseg.datasets.coco_files import Categories, CocoFile, Pictures, find_files, is_key, read_file
from rtseg.datasets.coco_masks import Outline, Outlines, has_outline
from rtseg.datasets.contract import Dataset, Layout, Problem, Sample
from rtseg.datasets.names import label_set
from rtseg.datasets.pairs import listed, natural, short_names, split_rank
from rtseg.errors import DatasetError
from rtseg.frame import VOID

_ONE_ID = "ids that several pictures have, so that nobody knows whose objects they are"


@dataclass
class _Found:
    """What the files hold, as it is put together.

    Attributes:
        keys: split and file name -> what tells the picture from all others.
    """

    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    pictures: dict[str, tuple[str, Outlines]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def index_coco(root: Path) -> Dataset:
    """Every picture that the JSON files name, with or without objects.

    Raises:
        DatasetError: there is no file, none can be read, or their categories contradict.
    """
    found = _Found()
    files = list(_readable(root, found.problems))
    categories = Categories.of(files)
    found.keys = _keys(files)
    for file in files:
        _add(file, categories.class_of, root, found)
    keys = sorted(found.pictures, key=lambda k: (split_rank(found.pictures[k][0]), natural(k)))
    samples = tuple(
        Sample(name, outlines.image_path, outlines, split)
        for name, (split, outlines) in zip(
            short_names(keys), (found.pictures[key] for key in keys), strict=True
        )
    )
    labels = label_set(categories.names, files[0].path)
    return Dataset(root, "coco", labels, samples, tuple(found.problems), tuple(categories.notes))


def _readable(root: Path, problems: list[Problem]) -> Iterator[CocoFile]:
    """The files that can be read; the others are problems, unless there is no other."""
    paths = find_files(root)
    failures: list[DatasetError] = []
    for path, split in paths:
        try:
            yield read_file(path, split)
        except DatasetError as error:
            failures.append(error)
            problems.append(Problem(path, error.found, split))
    if not paths:
        raise DatasetError(f"no COCO-JSON in {root}", found="no file has images and annotations")
    if len(failures) == len(paths):
        raise failures[0]


def _add(file: CocoFile, class_of: dict[Any, int], root: Path, found: _Found) -> None:
    """Put the pictures of one file to those found, and tell of all that is wrong with it."""
    outlines, wrong = _outlines(file, class_of)
    pictures = Pictures(file, root)
    for image in file.images:
        path = pictures.find(image["file_name"])
        key = found.keys[file.split, str(image["file_name"])]
        if path is None:
            wrong["pictures that are not there"].append(image["file_name"])
        elif key in found.pictures:
            wrong["pictures named twice"].append(image["file_name"])
        else:
            size = _size(image)
            here = Outlines(file.path, path, size, tuple(outlines.get(image["id"], ())))
            found.pictures[key] = file.split, here
    if not file.images:
        found.problems.append(
            Problem(file.path, "it names no pictures: the split is empty", file.split)
        )
    found.problems += [
        Problem(file.path, f"{what}: {listed(which)}", file.split) for what, which in wrong.items()
    ]


def _keys(files: Iterable[CocoFile]) -> dict[tuple[str, str], str]:
    """The key of each picture: split and name, without its ending where that tells it from all."""
    bare: dict[tuple[str, str], str] = {}
    for file in files:
        for name in (str(image["file_name"]) for image in file.images):
            path = PurePosixPath(file.split, name.replace("\\", "/").lstrip("/"))
            bare[file.split, name] = str(path.parent / path.stem)
    counts = Counter(bare.values())
    return {
        (split, name): key if counts[key] == 1 else f"{split}/{name}".lstrip("/")
        for (split, name), key in bare.items()
    }


def _outlines(
    file: CocoFile, class_of: dict[Any, int]
) -> tuple[dict[Any, list[Outline]], dict[str, list[Any]]]:
    """Outlines by the id of their picture, and the annotations that cannot be used, by why."""
    counts = Counter(image["id"] for image in file.images)
    known, twice = set(counts), [number for number, count in counts.items() if count > 1]
    outlines: dict[Any, list[Outline]] = defaultdict(list)
    wrong: dict[str, list[Any]] = defaultdict(list, {_ONE_ID: twice} if twice else {})
    for annotation in file.annotations:
        number, category = annotation.get("id"), annotation.get("category_id")
        segmentation = annotation.get("segmentation")
        if not is_key(annotation.get("image_id")) or annotation["image_id"] not in known:
            wrong["annotations of pictures it does not name"].append(number)
        elif not is_key(category) or category not in class_of:
            wrong[f"annotations of category {category}, which it does not name"].append(number)
        elif not has_outline(segmentation):
            wrong["annotations without an outline (a box is none)"].append(number)
        else:
            index = VOID if annotation.get("iscrowd") else class_of[category]
            outlines[annotation["image_id"]].append(Outline(number, index, segmentation))
    return outlines, wrong


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width); None where the file does not give it."""
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _looks_like_it(path: Path) -> bool:
    return bool(find_files(path))


LAYOUT = Layout(
    "annotations/instances_train.json, _annotations.coco.json in a folder per split, or a JSON "
    "file with images, annotations and categories",
    _looks_like_it,
    index_coco,
)
