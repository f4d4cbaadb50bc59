"""Everything that is wrong with a dataset, by file, at once, before hours go into it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rtseg.datasets.contract import Dataset, Problem, Sample
from rtseg.datasets.pairs import repeated
from rtseg.errors import DatasetError
from rtseg.frame import VOID

Progress = Callable[[int, int], None]
"""Called as (samples checked, samples in all)."""


def check(dataset: Dataset, *, progress: Progress | None = None) -> tuple[Problem, ...]:
    """Read every picture and mask, and tell all that is wrong, by file.

    What indexing found comes first. A picture without objects is no fault. The same picture in two
    splits is one: what is measured would have been trained on.
    """
    problems = list(dataset.problems)
    if not dataset.samples:
        problems.append(Problem(dataset.root, "there are no labelled pictures"))
    names = repeated(sample.name for sample in dataset.samples)
    problems += [Problem(dataset.root, f"two pictures are called {name}") for name in names]
    seen: dict[str, Sample] = {}
    for number, sample in enumerate(dataset.samples, 1):
        problems += _wrong_with(sample, len(dataset.labels))
        problems += _seen_in_another_split(sample, seen)
        if progress:
            progress(number, len(dataset))
    return tuple(dict.fromkeys(problems))


def check_masks(dataset: Dataset) -> Iterator[Problem]:
    """Read every mask, and tell of those that cannot be used or do not lie on their pictures."""
    for sample in dataset.samples:
        try:
            sample.read_mask()
        except DatasetError as error:
            yield _problem(sample.image_path, error)


def _wrong_with(sample: Sample, num_classes: int) -> Iterator[Problem]:
    try:
        height, width = sample.read_image().shape[:2]
    except DatasetError as error:
        yield _problem(sample.image_path, error)
        return
    try:
        mask = sample.read_mask()
    except DatasetError as error:
        yield _problem(sample.image_path, error)
        return
    if mask.shape != (height, width):
        found = f"the mask is {mask.shape[0]}x{mask.shape[1]} (HxW), the picture {height}x{width}"
        yield Problem(sample.image_path, found)
    strange = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
    if strange.size:
        yield Problem(sample.image_path, f"the mask holds {strange.tolist()}, which is no class")


def _seen_in_another_split(sample: Sample, seen: dict[str, Sample]) -> Iterator[Problem]:
    """The same bytes were met in another split."""
    try:
        digest = hashlib.sha256(sample.image_path.read_bytes()).hexdigest()
    except OSError:
        return  # told of already: it cannot be read
    before = seen.setdefault(digest, sample)
    if before.split != sample.split:
        words = f"the same picture as {before.image_path}, which is in {before.split or 'no split'}"
        yield Problem(sample.image_path, f"{words}, this one in {sample.split or 'none'}")


def _problem(image_path: Path, error: DatasetError) -> Problem:
    return Problem(image_path, str(error))
