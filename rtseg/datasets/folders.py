"""Pictures in one folder, index masks of the same names in another; splits as folders or lists.

`images/` and `masks/` (or other usual words), splits above or below them; `train/` beside
`trainannot/`; `cat.jpg` beside `cat_mask.png`. Further subfolders are sequences: their frames stay
together when a set is split.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rtseg.datasets.contract import Dataset, Layout, Problem
from rtseg.datasets.lists import assign_lists
from rtseg.datasets.names import name_file
from rtseg.datasets.pairs import SPLITS, Pair, listed, pictures_under, samples_of, subfolders
from rtseg.datasets.values import values_of
from rtseg.errors import DatasetError
from rtseg.words import counted

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
