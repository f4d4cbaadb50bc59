"""Which pictures train, which choose, which measure: the dataset's own answer, or one by seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rtseg.datasets.contract import Dataset, Sample
from rtseg.errors import DatasetError

Shares = tuple[float, float, float]
"""Of train, val and test; together 1."""

SHARES: Shares = (0.8, 0.1, 0.1)


def split_dataset(
    dataset: Dataset, *, seed: int, shares: Shares = SHARES
) -> dict[str, tuple[Sample, ...]]:
    """The samples of "train", "val" and "test", each in the dataset's order.

    The dataset's own splits are kept. Where it gives train but no val, val is taken from train by
    seed; test may be empty. Where it gives none, all are dealt by seed. What is dealt depends only
    on names, sequences, copies and the seed, never on the order of files; frames of one sequence
    stay together, and so do copies of one picture. `split_words` says what is done.

    Raises:
        DatasetError: the dataset gives splits but none to train on, or has too few pictures (or
            sequences) to hold some back.
    """
    own = {name: _of(dataset, name) for name in ("train", "val", "test")}
    if not dataset.splits:
        return _dealt(dataset, dataset.samples, seed, shares)
    if not own["train"]:
        raise DatasetError(
            f"nothing to train on in {dataset.root}",
            found="it gives only " + " and ".join(dataset.splits),
            do="Name a set with a train split.",
        )
    if own["val"]:
        return own
    train, val, _ = shares
    whole = train + val
    dealt = _dealt(dataset, own["train"], seed, (train / whole, val / whole, 0.0))
    return {**dealt, "test": own["test"]}


def split_words(dataset: Dataset, *, seed: int, shares: Shares = SHARES) -> str:
    """One sentence for a person: where the splits of `split_dataset` come from."""
    if not dataset.splits:
        percent = "/".join(f"{100 * share:.0f}" for share in shares)
        return f"the set gives no splits: dealt {percent} into train, val and test by seed {seed}"
    words = "splits as the set gives them"
    if "val" not in dataset.splits:
        words = f"the set gives no val: taken from train by seed {seed}"
    if "test" not in dataset.splits:
        words += "; it gives no test"
    left = sum(sample.split == "" for sample in dataset.samples)
    return words + (f"; {left} pictures are in no split and left out" if left else "")


def _of(dataset: Dataset, split: str) -> tuple[Sample, ...]:
    return tuple(sample for sample in dataset.samples if sample.split == split)


def _dealt(
    dataset: Dataset, samples: tuple[Sample, ...], seed: int, shares: Shares
) -> dict[str, tuple[Sample, ...]]:
    """Whole groups in an order that only seed and names decide: to val, to test, the rest train."""
    groups = _groups(samples)
    sizes = Counter(groups[sample.name] for sample in samples)
    order = _shuffled(sizes, seed)
    if len(order) < 2:
        raise DatasetError(
            f"cannot split {dataset.root}",
            found=f"it has {len(samples)} pictures"
            + (_why_together(samples) if samples[1:] else ""),
            do="Name a set with pictures to train on and others to measure with.",
        )
    val = _taken(order, sizes, shares[1] * len(samples), keep=1)
    test = _taken(order[len(val) :], sizes, shares[2] * len(samples), keep=1)
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
    """Sample -> what must not be torn apart: a sequence, else the picture; with all its copies."""
    groups = {sample.name: _group(sample) for sample in samples}
    joined: dict[str, str] = {}

    def first(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    for one, *copies in _same_files(samples):
        for copy in copies:
            low, high = sorted((first(groups[one.name]), first(groups[copy.name])))
            if low != high:
                joined[high] = low
    return {name: first(group) for name, group in groups.items()}


def _group(sample: Sample) -> str:
    return f"sequence {sample.sequence}" if sample.sequence else f"picture {sample.name}"


def _same_files(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples whose pictures are the same, byte for byte; only files of one length are read."""
    for alike in _gathered(samples, lambda path: path.stat().st_size):
        yield from _gathered(alike, lambda path: hashlib.sha256(path.read_bytes()).digest())


def _gathered(
    samples: Iterable[Sample], key: Callable[[Path], int | bytes]
) -> Iterator[list[Sample]]:
    """Those that share a key with others; one that cannot be read is like none."""
    found: dict[int | bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        with suppress(OSError):
            found[key(sample.image_path)].append(sample)
    yield from (alike for alike in found.values() if len(alike) > 1)


def _shuffled(groups: Iterable[str], seed: int) -> list[str]:
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\n{group}".encode()).hexdigest())


def _taken(order: list[str], sizes: Mapping[str, int], wanted: float, keep: int) -> list[str]:
    """The first groups that hold about so many pictures: one at least, and `keep` are left."""
    taken: list[str] = []
    held = 0
    for group in order[: len(order) - keep] if wanted > 0 else []:
        if taken and held + sizes[group] / 2 > wanted:
            break
        taken.append(group)
        held += sizes[group]
    return taken
