"""Images: a folder of them, a numbered pattern, or a single file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import SinkError, UsageError
from rtseg.files import (
    atomic,
    cannot_write,
    check_new,
    check_parent,
    check_replaceable,
    check_writable,
    cut_name,
    is_temporary,
    sweep,
)
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.outputs import NUMBER
from rtseg.sinks.encoding import no_alpha
from rtseg.sinks.options import PICTURE_SUFFIXES, SinkOptions
from rtseg.text import counted

JPEG_QUALITY = 95

MANY_FORMS = "For more than one, write frames_%06d.png, folder/ or out.mp4."


class PictureSink(Sink):
    """Writes every finished image as PNG or JPEG."""

    medium = "file"

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._files = PictureFiles(path, info, overwrite=options.overwrite)

    def write(self, rendered: Rendered) -> None:
        """Write one image."""
        self._files.write(rendered.frame, lambda suffix: encode(rendered.picture, suffix))

    def close(self) -> None:
        """Remove the folder if it is empty and was created for this."""
        self._files.close()

    def summary(self) -> str:
        """Number of images and where they are."""
        return self._files.summary("image")


def check_pictures(path: Path, options: SinkOptions, alpha: bool) -> None:
    """Raise UsageError if images have alpha and the format cannot hold it."""
    suffix = path.suffix.lower()
    if alpha and suffix in (".jpg", ".jpeg"):
        raise no_alpha(suffix)


def encode(image: Image, suffix: str) -> bytes:
    """(H, W, 3) uint8 BGR or (H, W, 4) uint8 BGRA as the bytes of an image file.

    Raises:
        OSError: the format cannot hold it.
    """
    if image.shape[2] == 4 and suffix != ".png":
        raise OSError(f"{suffix} cannot hold transparency, .png can")
    settings = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    try:
        done, content = cv2.imencode(suffix, image, settings)
    except cv2.error:  # OpenCV 4; OpenCV 5 returns False
        done = False
    if not done:
        raise OSError(f"{suffix} cannot hold {image.shape[1]}x{image.shape[0]}")
    return content.tobytes()


class PictureFiles:
    """Names for images, one per frame, each written whole or not at all.

    `frames_%06d.png` takes the frame's index; `folder` the frame's name, or its index if it has no
    name or the name was used before; `image.png` is for a source of one image.

    Raises:
        UsageError: such images exist, or their folder does not.
        SinkError: the folder cannot be written.
    """

    def __init__(self, path: Path, info: SourceInfo, *, overwrite: bool) -> None:
        self.path, self.count = path, 0
        self._used: set[str] = set()
        self._is_single = path.suffix.lower() in PICTURE_SUFFIXES and not NUMBER.search(path.name)
        self._is_folder = path.suffix.lower() not in PICTURE_SUFFIXES or path.is_dir()
        field = NUMBER.search(path.name)
        if field is not None and int(field[0].strip("%d") or 0) > 99:
            raise UsageError(
                f"{path}",
                found="its number has too many digits for the name of a file",
                do="Write frames_%06d.png",
            )
        check_parent(path)
        self._check_originals(info.pictures)
        if self._is_folder:
            self._open_folder(overwrite)
        elif self._is_single:
            self._check_single(info)
            check_new(path, overwrite)
            check_replaceable(path)
        elif not overwrite and (found := self._existing()):
            raise UsageError(f"{path} exists", found=found, do="Pass -y to overwrite.")
        folder = path if self._is_folder else path.parent
        check_writable(folder / path.name)
        sweep(folder)

    def write(self, frame: Frame, encode: Callable[[str], bytes]) -> None:
        """Write one image; `encode` returns its bytes for a suffix.

        Raises:
            SinkError: it cannot be written.
        """
        path = self._path_for(frame)
        try:
            with atomic(path, make_folder=False) as part:
                part.write_bytes(encode(path.suffix.lower()))
        except OSError as error:
            kept = f"Kept: {counted(self.count, 'picture')}."
            if not path.parent.is_dir():
                kept = f"{path.parent} was removed or renamed during the run"
            raise cannot_write(path, error, kept if self.count else "") from error
        self.count += 1

    def close(self) -> None:
        """Remove the folder if it is empty and was created here."""
        if self._is_folder and self._created and not self.count and self.path.is_dir():
            self.path.rmdir()

    def summary(self, what: str) -> str:
        """One line: number of `what`, and where they are."""
        return f"{counted(self.count, what)} to {self.path}" if self.count else ""

    def _path_for(self, frame: Frame) -> Path:
        if self._is_folder:
            name = re.sub(r"[\\/:\0]", "_", frame.name) or f"{frame.index:06d}"
            name = cut_name(name, ".png")
            stem, suffix = name.removesuffix(".png"), f"_{frame.index:06d}.png"
            while name.casefold() in self._used:
                name, suffix = cut_name(stem, suffix), f"_{suffix}"
            self._used.add(name.casefold())
            return self.path / name
        if self._is_single:
            if self.count:
                raise SinkError(
                    f"{self.path} is one picture", found="the source has more", do=MANY_FORMS
                )
            return Path(os.path.realpath(self.path))  # through a link
        return self.path.with_name(
            NUMBER.sub(lambda field: field[0] % frame.index, self.path.name, count=1)
        )

    def _check_originals(self, originals: Iterable[Path]) -> None:
        """Refuse to replace the source's own images, even with -y."""
        folder = os.path.realpath(self.path if self._is_folder else self.path.parent)
        for original in originals:
            same = self._is_single and self.path.exists() and self.path.samefile(original)
            if same or (
                os.path.realpath(original.parent) == folder and self._may_write(original.name)
            ):
                raise UsageError(
                    f"cannot write {self.path}",
                    found=f"it would replace {original}, which is part of the source",
                    do="Name another folder",
                )

    def _may_write(self, name: str) -> bool:
        """Whether an image of the source may be written under this name."""
        if self._is_folder:
            return name.lower().endswith(".png")
        if self._is_single:
            return name == self.path.name
        return bool(self._pattern().fullmatch(name))

    def _open_folder(self, overwrite: bool) -> None:
        self._created = not self.path.exists()
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"cannot write into {self.path}", found="it is a file")
        others = () if self._created or overwrite else self.path.iterdir()
        if not all(is_temporary(path.name) for path in others):  # as of other outputs of the run
            raise UsageError(f"{self.path} is not empty", do="Pass -y to overwrite what is in it.")
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _check_single(self, info: SourceInfo) -> None:
        if info.frame_count != 1:
            raise UsageError(
                f"{self.path} is one picture",
                found=f"{info.name}: {info.frame_count or 'any number of'} frames",
                do=MANY_FORMS,
            )

    def _existing(self) -> str:
        """The name of an existing file that the pattern may write; "" if there is none."""
        names = sorted(entry.name for entry in self.path.parent.iterdir())
        return next((name for name in names if self._pattern().fullmatch(name)), "")

    def _pattern(self) -> re.Pattern[str]:
        before, after = NUMBER.split(self.path.name, maxsplit=1)
        return re.compile(re.escape(before) + r"\d+" + re.escape(after))


class NullSink(Sink):
    """Discards frames: for runs whose figures are all that matters."""

    wants_image = False

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        pass

    def write(self, rendered: Rendered) -> None:
        """Do nothing."""
