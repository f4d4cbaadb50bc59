"""Annotation tools' own files: labelme, CVAT's XML, Supervisely, YOLO; and others, by name.

Each of these has outlines for every image, which `Outlines` paints as those of COCO. Exports that
are not read are in `REFUSED`, with what to export instead.
"""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, TypeVar
from xml.etree import ElementTree

import numpy as np
from msgspec import Meta, Struct
from msgspec import field as msgspec_field
from numpy.typing import NDArray

from rtseg.datasets.classes import BACKGROUND, label_set, read_names
from rtseg.datasets.coco import (
    Outline,
    Outlines,
    Pixels,
    decoded,
    folders_near,
    run_lengths,
)
from rtseg.datasets.contract import Dataset, Layout, Problem, Sample
from rtseg.datasets.folders import (
    SPLITS,
    SUFFIXES,
    images_in,
    images_under,
    read_lines,
    repeated,
    short_names,
    split_of,
    split_rank,
)
from rtseg.documents import convert, read_json, read_yaml
from rtseg.errors import DatasetError
from rtseg.images import read_shape
from rtseg.labels import VOID, fold, is_background
from rtseg.text import composed, counted, first_characters, listed, natural_key, spellings

T = TypeVar("T")

MAX_SIDE = 1 << 16
"""Limit of the sides of images, and of the coordinates of bitmaps in them."""

IGNORED = fold("__ignore__")
"""labelme's name, folded, of regions that belong to no class."""

NO_AREA = "objects without an outline (boxes, lines and points are not enough)"


@dataclass(frozen=True)
class Drawing:
    """One image and its outlines.

    Attributes:
        file: where the outlines are.
        objects: (number, class name, segmentation as in `Outline`).
        size: (height, width) given by the file, or None.
        key: unique in the dataset.
    """

    file: Path
    image: Path
    objects: list[tuple[Any, str, Any]]
    size: tuple[int, int] | None
    split: str
    key: str


@dataclass
class _Found:
    """The drawings found so far."""

    root: Path
    drawings: dict[str, Drawing] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        file: Path,
        image: Path | None,
        objects: Iterable[tuple[Any, str, Any]],
        *,
        size: tuple[int, int] | None = None,
        split: str = "",
        name: str = "",
    ) -> None:
        """Add an image, and problems if it does not exist or objects have no area.

        Args:
            image: None if there is no such file.
            objects: with None as the segmentation of an object without an area.
            split: that of a folder of the image, if "".
            name: of the image in the file.
        """
        if image is None:
            self.problems.append(Problem(file, f"its image {name} does not exist", split))
            return
        key = _key(self.root, image)
        split = SPLITS.get(split.casefold(), split) or _split_of(key)
        if key in self.drawings:
            self.problems.append(Problem(file, f"{name or key} is annotated twice", split))
            return
        objects = list(objects)
        lost = [number for number, _, segmentation in objects if segmentation is None]
        if lost:
            self.problems.append(Problem(file, f"{NO_AREA}: {listed(lost)}", split))
        whole = [each for each in objects if each[2] is not None]
        self.drawings[key] = Drawing(file, image, whole, size, split, key)

    def dataset(
        self, format: str, names: Sequence[str] = (), *, shares: bool = False, layered: bool = False
    ) -> Dataset:
        """The drawings as a dataset.

        Args:
            names: the classes, in order; without them, those in use by name.
            shares, layered: as in `Outlines`.

        Raises:
            DatasetError: no object has a class.
        """
        drawn = sorted(
            self.drawings.values(), key=lambda one: (split_rank(one.split), natural_key(one.key))
        )
        used = {name for one in drawn for _, name, _ in one.objects}
        known = [*names, *sorted(used - set(names), key=natural_key)]
        known = [name for name in known if fold(name) != IGNORED]
        nothing = next(filter(is_background, known), BACKGROUND)
        classes = [nothing, *(name for name in known if name != nothing)]
        if len(classes) < 2 and drawn:
            raise DatasetError(f"no outlines in {self.root}", found="no object has a class")
        index_of = {name: index for index, name in enumerate(classes)}
        samples = [
            Sample(
                name,
                one.image,
                Outlines(
                    one.file,
                    one.image,
                    one.size,
                    tuple(Outline(n, index_of.get(c, VOID), s) for n, c, s in one.objects),
                    shares,
                    layered,
                ),
                one.split,
            )
            for name, one in zip(short_names([one.key for one in drawn]), drawn, strict=True)
        ]
        labels = label_set(classes if drawn else (BACKGROUND, "object"), self.root)
        notes = tuple(self.notes)
        return Dataset(self.root, format, labels, tuple(samples), tuple(self.problems), notes)


def _key(root: Path, image: Path) -> str:
    """Folders and stem, without folders that only say that these are images."""
    base = root if root.is_dir() else root.parent
    try:
        path = image.relative_to(base)
    except ValueError:
        path = Path(image.name)
    parts = [part for part in path.parts[:-1] if part.casefold() not in ("images", "img")]
    return PurePosixPath(*parts, path.stem).as_posix()


def _split_of(key: str) -> str:
    """The split that a folder names, as in train or train2017; else ""."""
    return next(filter(None, map(split_of, key.split("/")[:-1])), "")


def _find_image(folders: Iterable[Path], *names: str) -> Path | None:
    """The first file that exists: by its path in any folder, else by the last part of it."""
    written = [one for name in names for one in spellings(name.replace("\\", "/"))]
    paths = [PurePosixPath(name) for name in written if name]
    tried = [*paths, *(PurePosixPath(path.name) for path in paths)]
    homes = list(folders)
    for one in (Path(os.path.normpath(folder / path)) for path in tried for folder in homes):
        if one.suffix.lower() in SUFFIXES and one.is_file():
            return one
    return None


Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Coordinate = Annotated[int, Meta(ge=-MAX_SIDE, le=MAX_SIDE)]
Point = list[Finite]


def _flat(points: Any) -> list[float] | None:
    """[[x, y], ...] as [x, y, ...]; None for less than a triangle or for something else."""
    try:
        flat = [float(value) for x, y in points for value in (x, y)]
    except (TypeError, ValueError):
        return None
    return flat if len(flat) >= 6 else None


def _ellipse(x: float, y: float, width: float, height: float, degrees: float = 0) -> list[float]:
    """A polygon of 64 corners; `width` and `height` are radii, `degrees` turn it clockwise."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    across, down = width * np.cos(angles), height * np.sin(angles)
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    ring = [x + across * cosine - down * sine, y + across * sine + down * cosine]
    return [float(value) for value in np.stack(ring, axis=1).ravel()]


MAX_BITMAP_BYTES = 64 << 20


def _png(text: str, packed: bool) -> NDArray[np.bool_]:
    """(h, w) bool from a PNG as base64 text: opaque pixels, else those above 0.

    Args:
        packed: compressed by zlib as well.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = base64.b64decode(text)
        if packed:
            unpacking = zlib.decompressobj()
            content = unpacking.decompress(content, MAX_BITMAP_BYTES)
            if unpacking.unconsumed_tail:
                raise ValueError(f"it is larger than {MAX_BITMAP_BYTES >> 20} MB")
        return read_shape(content)
    except (zlib.error, OSError, ValueError) as error:
        raise ValueError(f"its bitmap cannot be read: {error}") from error


# labelme


class _Shape(Struct):
    points: list[Point] | None = None
    shape_type: str | None = None
    label: str | int | float | None = None
    mask: str | None = None


class _Labelme(Struct):
    """What labelme says of an image."""

    shapes: list[_Shape]
    image_path: str | None = msgspec_field(name="imagePath", default=None)
    image_data: str | None = msgspec_field(name="imageData", default=None)
    height: Side | None = msgspec_field(name="imageHeight", default=None)
    width: Side | None = msgspec_field(name="imageWidth", default=None)


def index_labelme(root: Path) -> Dataset:
    """Every JSON file that names its image; objects lie over one another as in the file."""
    found = _Found(root)
    images_of = cache(images_in)
    files = [root] if root.is_file() else sorted(root.rglob("*.json"))
    for path in files:
        try:
            if not isinstance(value := read_json(path, Any, DatasetError), dict):
                continue
            if "shapes" not in value:
                continue
            file = convert(value, _Labelme, str(path), DatasetError)
        except DatasetError as error:
            found.problems.append(Problem(path, error.found))
            continue
        names = [file.image_path or "", *_same_stem(images_of(path.parent), path.stem)]
        objects = [_labelme_object(n, each) for n, each in enumerate(file.shapes, 1)]
        beside = (path.parent, path.parent.parent / "images", path.parent.parent)
        image = _find_image(beside, *names)
        if image is None and file.image_data:
            message = f"its image is only in it (imageData): save that as {names[0]} beside it"
            found.problems.append(Problem(path, message))
            continue
        size = (file.height, file.width) if file.height and file.width else None
        found.add(path, image, objects, size=size, name=names[0])
    if root.is_dir():
        used = {drawing.image.resolve() for drawing in found.drawings.values()}
        if left := sum(path.resolve() not in used for path in images_under(root)):
            found.notes.append(f"{counted(left, 'image')} without a JSON file left out")
    lists = [root / name for name in ("labels.txt", "classes.txt")]
    named = next((read_names(path).names for path in lists if path.is_file()), ())
    return found.dataset("labelme", named, layered=True)


def _same_stem(images: dict[str, list[Path]], stem: str) -> list[str]:
    return [path.name for path in images.get(composed(stem), [])]


def _labelme_object(number: int, shape: _Shape) -> tuple[int, str, Any]:
    points, kind = shape.points or [], shape.shape_type or "polygon"
    two = len(points) == 2 and all(len(point) == 2 for point in points)
    outline: Any = None
    if kind == "mask" and shape.mask and two:
        x, y = points[0]
        outline = Pixels(round(x), round(y), partial(_png, shape.mask, packed=False))
    elif kind == "rectangle" and two:
        (x0, y0), (x1, y1) = points
        outline = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    elif kind == "circle" and two:
        (x, y), (there_x, there_y) = points
        radius = float(np.hypot(there_x - x, there_y - y))
        outline = [_ellipse(x, y, radius, radius)]
    elif kind in ("polygon", "rectangle", "oriented_rectangle") and (flat := _flat(points)):
        outline = [flat]
    return number, str(shape.label), outline


def _is_labelme(path: Path) -> bool:
    text = _beginning(path)
    keys = r'"(?:imagePath|imageData|flags|lineColor)"'
    return bool(re.search(r'"shapes"\s*:\s*\[', text) and re.search(keys, text))


# CVAT


class _CvatImage(Struct):
    name: str = ""
    subset: str = ""
    height: Annotated[float, Meta(ge=0, le=MAX_SIDE)] = 0
    width: Annotated[float, Meta(ge=0, le=MAX_SIDE)] = 0


class _CvatShape(Struct):
    """The attributes of polygons, ellipses and masks together."""

    label: str = ""
    z_order: Annotated[int, Meta(ge=-(2**31), le=2**31)] = 0
    points: str = ""
    rle: str = ""
    cx: Finite = 0
    cy: Finite = 0
    rx: Finite = 0
    ry: Finite = 0
    rotation: Finite = 0
    left: Finite = 0
    top: Finite = 0
    width: Finite = 0
    height: Finite = 0


def _attributes(element: ElementTree.Element, kind: type[T], path: Path) -> T:
    """The attributes of an element; raises DatasetError."""
    return convert(dict(element.attrib), kind, str(path), DatasetError, strict=False)


def index_cvat(root: Path) -> Dataset:
    """Every image of "CVAT for images"; objects lie over one another by their z order.

    Raises:
        DatasetError: a file cannot be read, or is of a video.
    """
    found = _Found(root)
    labels: dict[str, None] = {}
    for path in _xml_files(root):
        try:
            tree = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise DatasetError(f"cannot read {path}", found=f"it is not XML: {error}") from error
        labels.update(dict.fromkeys(e.text or "" for e in tree.findall("./meta//label/name")))
        bases = folders_near(path, root)
        for image in tree.iter("image"):
            about = _attributes(image, _CvatImage, path)
            name, subset = about.name, about.subset
            ends = ("images", f"images/{subset}", subset, "data", ".")
            file = _find_image([base / end for base in bases for end in ends], name)
            size = round(about.height), round(about.width)
            split = SPLITS.get(subset.casefold(), "")
            shapes = [(_attributes(shape, _CvatShape, path), shape.tag) for shape in image]
            ordered = sorted(shapes, key=lambda shape: shape[0].z_order)
            objects = [_cvat_object(n, *e) for n, e in enumerate(ordered, 1) if e[1] != "tag"]
            found.add(path, file, objects, size=size if all(size) else None, split=split, name=name)
    return found.dataset("cvat", list(filter(None, labels)), layered=True)


def _cvat_object(number: int, shape: _CvatShape, tag: str) -> tuple[int, str, Any]:
    outline: Any = None
    if tag == "polygon":
        points = (pair.split(",") for pair in shape.points.split(";"))
        flat = _flat(points)
        outline = [flat] if flat else None
    elif tag == "ellipse":
        outline = [_ellipse(shape.cx, shape.cy, shape.rx, shape.ry, shape.rotation)]
    elif tag == "mask":
        left, top, width, height = map(round, (shape.left, shape.top, shape.width, shape.height))
        outline = Pixels(left, top, partial(_rows, shape.rle, height, width))
    return number, shape.label, outline


def _rows(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """(h, w) bool from run lengths along the rows, beginning with pixels outside."""
    lengths = [int(word) for word in text.split(",")]
    if max(height, width) > MAX_SIDE or sum(lengths) != height * width or min(lengths) < 0:
        raise ValueError(f"its runs cover {sum(lengths)} of {height * width} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def _xml_files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else _some(root, (".xml",), most=100)
    return [path for path in files if _is_cvat(path)]


def _is_cvat(path: Path) -> bool:
    text = _beginning(path)
    return path.suffix.lower() == ".xml" and "<annotations" in text and "<image " in text


# Supervisely


class _Tag(Struct):
    name: str = ""


class _Size(Struct):
    height: Side
    width: Side


class _Corners(Struct):
    exterior: list[Point]
    interior: list[list[Point]] | None = None


class _Bitmap(Struct):
    origin: tuple[Coordinate, Coordinate]
    data: str


class _SuperviselyObject(Struct):
    kind: str | None = msgspec_field(name="geometryType", default=None)
    title: str | None = msgspec_field(name="classTitle", default=None)
    points: _Corners | None = None
    bitmap: _Bitmap | None = None


class _Supervisely(Struct):
    """What Supervisely says of an image."""

    size: _Size
    objects: list[_SuperviselyObject]
    tags: list[_Tag] | None = None


class _SuperviselyClass(Struct):
    title: str


class _SuperviselyMeta(Struct):
    classes: list[_SuperviselyClass] = []


def index_supervisely(root: Path) -> Dataset:
    """Every `ann/a.jpg.json` with its `img/a.jpg`; objects lie over one another as in the file.

    Raises:
        DatasetError: the project's meta.json cannot be read.
    """
    found = _Found(root)
    meta = (root if _is_project(root) else root.parent) / "meta.json"
    classes = read_json(meta, _SuperviselyMeta, DatasetError).classes
    images_of = cache(images_in)
    for path in sorted(file for folder in _ann_folders(root) for file in folder.glob("*.json")):
        try:
            value = read_json(path, _Supervisely, DatasetError)
        except DatasetError as error:
            found.problems.append(Problem(path, error.found))
            continue
        size = value.size.height, value.size.width
        objects = [_supervisely_object(n, each, size) for n, each in enumerate(value.objects, 1)]
        tags = [tag.name.casefold() for tag in value.tags or []]
        split = next((SPLITS[tag] for tag in tags if tag in SPLITS), "")
        images = path.parent.parent / "img"
        names = [path.stem, *_same_stem(images_of(images), path.stem)]
        found.add(
            path, _find_image([images], *names), objects, size=size, split=split, name=names[0]
        )
    return found.dataset("supervisely", [one.title for one in classes], layered=True)


def _supervisely_object(
    number: int, one: _SuperviselyObject, size: tuple[int, int]
) -> tuple[int, str, Any]:
    outline: Any = None
    if one.kind == "bitmap" and one.bitmap:
        left, top = one.bitmap.origin
        outline = Pixels(left, top, partial(_png, one.bitmap.data, packed=True))
    elif one.kind == "polygon" and one.points and (flat := _flat(one.points.exterior)):
        holes = [hole for hole in map(_flat, one.points.interior or []) if hole]
        outline = [flat]
        if holes:
            outline = Pixels(0, 0, partial(_with_holes, flat, holes, *size))
    return number, str(one.title), outline


def _with_holes(
    outer: list[float], holes: list[list[float]], height: int, width: int
) -> NDArray[np.bool_]:
    """(H, W) bool: a polygon without its holes."""
    whole, cut = (decoded(run_lengths(part, height, width)).T for part in ([outer], holes))
    return np.logical_and(whole, ~cut)


def _ann_folders(root: Path) -> list[Path]:
    found = [*root.glob("ann"), *root.glob("*/ann"), *root.glob("*/*/ann"), *root.glob("*/*/*/ann")]
    return sorted(path for path in found if (path.parent / "img").is_dir())


def _is_project(path: Path) -> bool:
    return '"classes"' in _beginning(path / "meta.json")


def _is_supervisely(path: Path) -> bool:
    return (_is_project(path) or _is_project(path.parent)) and bool(_ann_folders(path))


# YOLO


def index_yolo(root: Path) -> Dataset:
    """Every image whose folder has labels; smaller objects lie over larger ones.

    Splits are folders or lists of images. An image without a file of labels has no objects, if
    others in its folder have labels.

    Raises:
        DatasetError: there are no class names, or only boxes.
    """
    base = root if root.is_dir() else root.parent
    found = _Found(base)
    settings = _yolo_settings(root)
    if "kpt_shape" in settings:
        raise DatasetError(f"cannot use {root}", found="these are YOLO poses", do=_NOT_BOXES)
    names = _yolo_names(base, settings)
    without: dict[str, int] = defaultdict(int)
    counts = [0, 0]
    used: list[Path] = []
    files = ((image, _label_file(base, image)) for image in images_under(base))
    labels_of = {image: labels for image, labels in files if labels is not None}
    listing = _yolo_lists(base, settings, labels_of, found)
    listed_splits, unlisted = set(listing.values()), 0
    for image, labels in labels_of.items():
        folder = image.relative_to(base).parent.as_posix()
        if not labels.is_file() and not any(labels.parent.glob("*.txt")):
            without[folder] += 1
            continue
        used.append(labels)
        split = listing.get(image) or _yolo_split(image, base, settings)
        guessed = split or _split_of(_key(base, image))
        if image not in listing and guessed in listed_splits:
            unlisted += 1
            continue
        wrong, objects = [], []
        for number, line in enumerate(read_lines(labels) if labels.is_file() else (), 1):
            words = line.split()
            name = _class_name(words[0], names)
            counts[len(words) == 5] += 1
            if name is None:
                wrong.append(number)
            else:
                objects.append((f"line {number}", name, _yolo_outline(words[1:])))
        if wrong:
            message = f"its class is not one of {len(names)}, in line {listed(wrong)}"
            found.problems.append(Problem(labels, message, split))
        found.add(labels, image, objects, split=split)
    if counts[1] and not counts[0]:
        raise DatasetError(
            f"cannot use the labels in {base}",
            found="they are YOLO boxes for detection, without outlines",
            do="Export the dataset for segmentation (YOLO polygons, COCO or masks).",
        )
    problems, notes = _unused_labels(used, [path for path in used if not path.is_file()])
    found.problems += problems
    found.notes += notes
    if unlisted:
        found.notes.append(f"{counted(unlisted, 'image')} in no list of its split left out")
    if without:
        rest = listed([f"{count} in {folder}/" for folder, count in without.items()])
        found.notes.append(f"images without labels are left out: {rest}")
    return found.dataset("yolo", names, shares=True)


def _label_file(base: Path, image: Path) -> Path | None:
    """labels/a.txt for images/a.jpg; None if there is no such folder."""
    parts = image.relative_to(base).parts
    for at in reversed(range(len(parts) - 1)):
        if parts[at].casefold() == "images":
            other = base.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
            files = (other.with_name(name) for name in spellings(other.name))
            found = next(filter(Path.is_file, files), other)
            return found if other.parent.is_dir() else None
    return None


def _unused_labels(used: Iterable[Path], empty: Iterable[Path]) -> tuple[list[Problem], list[str]]:
    """Files of labels without an image: problems beside images without labels, else a note.

    An image without labels has no objects; but if its labels only have another name, they are lost.

    Args:
        used, empty: the files of labels of all images, and those of them that do not exist.
    """
    names: dict[Path, set[str]] = defaultdict(set)
    for path in used:
        names[path.parent].add(path.name)
    lacking = {path.parent for path in empty}
    problems, left = [], 0
    for folder in sorted(names):
        others = sorted(path for path in folder.glob("*.txt") if path.name not in names[folder])
        others = [path for path in others if path.name != "classes.txt"]
        if folder in lacking:
            message = "there is no image with its name, and there are images without labels"
            problems += [Problem(path, message) for path in others]
        else:
            left += len(others)
    notes = [f"{counted(left, 'file')} of labels without an image left out"] if left else []
    return problems, notes


def _yolo_outline(words: Sequence[str]) -> list[list[float]] | None:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return [values] if len(values) >= 6 and len(values) % 2 == 0 else None


def _class_name(word: str, names: Sequence[str]) -> str | None:
    known = word.isdecimal() and len(word) < 9 and int(word) < len(names)
    return names[int(word)] if known else None


def _yolo_names(base: Path, settings: dict[str, list[str]]) -> list[str]:
    if names := settings.get("names"):
        return names
    for path in (base / "classes.txt", base / "labels" / "classes.txt", base / "obj.names"):
        if path.is_file():
            return list(read_names(path).names)
    raise DatasetError(
        f"no class names for the YOLO labels in {base}",
        do="Put a data.yaml with names, or a classes.txt, beside the folders.",
    )


def _yolo_split(image: Path, base: Path, settings: dict[str, list[str]]) -> str:
    """The split whose folder in data.yaml holds the image; "" leaves it to folders' names."""
    folder = f"/{image.relative_to(base).parent.as_posix()}/"
    for split in ("train", "val", "test"):
        for value in settings.get(split) or []:
            part = re.sub(r"^(?:\.{1,2}/)+", "", value.replace("\\", "/")).strip("/")
            if part and part != "images" and f"/{part}/" in folder:
                return split
    return ""


def _yolo_lists(
    base: Path, settings: dict[str, list[str]], images: Iterable[Path], found: _Found
) -> dict[Path, str]:
    """The split of each of the images that a text file of data.yaml names, one path a line.

    Lines that name none of them become problems; a list of test images that are not there, a note.
    """
    known = {_absolute(image): image for image in images}
    roots = [base / folder for folder in (*settings.get("path", ()), ".")]
    splits: dict[Path, str] = {}
    for split in ("train", "val", "test"):
        for value in settings.get(split) or []:
            if not value.lower().endswith(".txt"):
                continue
            path = _list_inside(base, [root / value for root in roots])
            lines = read_lines(path) if path else []
            here = [path.parent, *roots] if path else []
            named = {
                line: next((known[p] for r in here if (p := _absolute(r / line)) in known), None)
                for line in lines
            }
            if not any(named.values()):
                why = f"none of its {counted(len(lines), 'line')} names a labelled image"
                why = why if path else "there is no such list in the dataset"
                if split == "test":
                    found.notes.append(f"{value} left out: {why}")
                else:
                    found.problems.append(Problem(path or base / value, why, split))
                continue
            messages = [f"{line} is listed twice" for line in repeated(lines)]
            for line, image in named.items():
                if image is None:
                    messages.append(f"there is no labelled image named {line}")
                elif splits.setdefault(image, split) != split:
                    messages.append(f"{line} is also in {splits[image]}, where it stays")
            found.problems += [Problem(path or base, message, split) for message in messages]
    return splits


def _list_inside(base: Path, paths: Iterable[Path]) -> Path | None:
    """The first that is a file in the dataset's folder."""
    home = os.path.realpath(base)
    inside = (path for path in paths if Path(os.path.realpath(path)).is_relative_to(home))
    return next(filter(Path.is_file, inside), None)


def _absolute(path: Path) -> str:
    return composed(os.path.normpath(path.absolute()))


def _yolo_settings(root: Path) -> dict[str, list[str]]:
    """What data.yaml says by its keys: names, folders or lists of splits, whether it is of poses.

    Raises:
        DatasetError: `root` is a file that is not YAML, or a value is neither a text nor several.
    """
    beside = [*sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]
    for path in [root] if root.is_file() else beside:
        try:
            found = read_yaml(path, DatasetError)
        except DatasetError:
            if path == root or path.stem in ("data", "dataset"):
                raise
            continue
        if isinstance(found, dict) and ("names" in found or root.is_file()):
            return {key: _texts(path, key, found[key]) for key in _YOLO_KEYS if key in found}
    return {}


_YOLO_KEYS = ("path", "names", "train", "val", "test", "kpt_shape")


def _texts(path: Path, key: str, value: Any) -> list[str]:
    """A text, a list, or a mapping from numbers, as a list."""
    if isinstance(value, dict) and all(str(number).isdecimal() for number in value):
        ordered = sorted(value, key=natural_key)
        if ordered != [str(number) for number in range(len(value))]:
            raise DatasetError(f"cannot read {key} in {path}", found="they are not 0, 1, 2, ...")
        value = [value[number] for number in ordered]
    texts: list[str] = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(text, str) for text in texts):
        raise DatasetError(f"cannot read {key} in {path}", found="it is not a list of texts")
    return texts


def _is_yolo(path: Path) -> bool:
    """Whether labels/ beside images/ hold text files of numbers."""
    base = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml"):
        return False
    files = [
        file for file in _some(base, (".txt",), most=20) if "labels" in file.relative_to(base).parts
    ]
    return any(re.match(_YOLO_LINE, _beginning(file)) for file in files)


_YOLO_LINE = r"\s*\d+(?:\s+[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?){4}"


# Recognition


def _beginning(path: Path) -> str:
    """The beginning of a text file; "" if it cannot be read."""
    try:
        return first_characters(path)
    except OSError:
        return ""


def _some(root: Path, suffixes: Sequence[str], most: int = 3) -> list[Path]:
    """The first files with these suffixes in the folder, and in each of three levels below."""
    found: list[Path] = []
    level = [root]
    for _ in range(4):
        below: list[Path] = []
        for folder in level:
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue  # the layout that needs it reports it
            below += sorted(Path(entry.path) for entry in entries if entry.is_dir())
            for suffix in suffixes:
                names = sorted(e.name for e in entries if e.name.lower().endswith(suffix))
                found += [folder / name for name in names[:most] if (folder / name).is_file()]
        level = below
    return found


class Refused(NamedTuple):
    """An export that is recognised and not read.

    Attributes:
        name: of the tool and format.
        suffixes: of its files.
        text: a regular expression that the beginning of a file matches; "" for any content.
        do: what to export instead.
    """

    name: str
    suffixes: tuple[str, ...]
    text: str
    do: str


_AS_COCO = "Export it as COCO."
_NOT_BOXES = "Export outlines: COCO with polygons, or masks."

REFUSED = (
    Refused(
        "Label Studio export",
        (".json", ".csv", ".tsv"),
        r'"(?:polygonlabels|brushlabels|rectanglelabels|keypointlabels|completed_by)"',
        'Export it as COCO (polygons), or as "Brush labels to COCO".',
    ),
    Refused("VGG Image Annotator project", (".json",), r'"shape_attributes"|"_via_', _AS_COCO),
    Refused(
        "Labelbox export", (".json", ".ndjson", ".jsonl"), r'"data_row"|"Labeled Data"', _AS_COCO
    ),
    Refused(
        "Datumaro export",
        (".json",),
        r'"dm_format_version"|"categories"\s*:\s*\{\s*"label"',
        _AS_COCO,
    ),
    Refused("FiftyOne dataset", (".json",), r'"filepath"\s*:[\s\S]*"_cls"|"_cls"', _AS_COCO),
    Refused("V7 Darwin export", (".json",), r"darwin-json-schema|darwin_json", _AS_COCO),
    Refused("SuperAnnotate export", (".json",), r'"instances"[\s\S]*"className"', _AS_COCO),
    Refused(
        "set of Cityscapes polygons",
        (".json",),
        r'"imgHeight"[\s\S]*"objects"',
        "Make masks of it: csCreateTrainIdLabelImgs writes *_labelTrainIds.png.",
    ),
    Refused(
        "COCO panoptic file", (".json",), r'"segments_info"', "Use the instances_*.json beside it."
    ),
    Refused("CreateML export", (".json",), r'"coordinates"\s*:\s*\{', _NOT_BOXES),
    Refused(
        "CVAT video export",
        (".xml",),
        r"<annotations[\s\S]*<track ",
        'Export it as COCO or "Segmentation mask".',
    ),
    Refused("CVAT backup", (".json",), r'"data_chunk_size"|"start_frame"', _AS_COCO),
    Refused("LabelMe (MIT) file", (".xml",), r"<annotation>[\s\S]*<polygon>", _AS_COCO),
    Refused("FiftyOne detection set", (".json",), r'"bounding_box"', _NOT_BOXES),
    Refused("Pascal VOC detection set", (".xml",), r"<annotation[\s\S]*<bndbox", _NOT_BOXES),
    Refused(
        "set of YOLO labels without images/ and labels/",
        (".txt",),
        rf"\A{_YOLO_LINE}",
        "Export it as YOLO for segmentation, or as COCO.",
    ),
    Refused("TFRecord file", (".tfrecord", ".tfrecords"), "", _AS_COCO),
    Refused("Parquet or Arrow table", (".parquet", ".arrow"), "", "Save its images and masks."),
    Refused("archive", (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "", "Unpack it."),
)
"""Exports that are refused by name."""


def refused(root: Path) -> DatasetError | None:
    """An error that names the export that a folder or file is, or None."""
    suffixes = {suffix for row in REFUSED for suffix in row.suffixes}
    for path in [root] if root.is_file() else _some(root, tuple(suffixes)):
        text = _beginning(path)
        for row in REFUSED:
            if not row.text and root.is_dir() and any(images_under(root)):
                continue
            if path.suffix.lower() in row.suffixes and re.search(row.text, text):
                article = "an" if row.name[0] in "aeiou" else "a"
                return DatasetError(
                    f"cannot use {root}",
                    found=f"this is {article} {row.name} ({path.name})",
                    do=row.do,
                )
    return None


def _matches_labelme(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".json" and _is_labelme(path)
    return any(map(_is_labelme, _some(path, (".json",))))


LABELME = Layout("a JSON file of labelme beside each image", _matches_labelme, index_labelme)
CVAT = Layout(
    'annotations.xml ("CVAT for images") and its images',
    lambda path: bool(_xml_files(path)),
    index_cvat,
)
SUPERVISELY = Layout(
    "meta.json, and folders with img/a.jpg and ann/a.jpg.json", _is_supervisely, index_supervisely
)
YOLO = Layout(
    "images/a.jpg, labels/a.txt with polygons, and data.yaml with names", _is_yolo, index_yolo
)
