"""A picture, a folder of pictures, or a glob of them: one frame each, in natural order."""

from __future__ import annotations

import glob
import os
import re
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image
from rtseg.sources import PICTURE_SUFFIXES
from rtseg.sources.capture import hush
from rtseg.sources.options import SourceOptions, exact_rate
from rtseg.stats import Clock

NOMINAL_RATE = Fraction(25)
"""Pictures have no time; pts counts them at this rate, or at the one asked for."""

PAPER = 255
"""What shows through transparent pixels: white, as on paper."""

ORIENTATION = 0x0112
"""EXIF's tag of it: 1 to 8."""


class PictureSource(Source):
    """Pictures as frames, each named by its file's stem; sizes may differ between them.

    Of a file that holds several, as an animated WebP or a TIFF of many pages, the first is taken,
    and `warnings` tell.

    Args:
        target: a picture; a folder, whose pictures are taken but not those of its folders; or
            a glob.

    Raises:
        SourceError: there is no picture, or one cannot be read; then the message names it.
        UsageError: the glob means files that are not pictures.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        self._paths = find_pictures(target)
        self._index = 0
        asked = None if options.fps is None else exact_rate(options.fps)
        self._rate = asked or NOMINAL_RATE
        self._held: Image | None = read_picture(self._paths[0])
        height, width = self._held.shape[:2]
        name = self._paths[0].name if len(self._paths) == 1 else target
        self.info = SourceInfo(
            name, width, height, asked, len(self._paths), pictures=tuple(self._paths)
        )

    def _read(self) -> Frame | None:
        if self._index == len(self._paths):
            return None
        path = self._paths[self._index]
        image, self._held = self._held, None
        if image is None:
            image = read_picture(path)
        self._check_single(path)
        pts = float(self._index / self._rate)
        frame = Frame(image, self._index, pts, self.clock.now(), path.stem)
        self._index += 1
        return frame

    def _check_single(self, path: Path) -> None:
        if not self.warnings and (count := cv2.imcount(os.fsencode(path))) > 1:  # type: ignore[arg-type]
            self.warnings.append(
                f"{path.name} holds {count} pictures, and the first alone is taken: "
                "save them one by one in a folder, or as a video"
            )


def find_pictures(target: str) -> list[Path]:
    """The pictures that a path means, `2.png` before `10.png`.

    Raises:
        SourceError: there is none.
        UsageError: the glob means files that are not pictures.
    """
    path = Path(target)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path)
    if not re.search(r"[*?\[]", target):
        raise SourceError(
            f"cannot open {target}", found="there is no such file or folder", do="Check the path"
        )
    found = [Path(name) for name in glob.glob(target, recursive=True)]  # noqa: PTH207 - absolute too
    files = sorted((p for p in found if p.is_file()), key=natural)
    if not files:
        raise SourceError(f"no file is called {target}")
    others = [p.name for p in files if p.suffix.lower() not in PICTURE_SUFFIXES]
    if others:
        raise UsageError(
            f"a glob is for pictures: {target}",
            found=f"it means {others[0]}" + (f" and {len(files) - 1} more" * (len(files) > 1)),
            do="Name one video at a time",
        )
    return files


def _in_folder(folder: Path) -> list[Path]:
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES]
    except OSError as error:
        raise SourceError(
            f"cannot open {folder}", found=(error.strerror or str(error)).lower()
        ) from error
    pictures = sorted((p for p in files if not p.name.startswith(".")), key=natural)
    if not pictures:
        raise SourceError(
            f"no pictures in {folder}",
            found="it has no file ending in " + " ".join(sorted(PICTURE_SUFFIXES)),
        )
    return pictures


def natural(path: Path) -> tuple[list[str | int], str]:
    """A sort key by which numbers count as numbers: img2 before img10."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return [int(part) if part.isdecimal() else part for part in parts], str(path)


def read_picture(path: Path) -> Image:
    """(H, W, 3) uint8 BGR, upright by its EXIF, transparent pixels over white; 16 bits become 8.

    Raises:
        SourceError: the file cannot be read, or is no picture.
    """
    asked = f"cannot read the picture {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(asked, found=(error.strerror or str(error)).lower()) from error
    if not content:
        raise SourceError(asked, found="the file is empty")
    if has_wrong_checksum(content):
        raise SourceError(asked, found="it is damaged: a checksum in it is wrong")
    if is_cut_off(content):
        raise SourceError(asked, found="the file is cut off")
    hush()
    raw = np.frombuffer(content, np.uint8)
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        over_white = None if content[:2] == b"\xff\xd8" else _over_white(raw)
    except cv2.error as error:
        raise SourceError(asked, found=_first_line(error)) from error
    if image is None:
        raise SourceError(asked, found="it is damaged, or not a picture that OpenCV knows")
    fits = over_white is not None and over_white.shape == image.shape
    return np.ascontiguousarray(over_white if fits else image)


def _over_white(raw: NDArray[np.uint8]) -> Image | None:
    """What `raw` is the file of, upright and over white; None where nothing of it is transparent.

    OpenCV turns upright only what it reads without its transparency.
    """
    stored, kinds, blocks = cv2.imdecodeWithMetadata(raw, flags=cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
        return None
    exif = [b for kind, b in zip(kinds, blocks, strict=True) if kind == cv2.IMAGE_METADATA_EXIF]
    return over_paper(upright(stored, orientation_of(exif[0].tobytes()) if exif else 1))


def orientation_of(exif: bytes) -> int:
    """How stored pixels lie, 1 to 8, by a block of EXIF; 1 is upright, and where it does not say.

    A block that is damaged says nothing.
    """
    order: Literal["big", "little"] = "big" if exif.startswith(b"MM") else "little"

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], order)

    entries = number(4, 4) + 2
    for entry in range(entries, entries + 12 * number(entries - 2, 2), 12):
        if number(entry, 2) == ORIENTATION:
            return number(entry + 8, 2)
    return 1


def upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of stored pixels, (H, W, ...), as EXIF's `orientation` wants them to be seen."""
    turned = stored.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else stored
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return turned[rows, columns]


def has_wrong_checksum(content: bytes) -> bool:
    """Whether a PNG is damaged where it cannot be shown without; libpng would say so aloud."""
    at = 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        needed = content[at + 4 : at + 5].isupper() and end + 4 <= len(content)
        stored = int.from_bytes(content[end : end + 4], "big")
        if needed and zlib.crc32(content[at + 4 : end]) != stored:
            return True
        at = end + 4
    return False


def is_cut_off(content: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end.

    Found here, since libpng would say so on the terminal, and cannot be hushed; and OpenCV 4 fills
    what a JPEG lacks with grey.
    """
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content
    if not content.startswith(b"\xff\xd8"):
        return False
    at = 2  # over the header's segments, one of which may be a whole picture, the thumbnail
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != b"\xda":
        if content[at + 1 : at + 2] == b"\xff":  # a marker may be preceded by any number of these
            at += 1
            continue
        at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
    return b"\xff\xd9" not in content[at:]


def over_paper(stored: NDArray[np.uint8] | NDArray[np.uint16]) -> Image:
    """(H, W, 4) BGRA of 8 or 16 bits -> (H, W, 3) uint8 BGR over white."""
    top = float(np.iinfo(stored.dtype).max) if stored.dtype.kind == "u" else 1.0
    scaled = stored.astype(np.float32) / top
    alpha = scaled[..., 3:]
    blended = (scaled[..., :3] * alpha + (1.0 - alpha)) * PAPER
    return np.rint(blended).clip(0, 255).astype(np.uint8)


def _first_line(error: cv2.error) -> str:
    return str(error.err or error).strip().splitlines()[0]
