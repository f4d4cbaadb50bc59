"""Pascal VOC: JPEGImages, SegmentationClass, and lists in ImageSets/Segmentation.

CVAT and Datumaro export the same layout; their labelmap.txt gives the names of the classes and
their colours in the masks, which are in full colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rtseg.datasets.classes import find_names
from rtseg.datasets.contract import Dataset, Layout, Problem
from rtseg.datasets.folders import (
    SPLITS,
    Pair,
    Values,
    any_coloured,
    by_name,
    duplicates,
    have_colours_of,
    identity,
    images_under,
    read_lines,
    repeated,
    samples_of,
)
from rtseg.labels import VOC, voc_colours
from rtseg.text import composed, listed

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"

TRAINING = ("trainaug", "trainval")
"""Lists to train on where there is no train.txt, best first; the first is that of SBD's masks."""


@dataclass
class _Found:
    root: Path
    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    pairs: dict[str, Pair] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_list(self, path: Path, split: str) -> None:
        """Add the images that one list names; a list without any mask becomes a note.

        trainval.txt, on which to train, also holds the images of val.txt, which stay there.
        """
        names = list(map(composed, read_lines(path)))
        if not names:
            self.problems.append(Problem(path, "the list is empty", split))
        elif not any(name in self.masks for name in names):
            self.notes.append(f"{path.name} left out: none of its {len(names)} images has a mask")
            return
        self.problems += [
            Problem(path, f"{name} is listed twice", split) for name in repeated(names)
        ]
        if path.stem.casefold() == "trainval" and (held := self.pairs.keys() & set(names)):
            self.notes.append(f"{path.name}: {len(held)} of its images stay in other lists")
            names = [name for name in names if name not in held]
        for name in dict.fromkeys(names):
            self.add(name, split, path)

    def add(self, name: str, split: str, path: Path) -> None:
        """Add an image to a split, or a problem if its file or mask is missing."""
        before = self.pairs.get(name)
        if before is not None:
            if before.split != split:
                message = f"{name} is also in {before.split or 'another list'}, where it stays"
                self.problems.append(Problem(path, message, split))
            return
        images, masks = self.images.get(name), self.masks.get(name)
        if not images:
            self.problems.append(Problem(path, f"{name} has no image in {IMAGES}", split))
        elif not masks:
            self.problems.append(Problem(path, f"{name} has no mask in {MASKS}", split))
        else:
            self.problems += [*duplicates(images, split), *duplicates(masks, split)]
            self.pairs[name] = Pair(name, images[0], masks[0], split)


def index_voc(root: Path) -> Dataset:
    """Every image that a list names; without lists, every image that has a mask."""
    folders = [root / name for name in (MASKS, f"{MASKS}PNG")]  # labelme2voc.py wrote .npy files
    found = _Found(root, _by_name(root / IMAGES), _by_name(folders[0]) or _by_name(folders[1]))
    lists = dict(_lists(root / LISTS))
    for path, split in lists.items():
        found.add_list(path, split)
    augmented = root / LISTS / f"{TRAINING[0]}.txt"
    if augmented.is_file() and augmented not in lists:
        found.notes.append(f"{augmented.name} left out: train.txt is the list to train on")
    if not lists:
        for name in found.masks:
            found.add(name, "", root / MASKS)
    values = _values(root, [pair.mask for pair in found.pairs.values()])
    return Dataset(
        root,
        "voc",
        values.labels,
        samples_of(found.pairs.values(), values.read),
        tuple(found.problems),
        tuple(found.notes),
    )


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Name as lists write it, with subfolders -> files."""
    paths = images_under(folder) if folder.is_dir() else ()
    return by_name(paths, lambda p: composed(p.relative_to(folder).with_suffix("").as_posix()))


def _lists(folder: Path) -> Iterator[tuple[Path, str]]:
    """The lists and their splits; those of `TRAINING` where there is no other to train on."""
    paths = {path.stem.casefold(): path for path in sorted(folder.glob("*.txt"))}
    known = {SPLITS[stem] for stem in paths if stem in SPLITS}
    training = next((stem for stem in TRAINING if stem in paths), "")
    for stem in sorted(paths, key=lambda stem: (stem not in SPLITS, "train val test".find(stem))):
        if stem in SPLITS:
            yield paths[stem], SPLITS[stem]
        elif stem == training and "train" not in known:
            yield paths[stem], "train"
        elif not known and stem not in TRAINING:
            yield paths[stem], ""


def _values(root: Path, masks: Sequence[Path]) -> Values:
    names = find_names([root])
    advice = "Put a labelmap.txt or classes.txt beside JPEGImages to use classes other than VOC's."
    if names is None:
        colours = voc_colours(21)
        return Values(VOC, identity(VOC), colours, advice, have_colours_of(masks, colours))
    if names.colours is None:
        by_palette = any_coloured(masks)
    else:
        by_palette = have_colours_of(masks, names.colours)
    colours = names.colours or voc_colours(len(names.labels))
    advice = f"{names.path} names the classes: {listed(names.names)}."
    return Values(names.labels, identity(names.labels), colours, advice, by_palette)


def _matches(path: Path) -> bool:
    return (path / IMAGES).is_dir() and (path / MASKS).is_dir()


LAYOUT = Layout(f"{IMAGES}/, {MASKS}/ and {LISTS}/train.txt, val.txt", _matches, index_voc)
