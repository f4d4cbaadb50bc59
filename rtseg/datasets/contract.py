"""What a labelled dataset is, and how its images and masks are read so that a mask fits its image.

**Rotated photos.** A camera held upright often stores its photo lying on its side, with an EXIF
orientation. Images are read upright, as `rtseg run` shows them. A mask that has the size of the
upright image was drawn on it and is used as it is; one that has the size of the stored image was
drawn on the stored pixels and is rotated with it. Where both sizes are equal (rotated by 180
degrees, mirrored, or square), masks are taken as drawn on what annotation tools show today: the
upright image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rtseg.errors import DatasetError
from rtseg.frame import Image, Mask
from rtseg.images import (
    SWAPS_SIDES,
    StoredImage,
    read_image,
    read_stored,
    stored_size,
    turned_upright,
)
from rtseg.labels import VOID, Colour, LabelSet, voc_colours
from rtseg.text import counted

VOC_VOID: Colour = (224, 224, 192)
"""The colour of Pascal VOC's unlabelled pixels."""

Table = NDArray[np.uint8]
"""(256,) uint8: the class, or 255, that each class and 255 become."""


@runtime_checkable
class LayeredMask(Protocol):
    """Reads a mask made of overlapping objects, of which only the top one shows."""

    def read_as(self, table: Table) -> Mask:
        """The mask in the classes of `table`, without the objects that become background."""


@dataclass(frozen=True)
class MovedMask:
    """Reads a mask and moves it; what comes in at the edges is unlabelled.

    Attributes:
        read_mask: as of `Sample`.
        by: pixels to the right and down; negative ones are to the left and up.
    """

    read_mask: Callable[[], Mask]
    by: tuple[int, int]

    def __call__(self) -> Mask:
        """The mask as labelled, moved."""
        return self._moved(self.read_mask())

    def read_as(self, table: Table) -> Mask:
        """As of `LayeredMask`."""
        return self._moved(_in_classes(self.read_mask, table))

    def _moved(self, mask: Mask) -> Mask:
        moved = np.full_like(mask, VOID)
        (height, width), (right, down) = mask.shape, self.by
        kept = mask[max(0, -down) : height - down, max(0, -right) : width - right]
        top, left = max(0, down), max(0, right)
        moved[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
        return moved


def _in_classes(read_mask: Callable[[], Mask], table: Table) -> Mask:
    if isinstance(read_mask, LayeredMask):
        return read_mask.read_as(table)
    return np.asarray(table[read_mask()], np.uint8)


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: unique in its dataset ("2007_000027").
        image_path: the image file.
        read_mask: reads the (H, W) uint8 class indices of the dataset's labels at the image's own
            size, 255 where unlabelled; raises DatasetError.
        split: "train", "val" or "test" where the dataset has splits, else "".
        sequence: shared by consecutive frames, in order; "" for single images.
        weight: how often training takes it, beside others.
        labelled: False if nothing in the image is known.
        mask_path: the image file of the mask, if it is one.
        sparse: True if its background may hide objects that nobody labelled.
        set_name: its set in a mix of several, else "".
        share: of the images that training sees, that its set is to have; 0 is as many as they are.
    """

    name: str
    image_path: Path
    read_mask: Callable[[], Mask] = field(repr=False, compare=False)
    split: str = ""
    sequence: str = ""
    weight: float = 1.0
    labelled: bool = True
    mask_path: Path | None = None
    sparse: bool = False
    set_name: str = ""
    share: float = 0.0

    def read_image(self) -> Image:
        """The image as (H, W, 3) uint8 BGR; raises DatasetError if it cannot be read."""
        return read_image(self.image_path, DatasetError)

    def read_as(self, table: Table) -> Mask:
        """The (H, W) uint8 mask in the classes of `table`; raises DatasetError.

        An object that becomes background, such as a tie, does not hide the person behind it.
        """
        return _in_classes(self.read_mask, table)


class SplitFile(Struct):
    """The split.json of a training run: names of samples."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset.

    Attributes:
        path: the file it concerns.
        split: the only split it concerns, if known, else "".
    """

    path: Path
    message: str
    split: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Dataset:
    """Labelled images in a fixed order.

    Attributes:
        root: the folder or file that was opened.
        format: the row of `DATASETS` that read it.
        labels: its classes; the values of the masks.
        samples: those of all splits.
        problems: everything found wrong while indexing; nothing is dropped silently.
        notes: information for the user that is not a fault, such as where the class names came
            from, or how many images have no mask and are left out.
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
        """Names of the dataset's own splits, in order."""
        return tuple(dict.fromkeys(sample.split for sample in self.samples if sample.split))


@dataclass(frozen=True)
class Layout:
    """One way to lay out labelled images on disk: a row of `DATASETS`.

    Attributes:
        description: the files and folders that identify it.
        matches: whether a path has this layout, judging by file names.
        index: finds every sample under a path; raises DatasetError.
    """

    description: str
    matches: Callable[[Path], bool]
    index: Callable[[Path], Dataset]


_BESIDE_IMAGES = frozenset("annotations annotation ann labels label json jsons".split())
"""Folders of files with annotations, whose images lie beside the folder."""


def refuse_outside(dataset: Dataset) -> None:
    """Refuse images and masks elsewhere than in the dataset's folder.

    A name in a list or an annotation may be absolute or climb by "..", and a file or folder may be
    a link: what they lead to could be private, and `--worst-to` would copy it.

    Raises:
        DatasetError: there are some.
    """
    root = dataset.root
    homes = [root]
    if root.is_file():
        inside = root.parent.name.casefold() in _BESIDE_IMAGES
        others = [Path()] if inside else [Path("images"), Path("data")]
        homes = [root.parent, *(root.absolute().parent.parent / other for other in others)]
    real_homes = [Path(os.path.realpath(home)) for home in homes]
    lies_inside: dict[Path, bool] = {}
    outside: list[Path] = []
    for sample in dataset.samples:
        for path in filter(None, (sample.image_path, sample.mask_path)):
            # a link is looked into; of other files, all in a folder are where the first one is
            place = path if path.is_symlink() else path.parent
            if place not in lies_inside:
                real = Path(os.path.realpath(place))
                lies_inside[place] = any(real.is_relative_to(home) for home in real_homes)
            if not lies_inside[place]:
                outside.append(path)
    if outside:
        first = f"{outside[0]} is {os.path.realpath(outside[0])}"
        raise DatasetError(
            f"cannot use {root}",
            found=f"it names {counted(len(outside), 'image')} outside its folder: {first}",
            do="Pass --allow-outside to read them",
        )


def read_index_mask(
    path: Path, colours: Sequence[Colour] | None = None, *, by_palette: bool = False
) -> Mask:
    """Read the (H, W) uint8 values of a palette or grey image.

    A mask in full colour is decoded by `colours` (RGB by class), which it must match exactly;
    VOC's colour for unlabelled pixels is 255. Without `colours`, a mask whose three channels are
    equal is grey, and any other is decoded by the colours of Pascal VOC.

    Args:
        by_palette: decode a palette image by `colours` too, except for 255: programs that make
            files smaller turn full colour into a palette of each file's own.

    Raises:
        DatasetError: it cannot be read; it has 16 bits, lossy compression, transparency, or a
            colour that belongs to no class.
    """
    stored = read_stored(path, DatasetError)
    _check_exact(stored, path)
    values = stored.values
    if values.ndim == 2:
        if not (by_palette and colours and (palette := _palette(stored))):
            return values
        table = np.zeros((256, 3), np.uint8)
        table[list(palette)] = list(palette.values())
        table[VOID] = VOC_VOID
        return _classes_of_colours(table[values], tuple(colours), path)
    if colours is None and _is_grey(values):
        return np.ascontiguousarray(values[..., 0])
    return _classes_of_colours(values, tuple(colours or voc_colours(VOID)), path)


def colours_in(path: Path) -> dict[int, Colour] | None:
    """The colour of each index but 255 that a palette mask holds; {} of one with grey levels, also
    if it cannot be read; None of one in full colour, unless all of it is grey.
    """
    try:
        stored = read_stored(path, DatasetError)
    except DatasetError:
        return {}
    if stored.values.ndim == 3:
        return {} if _is_grey(stored.values) else None
    return {index: (r, g, b) for index, (r, g, b) in _palette(stored).items() if index != VOID}


def _palette(stored: StoredImage) -> dict[int, list[int]]:
    """The colour of each index that occurs; {} of a palette that gives each its own grey level."""
    if stored.palette is None:
        return {}
    present = np.flatnonzero(np.bincount(stored.values.ravel(), minlength=256)).tolist()
    padded = np.zeros((256, 3), np.uint8)  # black where the palette ends
    padded[: len(stored.palette)] = stored.palette[:256]
    used = {index: padded[index].tolist() for index in present}
    levels = all(colour == [index] * 3 for index, colour in used.items())
    return {} if levels and present != [0] else used


def fit_to_image(mask: Mask, what: str, image_path: Path) -> Mask:
    """The mask for the upright image: itself, or rotated with the image.

    Args:
        what: names the mask in errors.

    Raises:
        DatasetError: mask and image differ in size, or the image cannot be read.
    """
    orientation = check_fits(mask.shape, what, image_path)
    return mask if orientation == 1 else turned_upright(mask, orientation)


def check_fits(shape: tuple[int, ...], what: str, image_path: Path) -> int:
    """The EXIF orientation by which a mask of (height, width) is turned with its image; 1 is none.

    Raises:
        DatasetError: as `fit_to_image`.
    """
    stored, orientation = stored_size(image_path, DatasetError)
    upright = stored[::-1] if orientation in SWAPS_SIDES else stored
    if shape == upright:
        return 1
    if shape == stored:
        return orientation
    raise DatasetError(
        f"cannot use {what}",
        found=f"it is {shape[0]}x{shape[1]} (HxW), its image {image_path.name} is "
        f"{upright[0]}x{upright[1]}",
    )


def _is_grey(rgb: NDArray[np.uint8]) -> bool:
    return bool((rgb == rgb[..., :1]).all())


def _check_exact(stored: StoredImage, path: Path) -> None:
    """Raise DatasetError for a mask whose values cannot be class indices."""
    found = ""
    if stored.lossy:
        found = "JPEG compression changes pixel values, so they are not class indices"
    elif stored.values.dtype != np.uint8:
        found = f"its pixels have more than 8 bits ({stored.values.dtype})"
    elif stored.transparent:
        found = "parts of it are transparent"
    if found:
        raise DatasetError(f"cannot use the mask {path}", found=found, do=_SAVE_AS)


_SAVE_AS = "Save it as an 8-bit PNG, grey or palette, whose values are class indices."


def _classes_of_colours(rgb: NDArray[np.uint8], colours: tuple[Colour, ...], path: Path) -> Mask:
    packed = (rgb.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(axis=2)
    known, classes = _packed_palette(colours)
    at = np.searchsorted(known, packed).clip(max=len(known) - 1)
    unknown = np.unique(packed[known[at] != packed])
    if unknown.size:
        more = f" (nor do {unknown.size - 1} more)" if unknown.size > 1 else ""
        raise DatasetError(
            f"cannot use the mask {path}",
            found=f"it is in full colour, and #{unknown[0]:06x} does not belong to a class{more}",
            do=_SAVE_AS,
        )
    return classes[at]


@cache
def _packed_palette(colours: tuple[Colour, ...]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The colours as sorted numbers 0xrrggbb, and the class of each."""
    classes = {(r << 16) + (g << 8) + b: index for index, (r, g, b) in enumerate(colours)}
    r, g, b = VOC_VOID
    classes.setdefault((r << 16) + (g << 8) + b, VOID)
    known = sorted(classes)
    return np.array(known, np.int32), np.array([classes[value] for value in known], np.uint8)
