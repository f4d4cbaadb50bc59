"""Index masks of labelled sets, read so that a mask lies on its image.

**Turned images.** A camera held upright often stores its image lying, with an EXIF note that says
how to turn it. Images are read upright, as `rtseg run` shows them and a network will meet them. A
mask that has the size of the upright image was drawn on it and stays as it is; one that has the
size of the lying image was drawn on the stored pixels and is turned with it. Where both sizes are
the same (turned by 180 degrees, mirrored, or square), masks count as drawn on what annotators see
today: the upright image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import DatasetError
from rtseg.frame import VOID, Mask
from rtseg.images import (
    SWAPS_SIDES,
    StoredImage,
    read_stored,
    stored_size,
    turned_upright,
)
from rtseg.labels import Colour, voc_colours

VOC_VOID: Colour = (224, 224, 192)

REMEDY = "Save it as an 8-bit PNG, grey or palette, whose values are class indices"


def read_index_mask(path: Path, colours: Sequence[Colour] | None = None) -> Mask:
    """(H, W) uint8: the values of a palette or grey image, as they are stored.

    A mask in full colour is read by `colours` (RGB, that of class i at i), which it must match
    exactly; VOC's colour for "no class" is 255. Without `colours`, one whose three channels are
    equal is grey, and others are read by the colours of Pascal VOC.

    Raises:
        DatasetError: it cannot be read; it has 16 bits, lossy compression, transparency, or a
            colour of no class.
    """
    stored = read_stored(path, DatasetError)
    _check_exact(stored, path)
    values = stored.values
    if values.ndim == 2:
        return values
    if colours is None and _is_grey(values):
        return np.ascontiguousarray(values[..., 0])
    return _by_colour(values, tuple(colours or voc_colours(VOID)), path)


def is_coloured(path: Path) -> bool:
    """Whether a mask is in full colour, and not all of it grey; False where it cannot be read."""
    try:
        values = read_stored(path, DatasetError).values
    except DatasetError:
        return False
    return values.ndim == 3 and not _is_grey(values)


def fit_to_picture(mask: Mask, what: str, image_path: Path) -> Mask:
    """The mask as it lies on the upright image: itself, or turned with the image.

    Raises:
        DatasetError: `what` it is has another size than the image, or that cannot be read.
    """
    stored, orientation = stored_size(image_path, DatasetError)
    upright = stored[::-1] if orientation in SWAPS_SIDES else stored
    if mask.shape == upright:
        return mask
    if mask.shape == stored:
        return turned_upright(mask, orientation)
    raise DatasetError(
        f"cannot use {what}",
        found=f"it is {mask.shape[0]}x{mask.shape[1]} (HxW), its image {image_path.name} is "
        f"{upright[0]}x{upright[1]}",
    )


def _is_grey(rgb: NDArray[np.uint8]) -> bool:
    return bool((rgb == rgb[..., :1]).all())


def _check_exact(stored: StoredImage, path: Path) -> None:
    """Raise DatasetError for a mask whose values cannot be class indices."""
    found = ""
    if stored.lossy:
        found = "JPEG changes the values of pixels, so they are not class indices"
    elif stored.values.dtype != np.uint8:
        found = f"its pixels have more than 8 bits ({stored.values.dtype}), a class index has 8"
    elif stored.transparent:
        found = "parts of it are transparent"
    if found:
        raise DatasetError(f"cannot use the mask {path}", found=found, do=REMEDY)


def _by_colour(rgb: NDArray[np.uint8], colours: tuple[Colour, ...], path: Path) -> Mask:
    packed = (rgb.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(axis=2)
    known, classes = _palette(colours)
    at = np.searchsorted(known, packed).clip(max=len(known) - 1)
    unknown = np.unique(packed[known[at] != packed])
    if unknown.size:
        raise DatasetError(
            f"cannot use the mask {path}",
            found=f"it is in full colour, and no class has the colour #{unknown[0]:06x}"
            + f" (nor {unknown.size - 1} more)" * (unknown.size > 1),
            do=REMEDY,
        )
    return classes[at]


@cache
def _palette(colours: tuple[Colour, ...]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The colours as sorted numbers 0xrrggbb, and the class of each."""
    classes = {(r << 16) + (g << 8) + b: index for index, (r, g, b) in enumerate(colours)}
    r, g, b = VOC_VOID
    classes.setdefault((r << 16) + (g << 8) + b, VOID)
    known = sorted(classes)
    return np.array(known, np.int32), np.array([classes[value] for value in known], np.uint8)
