"""Pictures and the masks that belong to them, before they become samples."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.contract import Sample
from rtseg.datasets.files import PICTURE_SUFFIXES, fit_to_picture, read_index_mask
from rtseg.errors import DatasetError
from rtseg.frame import VOID, Mask
from rtseg.labels import Colour, LabelSet

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
            if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith("."):
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


def listed(words: Sequence[object], most: int = 5) -> str:
    """The first few, and how many more: "a, b and 3 more"."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(str(word) for word in words[:most]) + more


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
    return path.suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".") and path.is_file()
