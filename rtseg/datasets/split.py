"""Training, validation and test splits: the dataset's own, or random ones by seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rtseg.datasets.contract import Dataset, Sample
from rtseg.errors import DatasetError
from rtseg.text import counted

Shares = tuple[float, float, float]
"""Shares of train, val and test; together 1."""

SHARES: Shares = (0.8, 0.1, 0.1)


def split_dataset(
    dataset: Dataset, *, seed: int, shares: Shares = SHARES
) -> dict[str, tuple[Sample, ...]]:
    """The samples of "train", "val" and "test", each in the dataset's order.

    The dataset's own splits are kept. Without a val split, val is taken from train at random; test
    may be empty. Without any splits, all three are random. Random splits depend only on names,
    sequences, copies and the seed, never on the order of files; frames of one sequence stay
    together, and so do copies of one image. `describe_split` says what was done.

    Raises:
        DatasetError: the dataset has splits but none to train on, or too few images (or
            sequences) to hold some back.
    """
    own = {name: _of(dataset, name) for name in ("train", "val", "test")}
    if not dataset.splits:
        return _random_split(dataset, dataset.samples, seed, shares)
    if not own["train"]:
        raise DatasetError(
            f"nothing to train on in {dataset.root}",
            found="it has only " + " and ".join(dataset.splits),
            do="Use a dataset with a train split.",
        )
    if own["val"]:
        return own
    train, val, _ = shares
    whole = train + val
    random = _random_split(dataset, own["train"], seed, (train / whole, val / whole, 0.0))
    return {**random, "test": own["test"]}


def describe_split(dataset: Dataset, *, seed: int, shares: Shares = SHARES) -> str:
    """One line on where the splits of `split_dataset` come from."""
    if not dataset.splits:
        percent = "/".join(f"{100 * share:.0f}" for share in shares)
        return f"the dataset has no splits: {percent} train, val and test at random (seed {seed})"
    text = "the dataset's own splits"
    if "val" not in dataset.splits:
        text = f"the dataset has no val split: taken from train at random (seed {seed})"
    if "test" not in dataset.splits:
        text += "; no test split"
    left = sum(sample.split == "" for sample in dataset.samples)
    return text + (f"; {counted(left, 'image')} in no split left out" if left else "")


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
        raise DatasetError(
            f"cannot split {dataset.root}",
            found=f"it has {counted(len(samples), 'image')}"
            + (_why_together(samples) if samples[1:] else ""),
            do="Use a dataset with images to train on and others to validate with.",
        )
    val = _first_groups(order, sizes, shares[1] * len(samples), keep=1)
    test = _first_groups(order[len(val) :], sizes, shares[2] * len(samples), keep=1)
    place = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    return {
        split: tuple(
            sample for sample in samples if place.get(groups[sample.name], "train") == split
        )
        for split in ("train", "val", "test")
    }


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
    return f"sequence {sample.sequence}" if sample.sequence else f"picture {sample.name}"


def _same_files(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples whose image files are identical; only files of equal size are read."""
    for same_size in _grouped(samples, lambda path: path.stat().st_size):
        yield from _grouped(same_size, lambda path: hashlib.sha256(path.read_bytes()).digest())


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


def _first_groups(
    order: list[str], sizes: Mapping[str, int], wanted: float, keep: int
) -> list[str]:
    """The first groups that hold about `wanted` images: at least one, leaving `keep` groups."""
    taken: list[str] = []
    held = 0
    for group in order[: len(order) - keep] if wanted > 0 else []:
        if taken and held + sizes[group] / 2 > wanted:
            break
        taken.append(group)
        held += sizes[group]
    return taken
