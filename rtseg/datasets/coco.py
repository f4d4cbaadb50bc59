"""COCO JSON: the files, their categories and outlines, and where their images lie."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from pycocotools import mask as runs

from rtseg.datasets.classes import label_set
from rtseg.datasets.contract import (
    Dataset,
    Layout,
    Problem,
    Sample,
    Table,
    check_fits,
    fit_to_image,
)
from rtseg.datasets.folders import SPLITS, short_names, split_of, split_rank
from rtseg.documents import read_json, shown
from rtseg.errors import DatasetError
from rtseg.frame import Mask
from rtseg.images import image_size
from rtseg.labels import MAX_NAME, VOID, is_background
from rtseg.limits import OUTLINE_PIXELS, OUTLINES
from rtseg.text import first_characters, listed, natural_key, read_text, spellings

ROBOFLOW = "_annotations.coco.json"
OWN = "instances_"
"""Prefix of COCO's own files of objects; captions and keypoints lie beside them."""

FILES = ("*.json", "annotations/*.json", f"*/{ROBOFLOW}", "*/annotations/*.json")
"""Where files lie; others may lie in a folder named like a split, as FiftyOne's do."""

MOSTLY = 0.5
"""Crowds are objects if more than this share of all annotations are crowds."""

FEW = 5
"""Crowds of a category are objects, too, if it has this many annotations, and nearly all are."""

MAX_PERIMETER = 4_000_000
"""Pixels along a polygon; pycocotools takes some 100 bytes for each."""

MAX_SHIFT = 60
"""Bits of one run length."""

NO_CROWD = ("0", "0.0", "false")
"""What `iscrowd` of an ordinary object is, as text."""

Key = int | float | str
"""An id, or a name."""


class CocoImage(Struct):
    """An image that a file names."""

    id: Key
    file_name: Key
    height: Any = None
    width: Any = None


class CocoAnnotation(Struct):
    """An object. What is wrong with one that cannot be used is found when it is, and named."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    iscrowd: Key | bool | None = None
    segmentation: Any = None


class CocoCategory(Struct):
    """A class."""

    id: Key
    name: Key
    supercategory: Any = None


class _Content(Struct):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


Runs = dict[str, Any]
"""pycocotools' compressed run lengths: {"size": [h, w], "counts": bytes}."""


def is_key(value: Any) -> bool:
    """Whether a value can be an id or a name."""
    return isinstance(value, Key)


@dataclass(frozen=True)
class CocoFile:
    """One JSON file."""

    path: Path
    split: str
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def find_files(root: Path) -> list[tuple[Path, str]]:
    """The COCO JSON files below a folder, or the file itself, each with its split ("" if none)."""
    if root.is_file():
        return [(root, _split_of(root))] if root.suffix.lower() == ".json" else []
    of_splits = [path for path in root.glob("*/*.json") if split_of(path.parent.name)]
    found = sorted({*of_splits, *(path for pattern in FILES for path in root.glob(pattern))})
    found = [path for path in found if path.is_file() and _is_coco(path)]
    own = [path for path in found if path.name.startswith(OWN)]
    return [(path, _split_of(path)) for path in own or found]


def _is_coco(path: Path) -> bool:
    if path.name == ROBOFLOW or path.name.startswith(OWN):
        return True
    keys = ('"images"', '"annotations"', '"categories"')
    try:
        if _is_labelme(path):  # often large
            return False
        content = read_text(path)
    except (OSError, UnicodeDecodeError):
        return False
    return content.lstrip()[:1] == "{" and all(key in content for key in keys)


def _is_labelme(path: Path) -> bool:
    return re.search(r'"shapes"\s*:\s*\[', first_characters(path)) is not None


def _split_of(path: Path) -> str:
    """The split that the file's name contains, else the split that its folder is named after."""
    for word in re.split(r"[^a-z]+", path.stem.casefold()):
        if word in SPLITS:
            return SPLITS[word]
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    return split_of(folder.name)


def read_file(path: Path, split: str) -> CocoFile:
    """Read one file.

    Raises:
        DatasetError: it is not JSON, or not in the COCO format.
    """
    content = read_json(path, _Content, DatasetError, most_bytes=None)
    for annotation in content.annotations:
        outline = annotation.segmentation
        if isinstance(outline, list) and outline and isinstance(outline[0], (int, float)):
            annotation.segmentation = [outline]  # one polygon, not in a list of polygons
        if str(annotation.iscrowd or "0").casefold() not in (*NO_CROWD, "1", "1.0", "true"):
            raise DatasetError(
                f"cannot read {path}",
                found=f"iscrowd of annotation {shown(annotation.id)} is "
                f"{shown(annotation.iscrowd)}, not 0 or 1",
            )
    return CocoFile(path, split, content.images, content.annotations, content.categories)


@dataclass(frozen=True)
class Categories:
    """The classes of all files together: background, then the categories by id.

    Attributes:
        class_of: category id -> class.
        notes: information for the user.
    """

    names: tuple[str, ...]
    class_of: dict[Any, int]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, files: Sequence[CocoFile]) -> Categories:
        """Merge the categories of all files.

        Raises:
            DatasetError: two files give one id different names, or there are no categories.
        """
        records = _merged(files)
        notes = []
        top = _unused_superclass(files, records)
        if top is not None:
            name = records.pop(top).name
            notes.append(
                f"category {top}, {name}, is the unused superclass of the others and left out"
            )
        if not records:
            raise DatasetError(f"no categories in {files[0].path}")
        nothing = [n for n, r in records.items() if is_background(str(r.name))]
        things = [number for number in sorted(records, key=_by_number) if number not in nothing[:1]]
        first = str(records[nothing[0]].name) if nothing else "background"
        class_of = dict.fromkeys(nothing[:1], 0) | {n: i for i, n in enumerate(things, 1)}
        return cls((first, *(str(records[n].name) for n in things)), class_of, notes)


def _by_number(number: Any) -> tuple[bool, Any]:
    """A sort key: numbers before words."""
    return isinstance(number, str), number


def _merged(files: Sequence[CocoFile]) -> dict[Any, CocoCategory]:
    records: dict[Any, CocoCategory] = {}
    for file in files:
        for record in file.categories:
            before = records.setdefault(record.id, record)
            if before.name != record.name:
                raise DatasetError(
                    f"cannot use {file.path}",
                    found=f"it names category {shown(record.id)} {shown(record.name)}, another "
                    f"file {shown(before.name)}",
                )
    return records


def _unused_superclass(files: Sequence[CocoFile], records: dict[Any, CocoCategory]) -> Any:
    """The id of Roboflow's category 0, the superclass of the others, if no annotation uses it."""
    used = any(each.category_id == 0 for file in files for each in file.annotations)
    above = [record.supercategory for number, record in records.items() if number != 0]
    return 0 if 0 in records and not used and records[0].name in above else None


def folders_near(path: Path, root: Path) -> list[Path]:
    """The folder of a file and the one above it; only the first if that is `root`."""
    beside = path.parent
    return [beside, beside.parent] if root.is_file() or beside != root else [beside]


class ImageFinder:
    """Finds the images of one file in the usual folders."""

    def __init__(self, file: CocoFile, root: Path) -> None:
        bases = folders_near(file.path, root)
        raw = re.sub(rf"^{OWN}|\.json$", "", file.path.name)
        folders = [raw, file.split, *(k for k, v in SPLITS.items() if v == file.split), "default"]
        starts = ("", "images/", "data/")
        ends = [f"{start}{folder}" for start in starts for folder in folders if folder]
        self._folders = [base / end for base in bases for end in (*ends, "images", "data", ".")]
        self._folders = [folder for folder in self._folders if folder.is_dir()]

    @property
    def folders(self) -> list[Path]:
        """Where it looks."""
        return list(dict.fromkeys(self._folders))

    def find(self, file_name: str) -> Path | None:
        """The image by its file name, else by the last part of it; None if it does not exist."""
        path = Path(str(file_name).replace("\\", "/"))
        names = (name for part in (str(path), path.name) for name in spellings(part))
        for name in dict.fromkeys(names):
            for folder in self._folders:
                if _is_file(folder / name):
                    self._folders.remove(folder)
                    self._folders.insert(0, folder)  # the next one is probably there too
                    return folder / name
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long for one
        return False


@dataclass(frozen=True)
class Outline:
    """The outline of one annotated object.

    Attributes:
        number: the annotation's id.
        class_index: of the dataset's labels; VOID for a crowd, which is not scored.
        segmentation: as in the JSON: polygons or run lengths, compressed or not; or `Pixels`.
    """

    number: Any
    class_index: int
    segmentation: Any


@dataclass(frozen=True)
class Pixels:
    """An object as pixels of the image.

    Attributes:
        left, top: where they begin in the image, which may cut them off.
        read: returns them as (h, w) bool; raises ValueError.
    """

    left: int
    top: int
    read: Callable[[], NDArray[np.bool_]] = field(repr=False)

    def runs(self, height: int, width: int) -> Runs:
        """As compressed run lengths of the whole image."""
        pixels = self.read()[max(0, -self.top) :, max(0, -self.left) :]
        top, left = max(0, self.top), max(0, self.left)
        canvas = np.zeros((height, width), np.uint8, order="F")
        part = canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        part[:] = pixels[: part.shape[0], : part.shape[1]]
        packed: Runs = runs.encode(canvas)
        return packed


@dataclass(frozen=True)
class Outlines:
    """All outlines of one image; calling it paints the mask.

    Attributes:
        path: the JSON file.
        size: (height, width) given by the file, or None.
        shares: whether coordinates are shares of the width and height, 0 to 1, and not pixels.
        layered: whether later objects lie over earlier ones, whatever their size.
    """

    path: Path
    image_path: Path
    size: tuple[int, int] | None
    outlines: tuple[Outline, ...]
    shares: bool = False
    layered: bool = False

    def __call__(self) -> Mask:
        """(H, W) uint8: smaller objects over larger ones, all of them over crowds (255).

        Of two objects of equal size, the later one in the file is on top, as always if `layered`.

        Raises:
            DatasetError: an outline cannot be read, or the image has another size.
        """
        return self.read_as(np.arange(256, dtype=np.uint8))

    def read_as(self, table: Table) -> Mask:
        """The mask in the classes of `table`; objects that become background are not painted."""
        what = f"the outlines of {self.path}"
        if len(self.outlines) > (most := OUTLINES.value()):
            raise DatasetError(
                f"cannot use {what}",
                found=f"{self.image_path.name} has {len(self.outlines)} objects, "
                f"more than {most:.0f}",
                do=OUTLINES.advice,
            )
        if self.size is not None:  # before there is room made for it
            check_fits(self.size, what, self.image_path)
        height, width = self.size or image_size(self.image_path, DatasetError)
        columns = np.full((width, height), table[0], np.uint8)  # column-major, like run lengths
        shown = [outline for outline in self.outlines if table[outline.class_index] != table[0]]
        drawn = [(outline, self._runs(outline, height, width)) for outline in shown]
        if not self.layered:
            drawn.sort(key=lambda pair: (pair[0].class_index != VOID, -int(runs.area(pair[1]))))
        left = OUTLINE_PIXELS.value()
        for outline, lengths in drawn:
            left -= paint(columns, lengths, table[outline.class_index])
            if left < 0:
                raise DatasetError(
                    f"cannot use {what}",
                    found=f"the {len(shown)} objects of {self.image_path.name} cover more than "
                    f"{OUTLINE_PIXELS.value() / 1e6:.0f} megapixels",
                    do=OUTLINE_PIXELS.advice,
                )
        return fit_to_image(np.ascontiguousarray(columns.T), what, self.image_path)

    def _runs(self, outline: Outline, height: int, width: int) -> Runs:
        segmentation = outline.segmentation
        try:
            if isinstance(segmentation, Pixels):
                return segmentation.runs(height, width)
            if self.shares and isinstance(segmentation, list):
                segmentation = [_scaled(part, height, width) for part in segmentation]
            return run_lengths(segmentation, height, width)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DatasetError(
                f"cannot use annotation {outline.number} of {self.path}", found=str(error)
            ) from error


def has_outline(segmentation: Any) -> bool:
    """Whether an annotation has run lengths or a polygon of at least 3 points."""
    if isinstance(segmentation, dict):
        return bool(segmentation.get("counts"))
    return isinstance(segmentation, list) and any(_is_polygon(part) for part in segmentation)


def run_lengths(segmentation: Any, height: int, width: int) -> Runs:
    """Polygons, or run lengths of either kind, as compressed run lengths of the whole image.

    Raises:
        ValueError, TypeError, KeyError: it is none of these, or has another size.
    """
    if isinstance(segmentation, list):
        # fewer points have no area; pycocotools would take two points for a box
        polygons = [part for part in segmentation if _is_polygon(part)]
        _check_length(polygons, height, width)
        merged: Runs = runs.merge(runs.frPyObjects(polygons, height, width))
        return merged
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"its run lengths are for {size} (HxW), its image is {height}x{width}")
    lengths = counts if isinstance(counts, list) else _unpacked(counts)
    if not all(type(length) is int for length in lengths):
        raise ValueError("its counts are not whole numbers")
    # pycocotools leaves pixels that no run covers uninitialised
    if min(lengths, default=0) < 0:
        raise ValueError(f"a run has the length {min(lengths)}")
    if sum(lengths) != height * width:
        raise ValueError(f"its runs cover {sum(lengths)} of {height * width} pixels")
    packed: Runs = runs.frPyObjects({"size": size, "counts": lengths}, height, width)
    return packed


def _scaled(polygon: Any, height: int, width: int) -> Any:
    """A polygon in pixels, from shares of the width and height."""
    if not _is_polygon(polygon):
        return polygon
    with np.errstate(over="ignore"):  # such points are refused as far outside
        points = np.asarray(polygon, float).reshape(-1, 2) * (width, height)
    return points.ravel().tolist()


def _unpacked(text: str) -> list[int]:
    """Decode COCO's compressed counts: 5 bits per character, differences from the third run on.

    After rleFrString in maskApi.c of pycocotools.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > MAX_SHIFT:
            raise ValueError("its counts are not run lengths")
        if bits & 0x20:
            continue  # more of this number follows
        value -= (1 << shift) if bits & 0x10 else 0
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def paint(columns: NDArray[np.uint8], lengths: Runs, value: int) -> int:
    """Give the pixels of an object this value, and return how many were looked at.

    Only the columns that the object is in are decoded: of a large image with thousands of objects
    all the others would take minutes.

    Args:
        columns: (W, H) uint8, transposed.
    """
    height = columns.shape[1]
    counts = _unpacked(lengths["counts"].decode())
    first = counts[0] // height
    counts[0] -= first * height
    if len(counts) % 2:
        counts.pop()  # pixels after the object's last
    covered = sum(counts)
    count = -(-covered // height)
    if count:
        counts.append(count * height - covered)
        part = runs.frPyObjects({"size": [height, count], "counts": counts}, height, count)
        np.copyto(columns[first : first + count], value, where=decoded(part))
    return count * height


def decoded(lengths: Runs) -> NDArray[np.bool_]:
    """(W, H) bool, transposed."""
    with warnings.catch_warnings():
        # pycocotools' own arrays are older than the copy keyword of numpy 2
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        decoded: NDArray[np.uint8] = runs.decode(lengths)
    return decoded.T.view(np.bool_)


def _check_length(polygons: list[Any], height: int, width: int) -> None:
    """Raise ValueError for outlines so long that pycocotools would take all memory or time."""
    far = 2 * max(height, width)
    perimeter = 0.0
    for polygon in polygons:
        if not all(type(number) in (int, float) for number in polygon):
            raise ValueError("its points are not numbers")
        points = np.asarray(polygon, float).reshape(-1, 2)
        if not np.all(np.abs(points) <= far):  # also catches nan
            raise ValueError(f"its points lie far outside the image ({height}x{width})")
        perimeter += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
    if perimeter > MAX_PERIMETER:
        raise ValueError(f"its outline is {perimeter:.0f} pixels long")


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0


_ABSENT = "images that do not exist"
_ONE_FILE = "images whose file is that of another, as only the last part of their names exists"
_SHARED_IDS = "ids shared by several images, whose objects are therefore ambiguous"


@dataclass
class _Found:
    """The images found so far.

    Attributes:
        keys: split and file name -> unique key of the image.
        images: key -> split and outlines.
        files: split and image file, of every image.
    """

    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    images: dict[str, tuple[str, Outlines]] = field(default_factory=dict)
    files: set[tuple[str, Path]] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def index_coco(root: Path) -> Dataset:
    """Every image that the JSON files name, with or without objects.

    Raises:
        DatasetError: there is no file, none can be read, or their categories contradict.
    """
    found = _Found()
    files = list(_readable(root, found.problems))
    categories = Categories.of(files)
    found.keys = _keys(files)
    objects, notes = _objects_among_crowds(files)
    for file in files:
        _add(file, categories.class_of, root, found, objects)
    keys = sorted(found.images, key=lambda k: (split_rank(found.images[k][0]), natural_key(k)))
    samples = tuple(
        Sample(name, outlines.image_path, outlines, split)
        for name, (split, outlines) in zip(
            short_names(keys), (found.images[key] for key in keys), strict=True
        )
    )
    labels = label_set(categories.names, files[0].path)
    all_notes = (*categories.notes, *notes, *found.notes)
    return Dataset(root, "coco", labels, samples, tuple(found.problems), all_notes)


def _objects_among_crowds(files: Sequence[CocoFile]) -> tuple[set[Any], list[str]]:
    """The categories whose crowds are objects, and a note.

    A crowd is a region of objects that nobody outlined one by one, and is not scored. Some tools,
    such as CVAT's brush and pycococreator, mark every object that they store as run lengths.
    """
    total: Counter[Any] = Counter()
    crowds: Counter[Any] = Counter()
    for annotation in (each for file in files for each in file.annotations):
        category = annotation.category_id
        if is_key(category) and has_outline(annotation.segmentation):
            total[category] += 1
            crowds[category] += _is_crowd(annotation)
    if crowds.total() > MOSTLY * total.total():
        objects = set(crowds)
    else:
        objects = {n for n in total if total[n] >= FEW and crowds[n] >= 0.9 * total[n]}
    count = sum(crowds[number] for number in objects)
    if not count:
        return set(), []
    of = sum(total[number] for number in objects)
    where = "annotations" if len(objects) == len(total) else "annotations of some categories"
    return objects, [f"{count} of {of} {where} are marked as crowds (iscrowd): taken as objects"]


def _is_crowd(annotation: CocoAnnotation) -> bool:
    return str(annotation.iscrowd or "0").casefold() not in NO_CROWD


def _in_shares(file: CocoFile) -> tuple[bool, list[Any]]:
    """Whether all polygons have coordinates from 0 to 1, or else which annotations do.

    Of polygons in pixels, one may lie in the first pixel; where many do, the file mixes units.
    """
    small, count = [], 0
    for annotation in file.annotations:
        segmentation = annotation.segmentation
        if isinstance(segmentation, list) and has_outline(segmentation):
            count += 1
            numbers = [v for part in segmentation if _is_polygon(part) for v in part]
            if all(isinstance(v, (int, float)) and -0.01 <= v <= 1.01 for v in numbers):
                small.append(annotation.id)
    if count and len(small) == count:
        return True, []
    return False, small if len(small) > 0.1 * count else []


def _readable(root: Path, problems: list[Problem]) -> Iterator[CocoFile]:
    """The files that can be read; the others become problems.

    Raises:
        DatasetError: no file can be read.
    """
    paths = find_files(root)
    failures: list[DatasetError] = []
    for path, split in paths:
        try:
            yield read_file(path, split)
        except DatasetError as error:
            failures.append(error)
            problems.append(Problem(path, error.found, split))
    if not paths:
        raise DatasetError(f"no COCO JSON in {root}", found="no file has images and annotations")
    if len(failures) == len(paths):
        raise failures[0]


def _add(
    file: CocoFile, class_of: dict[Any, int], root: Path, found: _Found, objects: set[Any]
) -> None:
    """Add the images, problems and notes of one file.

    Args:
        objects: the categories whose crowds are objects.
    """
    outlines, wrong = _outlines(file, class_of, objects)
    finder = ImageFinder(file, root)
    shares, mixed = _in_shares(file)
    if shares:
        found.notes.append(f"coordinates in {file.path.name} go from 0 to 1: scaled to the images")
    if mixed:
        wrong["annotations with coordinates from 0 to 1, others are in pixels"] += mixed
    for image in file.images:
        path = finder.find(str(image.file_name))
        key = found.keys[file.split, str(image.file_name)]
        if path is None:
            wrong[_ABSENT].append(str(image.file_name)[:MAX_NAME])
        elif key in found.images:
            wrong["images named twice"].append(str(image.file_name)[:MAX_NAME])
        elif (file.split, path) in found.files:
            wrong[_ONE_FILE].append(str(image.file_name)[:MAX_NAME])
        else:
            found.files.add((file.split, path))
            size = None if shares else _size(image)  # such files may give 1 and 1
            here = Outlines(file.path, path, size, tuple(outlines.get(image.id, ())), shares)
            found.images[key] = file.split, here
    if not file.images:
        found.problems.append(
            Problem(file.path, "it names no images: the split is empty", file.split)
        )
    if len(wrong[_ABSENT]) == len(file.images):
        wrong[f"{_ABSENT} in {listed(finder.folders)}"] = wrong.pop(_ABSENT)
    found.problems += [
        Problem(file.path, f"{what}: {listed(which)}", file.split)
        for what, which in wrong.items()
        if which
    ]


def _keys(files: Iterable[CocoFile]) -> dict[tuple[str, str], str]:
    """The key of each image: split and name, without the suffix if that is unique."""
    bare: dict[tuple[str, str], str] = {}
    for file in files:
        for name in (str(image.file_name) for image in file.images):
            path = PurePosixPath(file.split, name.replace("\\", "/").lstrip("/"))
            bare[file.split, name] = str(path.parent / path.stem)
    counts = Counter(bare.values())
    return {
        (split, name): key if counts[key] == 1 else f"{split}/{name}".lstrip("/")
        for (split, name), key in bare.items()
    }


def _outlines(
    file: CocoFile, class_of: dict[Any, int], objects: set[Any]
) -> tuple[dict[Any, list[Outline]], dict[str, list[Any]]]:
    """Outlines by the id of their image, and unusable annotations by reason."""
    counts = Counter(image.id for image in file.images)
    known, twice = set(counts), [number for number, count in counts.items() if count > 1]
    outlines: dict[Any, list[Outline]] = defaultdict(list)
    wrong: dict[str, list[Any]] = defaultdict(list, {_SHARED_IDS: twice} if twice else {})
    for annotation in file.annotations:
        number, category = shown(annotation.id), annotation.category_id
        segmentation = annotation.segmentation
        if not is_key(annotation.image_id) or annotation.image_id not in known:
            wrong["annotations of images it does not name"].append(number)
        elif not is_key(category) or category not in class_of:
            wrong[f"annotations of category {shown(category)}, which it does not name"].append(
                number
            )
        elif not has_outline(segmentation):
            wrong["annotations without an outline (a box is not enough)"].append(number)
        else:
            crowd = _is_crowd(annotation) and category not in objects
            index = VOID if crowd else class_of[category]
            outlines[annotation.image_id].append(Outline(number, index, segmentation))
    return outlines, wrong


def _size(image: CocoImage) -> tuple[int, int] | None:
    """(height, width), or None if the file does not give it."""
    height, width = image.height, image.width
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _matches(path: Path) -> bool:
    return bool(find_files(path)) and not (path.is_file() and _is_labelme(path))


LAYOUT = Layout(
    "annotations/instances_train.json, _annotations.coco.json in a folder per split, or a JSON "
    "file with images, annotations and categories",
    _matches,
    index_coco,
)
