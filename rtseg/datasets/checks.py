"""Check a whole dataset before hours of training go into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rtseg.datasets.classes import ClassMap
from rtseg.datasets.contract import Dataset, Problem, Sample
from rtseg.datasets.folders import repeated
from rtseg.errors import DatasetError
from rtseg.frame import Image, Mask
from rtseg.labels import VOID

OnProgress = Callable[[int, int], None]
"""Called as on_progress(samples checked, total)."""

OnSample = Callable[[Sample, Image, Mask], None]
"""Called with each sample, its image, and its (H, W) uint8 mask in the dataset's classes."""


def check(
    dataset: Dataset, *, progress: OnProgress | None = None, on_sample: OnSample | None = None
) -> tuple[Problem, ...]:
    """Read every image and mask, and return all problems, those found while indexing first.

    An image without objects is fine. Images that splits share are not problems of theirs: see
    `rtseg.datasets.split.leaks`.
    """
    problems = list(dataset.problems)
    if not dataset.samples:
        problems.append(Problem(dataset.root, "it has no labelled images"))
    names = repeated(sample.name for sample in dataset.samples)
    problems += [Problem(dataset.root, f"two images are named {name}") for name in names]
    for number, sample in enumerate(dataset.samples, 1):
        problems += _check_sample(sample, len(dataset.labels), on_sample)
        if progress:
            progress(number, len(dataset))
    return tuple(dict.fromkeys(problems))


def check_masks(samples: Iterable[Sample], present: set[int]) -> Iterator[Problem]:
    """Read these masks; yield those that cannot be used or do not fit their images.

    Args:
        present: receives the values of all masks.
    """
    for sample in samples:
        try:
            mask = sample.read_mask()
        except DatasetError as error:
            yield _problem(sample, error)
        else:
            present |= values_of(mask)


def values_of(mask: Mask) -> set[int]:
    """The values in a mask."""
    return set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())


def degenerate(present: Iterable[int], classes: ClassMap) -> str:
    """Why nothing can be measured on or learnt from masks with these values; "" if it can.

    Args:
        present: values of the masks, as `values_of` gives them.
    """
    found = {int(classes.from_dataset[value]) for value in present} - {VOID}
    if not found:
        return "no pixel has a label of a scored class: all are 255 or ignored"
    if len(found) == 1:
        return f"all labelled pixels are of one class, {classes.labels.names[found.pop()]}"
    return ""


def _check_sample(
    sample: Sample, num_classes: int, on_sample: OnSample | None
) -> Iterator[Problem]:
    try:
        image, mask = sample.read_image(), sample.read_mask()
    except DatasetError as error:
        yield _problem(sample, error)
        return
    if on_sample:
        on_sample(sample, image, mask)
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        size = f"{mask.shape[0]}x{mask.shape[1]}"
        yield _problem(sample, f"the mask is {size} (HxW), the image {height}x{width}")
    unknown = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
    if unknown.size:
        yield _problem(sample, f"the mask has values that are not classes: {unknown.tolist()}")


def _problem(sample: Sample, message: object) -> Problem:
    return Problem(sample.image_path, str(message), sample.split)
