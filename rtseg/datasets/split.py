"""Training, validation and test splits: the dataset's own, or new ones by seed; and their leaks."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.contract import Dataset, Sample
from rtseg.errors import DatasetError
from rtseg.frame import Image
from rtseg.text import counted, listed

Shares = tuple[float, float, float]
"""Shares of train, val and test; together 1."""

SHARES: Shares = (0.8, 0.1, 0.1)

Classes = Mapping[str, Collection[int]]
"""Sample name -> the classes in its mask."""

_ROBOFLOW_COPY = re.compile(r"_(?:jpe?g|png|bmp|webp|tiff?)\.rf\.[0-9A-Za-z]{6,}$", re.IGNORECASE)
"""What Roboflow appends to the name of each augmented copy of an image."""

_LOOK = (8, 8)
"""(rows, columns) of cells whose brightness is compared."""

_LOOK_LEVELS = 2
"""Images look the same if no cell differs by more levels, of 255; compression changes one."""


def split_dataset(
    dataset: Dataset, *, seed: int, shares: Shares = SHARES
) -> dict[str, tuple[Sample, ...]]:
    """The samples of "train", "val" and "test", each in the dataset's order.

    The dataset's own splits are kept. Without a val split, val is taken from train at random; test
    may be empty. Without any splits, all three are random; in a suite, so are those of sets that
    have none, which then come last. Random splits depend only on names, sequences, copies and the
    seed, never on the order of files; frames of one sequence stay together, and so do copies of one
    image. `describe_split` says what was done.

    Raises:
        DatasetError: the dataset has splits but none to train on, or too few images (or
            sequences) to hold some back.
    """
    if not dataset.splits:
        return _random_split(dataset, dataset.samples, seed, shares)
    own = {name: _of(dataset, name) for name in ("train", "val", "test")}
    others = _other_sets(dataset)
    if not own["train"] and not others:
        raise DatasetError(
            f"nothing to train on in {dataset.root}",
            found="it has only " + " and ".join(dataset.splits),
            do="Use a dataset with a train split.",
        )
    if own["train"] and not own["val"]:
        train, val, _ = shares
        whole = train + val
        random = _random_split(dataset, own["train"], seed, (train / whole, val / whole, 0.0))
        own = {**random, "test": own["test"]}
    if not others:
        return own
    if len(set(_groups(others).values())) < 2:  # one sequence
        return {**own, "train": (*own["train"], *others)}
    dealt = _random_split(dataset, others, seed, shares)
    return {name: (*own[name], *dealt[name]) for name in own}


def new_split(
    dataset: Dataset, classes: Classes, *, seed: int, shares: Shares
) -> dict[str, tuple[Sample, ...]]:
    """As `split_dataset`, whatever splits the dataset has, and with the classes spread evenly.

    Every class is in about the same share of the images of each split. The rarest class is dealt
    first, each group to the split that lacks most of it: Sechidis, Tsoumakas and Vlahavas, "On the
    Stratification of Multi-Label Data", ECML PKDD 2011.

    Raises:
        DatasetError: there are too few images (or groups of copies) to hold some back.
    """
    samples = dataset.samples
    groups = _groups(samples)
    sizes = Counter(groups[sample.name] for sample in samples)
    if len(sizes) < 2:
        raise _cannot_split(dataset, samples)
    holds: dict[str, Counter[int]] = {group: Counter() for group in sizes}
    for sample in samples:
        holds[groups[sample.name]].update(set(classes.get(sample.name, ())))
    place = _deal(_shuffled(sizes, seed), sizes, holds, shares)
    return {
        split: tuple(sample for sample in samples if place[groups[sample.name]] == split)
        for split in ("train", "val", "test")
    }


def _deal(
    order: list[str],
    sizes: Mapping[str, int],
    holds: Mapping[str, Counter[int]],
    shares: Shares,
) -> dict[str, str]:
    """The split of each group; none with a share is left empty if there are enough groups."""
    splits = dict(zip(("train", "val", "test"), shares, strict=True))
    whole = Counter[int]()
    for group in order:
        whole.update(holds[group])
    lacks = {
        split: {each: share * whole[each] for each in whole} for split, share in splits.items()
    }
    room = {split: share * sum(sizes.values()) for split, share in splits.items()}
    left = dict.fromkeys(sorted(order, key=lambda group: -sizes[group]))
    counts, place = Counter(whole), dict[str, str]()
    holding: dict[int, list[str]] = defaultdict(list)
    for group in left:
        for each in holds[group]:
            holding[each].append(group)
    while left:
        rarest = min(counts, key=lambda each: (counts[each], each), default=None)
        for group in [g for g in (left if rarest is None else holding[rarest]) if g in left]:
            needs = {s: (lacks[s].get(rarest, 0.0) if rarest is not None else 0.0) for s in splits}
            split = max(splits, key=lambda s: (round(needs[s], 6), round(room[s], 6), splits[s]))
            place[group] = split
            room[split] -= sizes[group]
            for each, count in holds[group].items():
                lacks[split][each] -= count
            counts -= holds[group]  # without those that reach 0
            del left[group]
    for split in ("val", "test"):
        trained = [group for group in order if place[group] == "train"]
        if splits[split] > 0 and split not in place.values() and len(trained) > 1:
            place[min(trained, key=lambda group: sizes[group])] = split
    return place


def describe_shares(shares: Shares) -> str:
    """ "80/10/10"."""
    return "/".join(f"{100 * share:g}" for share in shares)


def describe_split(dataset: Dataset, *, seed: int) -> str:
    """One line on where the splits of `split_dataset` come from."""
    if not dataset.splits:
        percent = describe_shares(SHARES)
        return f"the dataset has no splits: {percent} train, val and test at random (seed {seed})"
    text = "the dataset's own splits"
    if "val" not in dataset.splits:
        text = f"the dataset has no val split: taken from train at random (seed {seed})"
    others = len(_other_sets(dataset))
    if "test" not in dataset.splits and not others:
        text += "; no test split"
        text += " (--split 80/10/10 makes both)" if "val" not in dataset.splits else ""
    if others:
        percent = describe_shares(SHARES)
        return f"{text}; {counted(others, 'image')} of sets without any: {percent} (seed {seed})"
    left = sum(sample.split == "" for sample in dataset.samples)
    return text + (f"; {counted(left, 'image')} in no split left out" if left else "")


def _other_sets(dataset: Dataset) -> tuple[Sample, ...]:
    """The samples of a suite without a split: sets that have none, beside others that have."""
    return _of(dataset, "") if dataset.format == "suite" else ()


def _of(dataset: Dataset, split: str) -> tuple[Sample, ...]:
    return tuple(sample for sample in dataset.samples if sample.split == split)


def _random_split(
    dataset: Dataset, samples: tuple[Sample, ...], seed: int, shares: Shares
) -> dict[str, tuple[Sample, ...]]:
    """Whole groups, in an order that only seed and names decide: val, test, the rest train."""
    groups = _groups(samples)
    sizes = Counter(groups[sample.name] for sample in samples)
    order = _shuffled(sizes, seed)
    if len(order) < 2:
        raise _cannot_split(dataset, samples)
    val = _first_groups(order, sizes, shares[1] * len(samples))
    test = _first_groups(order[len(val) :], sizes, shares[2] * len(samples))
    place = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    return {
        split: tuple(
            sample for sample in samples if place.get(groups[sample.name], "train") == split
        )
        for split in ("train", "val", "test")
    }


def _cannot_split(dataset: Dataset, samples: Sequence[Sample]) -> DatasetError:
    return DatasetError(
        f"cannot split {dataset.root}",
        found=f"it has {counted(len(samples), 'image')}"
        + (_why_together(samples) if samples[1:] else ""),
        do="Use a dataset with images to train on and others to validate with.",
    )


def _why_together(samples: Sequence[Sample]) -> str:
    one = " of one sequence" if any(sample.sequence for sample in samples) else " that are copies"
    return f"{one}, which stay together"


def _groups(samples: Iterable[Sample]) -> dict[str, str]:
    """Sample name -> its group, which stays together: a sequence or image with all its copies."""
    groups = {sample.name: _group(sample) for sample in samples}
    joined: dict[str, str] = {}

    def root(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    for one, *copies in _same_files(samples):
        for copy in copies:
            low, high = sorted((root(groups[one.name]), root(groups[copy.name])))
            if low != high:
                joined[high] = low
    return {name: root(group) for name, group in groups.items()}


def _group(sample: Sample) -> str:
    # these strings are hashed: changing them would change every random split
    if sample.sequence:
        return f"sequence {sample.sequence}"
    return f"picture {original_of(sample) or sample.name}"


def original_of(sample: Sample) -> str:
    """The name of the image that this is one of Roboflow's copies of; "" if it is none."""
    name = stem = sample.image_path.stem
    while match := _ROBOFLOW_COPY.search(name):  # copies that were uploaded and copied again
        name = name[: match.start()]
    return name if name != stem else ""


def _same_files(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples whose image files are identical; only files of equal size are read."""
    for same_size in _grouped(samples, lambda path: path.stat().st_size):
        yield from _grouped(same_size, _digest)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _grouped(
    samples: Iterable[Sample], key: Callable[[Path], int | bytes]
) -> Iterator[list[Sample]]:
    """Samples that share a key; files that cannot be read share none."""
    found: dict[int | bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        with suppress(OSError):
            found[key(sample.image_path)].append(sample)
    yield from (group for group in found.values() if len(group) > 1)


def _shuffled(groups: Iterable[str], seed: int) -> list[str]:
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\n{group}".encode()).hexdigest())


def _first_groups(order: list[str], sizes: Mapping[str, int], wanted: float) -> list[str]:
    """The first groups that hold about `wanted` images: at least one, but not the last."""
    taken: list[str] = []
    held = 0
    for group in order[:-1] if wanted > 0 else []:
        if taken and held + sizes[group] / 2 > wanted:
            break
        taken.append(group)
        held += sizes[group]
    return taken


# Leaks


def leaks(
    parts: Mapping[str, Sequence[Sample]], measured: Sequence[str] = ("val", "test")
) -> tuple[str, ...]:
    """Warnings about images of the measured splits that have a copy in another one.

    Copies are identical files, and Roboflow's copies of one original. Only files that have the size
    of a measured one are read.
    """
    split_of = {sample.name: split for split, part in parts.items() for sample in part}
    samples = [each for part in parts.values() for each in part]
    originals: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if original := original_of(sample):
            originals[original].append(sample)
    same = [
        group
        for same_size in _grouped(samples, lambda path: path.stat().st_size)
        if any(split_of[sample.name] in measured for sample in same_size)
        for same_start in _grouped(same_size, _start)
        for group in _grouped(same_start, _digest)
    ]
    return _warnings([*same, *originals.values()], split_of, "copies of images", measured)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def alike(
    parts: Mapping[str, Sequence[Sample]], looks: Mapping[str, NDArray[np.uint8]]
) -> tuple[str, ...]:
    """Warnings about images of different splits that look the same.

    Args:
        looks: of every sample by its name, as `look` returns it.
    """
    split_of = {sample.name: split for split, part in parts.items() for sample in part}
    samples = [each for part in parts.values() for each in part if each.name in looks]
    samples.sort(key=lambda sample: int(looks[sample.name].sum()))
    if not samples:
        return ()
    cells = np.stack([looks[sample.name] for sample in samples]).astype(np.int16)
    sums = cells.sum(axis=1, dtype=np.int64)
    ends = np.searchsorted(sums, sums + _LOOK_LEVELS * cells.shape[1], side="right")
    place = np.array([list(parts).index(split_of[sample.name]) for sample in samples])
    pairs = []
    for index, sample in enumerate(samples):
        near = slice(index + 1, ends[index])
        same = np.abs(cells[near] - cells[index]).max(axis=1, initial=0) <= _LOOK_LEVELS
        for at in np.flatnonzero(same & (place[near] != place[index]))[:4]:
            pairs.append([sample, samples[index + 1 + int(at)]])
    return _warnings(pairs, split_of, "images that look the same")


def look(image: Image) -> NDArray[np.uint8]:
    """(64,) uint8: the brightness of an image in a coarse grid, for `alike`."""
    small = cv2.resize(image, _LOOK[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).ravel(), np.uint8)


def _warnings(
    groups: Iterable[Sequence[Sample]],
    split_of: Mapping[str, str],
    what: str,
    measured: Sequence[str] = ("val", "test"),
) -> tuple[str, ...]:
    """One line per pair of splits that share images."""
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for group in groups:
        for split, other in (("val", "train"), ("test", "train"), ("test", "val")):
            theirs = [sample for sample in group if split_of[sample.name] == other]
            for sample in group if theirs and split in measured else ():
                if split_of[sample.name] == split:
                    found[split, other][sample.name] = theirs[0].name
    return tuple(
        f"{split} and {other} share {what}, which flatters the figures ({len(names)}): "
        + listed([f"{name} ({copy})" for name, copy in names.items()], 3)
        for (split, other), names in found.items()
    )
