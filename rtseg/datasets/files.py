"""Pictures and index masks of labelled sets, read so that a mask lies on its picture.

**Turned pictures.** A camera held upright often stores its picture lying, with an EXIF note that
says how to turn it. Pictures are read upright, as `rtseg run` shows them and a network will meet
them. A mask that has the size of the upright picture was drawn on it and stays as it is; one that
has the size of the lying picture was drawn on the stored pixels and is turned with it. Where both
sizes are the same (turned by 180 degrees, mirrored, or square), masks count as drawn on what
annotators see today: the upright picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from rtseg.errors import DatasetError
from rtseg.frame import VOID, Image, Mask
from rtseg.labels import Colour, voc_colours

PICTURE_SUFFIXES = frozenset(".jpg .jpeg .jpe .png .bmp .webp .tif .tiff .ppm .pgm".split())

TURNS = {
    5: Pictures.Transpose.TRANSPOSE,
    6: Pictures.Transpose.ROTATE_270,
    7: Pictures.Transpose.TRANSVERSE,
    8: Pictures.Transpose.ROTATE_90,
}
"""EXIF orientations that swap width and height, and what turns such a picture upright."""

VOC_VOID: Colour = (224, 224, 192)

_ORIENTATION, _WIDTH, _LENGTH = 0x0112, 0x0100, 0x0101
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Pictures.DecompressionBombError)
"""What Pillow raises for a file that is damaged, cut off, or no picture."""


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 BGR, upright by its EXIF, transparent pixels over white; 16 bits become 8.

    Raises:
        DatasetError: the file cannot be read, is cut off, or is no picture.
    """
    try:
        with Pictures.open(path) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            rgb = np.asarray(_rgb(picture))
    except _UNREADABLE as error:
        raise _unreadable("picture", path, error) from error
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from its header alone.

    Raises:
        DatasetError: the file cannot be read, or is no picture.
    """
    (height, width), orientation = _stored_size(path)
    return (width, height) if orientation in TURNS else (height, width)


def read_index_mask(path: Path, colours: Sequence[Colour] | None = None) -> Mask:
    """(H, W) uint8: the values of a palette or grey picture, as they are stored.

    A mask in full colour is read by `colours` (RGB, that of class i at i), which it must match
    exactly; VOC's colour for "no class" is 255. Without `colours`, one whose three channels are
    equal is grey, and others are read by the colours of Pascal VOC.

    Raises:
        DatasetError: it cannot be read; it has 16 bits, lossy compression, transparency, or a
            colour of no class.
    """
    try:
        with Pictures.open(path) as picture:
            _refuse(picture, path)
            picture.load()
            if picture.mode in ("P", "L", "1"):
                return np.asarray(picture).astype(np.uint8) // _scale(path)
            rgb = np.asarray(picture.convert("RGB"))
    except _UNREADABLE as error:
        raise _unreadable("mask", path, error) from error
    if colours is None and (rgb == rgb[..., :1]).all():
        return np.ascontiguousarray(rgb[..., 0])
    return _by_colour(rgb, tuple(colours or voc_colours(VOID)), path)


def is_coloured(path: Path) -> bool:
    """Whether a mask is in full colour, and not all of it grey; False where it cannot be read."""
    try:
        with Pictures.open(path) as picture:
            if picture.mode in ("P", "L", "1"):
                return False
            rgb = np.asarray(picture.convert("RGB"))
    except _UNREADABLE:
        return False
    return bool((rgb != rgb[..., :1]).any())


def fit_to_picture(mask: Mask, what: str, image_path: Path) -> Mask:
    """The mask as it lies on the upright picture: itself, or turned with the picture.

    Raises:
        DatasetError: `what` it is has another size than the picture, or that cannot be read.
    """
    stored, orientation = _stored_size(image_path)
    upright = stored[::-1] if orientation in TURNS else stored
    if mask.shape == upright:
        return mask
    if mask.shape == stored:
        return np.array(Pictures.fromarray(mask).transpose(TURNS[orientation]))
    raise DatasetError(
        f"cannot use {what}",
        found=f"it is {mask.shape[0]}x{mask.shape[1]} (HxW), its picture {image_path.name} is "
        f"{upright[0]}x{upright[1]}",
    )


def _stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """(height, width) as stored, and the EXIF orientation (1 is upright)."""
    try:
        with Pictures.open(path) as picture:
            orientation = picture.getexif().get(_ORIENTATION, 1)
            if isinstance(picture, TiffImageFile):  # its size is the upright one in new Pillows
                tags = picture.tag_v2
                return (tags[_LENGTH], tags[_WIDTH]), orientation
            return (picture.height, picture.width), orientation
    except _UNREADABLE as error:
        raise _unreadable("picture", path, error) from error


def _rgb(picture: Pictures.Image) -> Pictures.Image:
    if picture.mode.startswith("I;16"):
        picture = Pictures.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    paper = Pictures.new("RGBA", picture.size, "white")
    return Pictures.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")


def _refuse(picture: Pictures.Image, path: Path) -> None:
    """Raise DatasetError for a mask whose values cannot be class indices."""
    words = ""
    if picture.format == "JPEG":
        words = "JPEG changes the values of pixels, so they are no class indices"
    elif picture.mode.startswith(("I", "F")):
        words = f"its pixels have more than 8 bits (mode {picture.mode}), a class index has 8"
    elif "A" in picture.mode and picture.getchannel("A").getextrema() != (255, 255):
        words = "parts of it are transparent"
    if words:
        raise DatasetError(
            f"cannot use the mask {path}",
            found=words,
            do="Save it as a PNG of 8 bits, grey or palette, whose values are class indices.",
        )


def _scale(path: Path) -> int:
    """By how much Pillow multiplies the values of a grey PNG of 2 or 4 bits, to fill 8."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG") and head[25] == 0:  # grey, not palette
        return {2: 85, 4: 17}.get(head[24], 1)
    return 1


def _by_colour(rgb: NDArray[np.uint8], colours: tuple[Colour, ...], path: Path) -> Mask:
    packed = (rgb.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(axis=2)
    known, classes = _palette(colours)
    at = np.searchsorted(known, packed).clip(max=len(known) - 1)
    strange = np.unique(packed[known[at] != packed])
    if strange.size:
        raise DatasetError(
            f"cannot use the mask {path}",
            found=f"it is in full colour, and #{strange[0]:06x} is the colour of no class"
            + f" (nor are {strange.size - 1} more)" * (strange.size > 1),
            do="Save it as a PNG of 8 bits, grey or palette, whose values are class indices.",
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


def _unreadable(what: str, path: Path, error: BaseException) -> DatasetError:
    if isinstance(error, Pictures.UnidentifiedImageError):
        empty = path.stat().st_size == 0
        found = "the file is empty" if empty else "it is damaged, or no picture"
    else:
        found = (getattr(error, "strerror", None) or str(error)).lower()
    return DatasetError(f"cannot read the {what} {path}", found=found)
