"""Everything that is wrong with a dataset, by file, at once, before hours go into it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rtseg.datasets.contract import Dataset, Problem, Sample
from rtseg.datasets.folders import repeated
from rtseg.errors import DatasetError
from rtseg.frame import VOID, Mask

Progress = Callable[[int, int], None]
"""Called as (samples checked, samples in all)."""


Seen = Callable[[Sample, Mask], None]
"""Called with each sample and its (H, W) uint8 mask in the dataset's classes."""


def check(
    dataset: Dataset, *, progress: Progress | None = None, seen: Seen | None = None
) -> tuple[Problem, ...]:
    """Read every picture and mask, and tell all that is wrong, by file.

    What indexing found comes first. A picture without objects is no fault. The same picture in two
    splits is one: what is measured would have been trained on.
    """
    problems = list(dataset.problems)
    if not dataset.samples:
        problems.append(Problem(dataset.root, "there are no labelled pictures"))
    names = repeated(sample.name for sample in dataset.samples)
    problems += [Problem(dataset.root, f"two pictures are called {name}") for name in names]
    digests: dict[str, Sample] = {}
    for number, sample in enumerate(dataset.samples, 1):
        problems += _wrong_with(sample, len(dataset.labels), seen)
        problems += _seen_in_another_split(sample, digests)
        if progress:
            progress(number, len(dataset))
    return tuple(dict.fromkeys(problems))


def check_masks(samples: Iterable[Sample]) -> Iterator[Problem]:
    """Read these masks, and tell of those that cannot be used or do not lie on their pictures."""
    for sample in samples:
        try:
            sample.read_mask()
        except DatasetError as error:
            yield _problem(sample, error)


def _wrong_with(sample: Sample, num_classes: int, seen: Seen | None) -> Iterator[Problem]:
    try:
        height, width = sample.read_image().shape[:2]
    except DatasetError as error:
        yield _problem(sample, error)
        return
    try:
        mask = sample.read_mask()
    except DatasetError as error:
        yield _problem(sample, error)
        return
    if seen:
        seen(sample, mask)
    if mask.shape != (height, width):
        found = f"the mask is {mask.shape[0]}x{mask.shape[1]} (HxW), the picture {height}x{width}"
        yield _problem(sample, found)
    strange = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
    if strange.size:
        yield _problem(sample, f"the mask holds {strange.tolist()}, which is no class")


def _seen_in_another_split(sample: Sample, digests: dict[str, Sample]) -> Iterator[Problem]:
    """The same bytes were met in another split."""
    try:
        digest = hashlib.sha256(sample.image_path.read_bytes()).hexdigest()
    except OSError:
        return  # told of already: it cannot be read
    before = digests.setdefault(digest, sample)
    if before.split != sample.split:
        words = f"the same picture as {before.image_path}, which is in {before.split or 'no split'}"
        yield _problem(sample, f"{words}, this one in {sample.split or 'none'}")


def _problem(sample: Sample, words: object) -> Problem:
    return Problem(sample.image_path, str(words), sample.split)
