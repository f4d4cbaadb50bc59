"""What a labelled set is, whatever folders and files it lies in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import DatasetError
from rtseg.frame import Image, Mask
from rtseg.images import read_image
from rtseg.labels import LabelSet

Table = NDArray[np.uint8]
"""(256,) uint8: the class, or 255, that each class and 255 become."""


@runtime_checkable
class Layered(Protocol):
    """A reader of objects that lie over one another, of which a mask shows only the top."""

    def through(self, table: Table) -> Mask:
        """The mask in the classes of `table`, without the objects that it makes background."""


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it.

    Attributes:
        name: unique in its dataset, as people would call it ("2007_000027").
        image_path: the picture on disk.
        read_mask: reads the (H, W) uint8 class indices of the dataset's labels at the picture's
            own size, 255 where nothing is known; raises DatasetError.
        split: "train", "val" or "test" where the dataset says so, else "".
        sequence: frames that follow one another share it, in order; "" for single pictures.
    """

    name: str
    image_path: Path
    read_mask: Callable[[], Mask] = field(repr=False, compare=False)
    split: str = ""
    sequence: str = ""

    def read_image(self) -> Image:
        """The picture as (H, W, 3) uint8 BGR; raises DatasetError if it cannot be read."""
        return read_image(self.image_path, DatasetError)

    def read_as(self, table: Table) -> Mask:
        """The (H, W) uint8 mask in the classes of `table`; raises DatasetError.

        A tie or a bag that does not count hides nothing of the person who carries it.
        """
        if isinstance(self.read_mask, Layered):
            return self.read_mask.through(table)
        return np.asarray(table[self.read_mask()], np.uint8)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, by file.

    Attributes:
        split: "train", "val" or "test" where it is known to touch that one alone, else "".
    """

    path: Path
    words: str
    split: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.words}"


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures in a fixed order.

    Attributes:
        root: the folder or file that was named.
        format: row of `DATASETS` that read it.
        labels: its classes; the values of the masks.
        samples: all of them, those of every split.
        problems: all that was found wrong while indexing, by file; nothing is dropped in silence.
        notes: what a person should know that is no fault, as where the names came from, or which
            pictures have no masks and are left out.
    """

    root: Path
    format: str
    labels: LabelSet
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that the dataset itself gives, in the order they come."""
        return tuple(dict.fromkeys(sample.split for sample in self.samples if sample.split))


@dataclass(frozen=True)
class Layout:
    """One way in which labelled pictures lie on disk: a row of `DATASETS`.

    Attributes:
        looks_for: what tells it from the others, in words.
        found_at: whether a path looks like it, from the names of files.
        index: finds every sample under a path; raises DatasetError.
    """

    looks_for: str
    found_at: Callable[[Path], bool]
    index: Callable[[Path], Dataset]
