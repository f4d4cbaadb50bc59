"""Pictures: a folder of them, a numbered pattern, or a single one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import SinkError, UsageError, counted
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.sinks import NUMBER, PICTURE_SUFFIXES, SinkOptions
from rtseg.sinks.files import cannot_write, check_new, check_parent

JPEG_QUALITY = 95


class PictureFiles:
    """Names for pictures, one per frame, and files that appear whole or not at all.

    `frames_%06d.png` takes the frame's number; `folder` the frame's name, or its number where it
    has none or the name was used before; `picture.png` belongs to a source of one picture.

    Raises:
        UsageError: pictures are there already, or there is nowhere to put them.
        SinkError: the folder cannot be written.
    """

    def __init__(self, path: Path, info: SourceInfo, *, overwrite: bool) -> None:
        self.path, self.count = path, 0
        self._used: set[str] = set()
        self._single = path.suffix.lower() in PICTURE_SUFFIXES and not NUMBER.search(path.name)
        self._folder = path.suffix.lower() not in PICTURE_SUFFIXES or path.is_dir()
        check_parent(path)
        self._spare(info.pictures)
        if self._folder:
            self._open_folder(overwrite)
        elif self._single:
            self._single_only(info)
            check_new(path, overwrite)
        elif not overwrite and (found := self._matching()):
            raise UsageError(f"{path} exists", found=found, do="Pass -y to overwrite.")
        self._check_writable(path if self._folder else path.parent)

    def write(self, frame: Frame, encode: Callable[[str], bytes]) -> None:
        """Write one picture; `encode` turns its suffix into its bytes.

        Raises:
            SinkError: it cannot be written.
        """
        path = self._name(frame)
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            part.write_bytes(encode(path.suffix.lower()))
            os.replace(part, path)  # noqa: PTH105 - the name says that it is atomic
        except OSError as error:
            part.unlink(missing_ok=True)
            kept = f"Kept: {counted(self.count, 'picture')}." if self.count else ""
            raise cannot_write(path, error, kept) from error
        self.count += 1

    def close(self) -> None:
        """Remove the folder again when nothing was put into it."""
        if self._folder and self._made and not self.count and self.path.is_dir():
            self.path.rmdir()

    def summary(self, what: str) -> str:
        """One line: how many went where."""
        return f"{counted(self.count, what)} to {self.path}" if self.count else ""

    def _name(self, frame: Frame) -> Path:
        if self._folder:
            name = re.sub(r"[\\/:\0]", "_", frame.name) or f"{frame.index:06d}"
            if name.casefold() in self._used:
                name = f"{name}_{frame.index:06d}"
            self._used.add(name.casefold())
            return self.path / f"{name}.png"
        if self._single:
            if self.count:
                raise SinkError(
                    f"{self.path} is one picture", found="the source has more", do=MANY_PICTURES
                )
            return self.path
        return self.path.with_name(
            NUMBER.sub(lambda field: field[0] % frame.index, self.path.name, count=1)
        )

    def _spare(self, originals: Iterable[Path]) -> None:
        """Refuse to replace the source's own pictures, with -y too."""
        folder = os.path.realpath(self.path if self._folder else self.path.parent)
        for original in originals:
            if os.path.realpath(original.parent) == folder and self._means(original.name):
                raise UsageError(
                    f"cannot write {self.path}",
                    found=f"it would replace {original}, which is of the source",
                    do="Give another folder",
                )

    def _means(self, name: str) -> bool:
        """Whether a picture of the source may be written under this name."""
        if self._folder:
            return name.lower().endswith(".png")
        return name == self.path.name if self._single else bool(self._pattern().fullmatch(name))

    def _open_folder(self, overwrite: bool) -> None:
        self._made = not self.path.exists()
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"cannot write into {self.path}", found="it is a file")
        if not self._made and not overwrite and any(self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty", do="Pass -y to overwrite what is in it.")
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _single_only(self, info: SourceInfo) -> None:
        if info.frame_count != 1:
            raise UsageError(
                f"{self.path} is one picture",
                found=f"{info.name} has {info.frame_count or 'any number of'} frames",
                do=MANY_PICTURES,
            )

    def _matching(self) -> str:
        """The name of a file that the pattern would write, if one is there."""
        names = sorted(entry.name for entry in self.path.parent.iterdir())
        return next((name for name in names if self._pattern().fullmatch(name)), "")

    def _pattern(self) -> re.Pattern[str]:
        before, after = NUMBER.split(self.path.name, maxsplit=1)
        return re.compile(re.escape(before) + r"\d+" + re.escape(after))

    def _check_writable(self, folder: Path) -> None:
        probe = folder / ".rtseg.part"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise cannot_write(self.path, error) from error


MANY_PICTURES = "For many, write frames_%06d.png, folder/ or out.mp4."


class PictureSink(Sink):
    """Writes every finished picture as PNG or JPEG."""

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._files = PictureFiles(path, info, overwrite=options.overwrite)

    def write(self, rendered: Rendered) -> None:
        """Write one picture."""
        self._files.write(rendered.frame, lambda suffix: encode(rendered.picture, suffix))

    def close(self) -> None:
        """Nothing is left to finish; an empty folder goes."""
        self._files.close()

    def summary(self) -> str:
        """How many went where."""
        return self._files.summary("picture")


def encode(image: Image, suffix: str) -> bytes:
    """(H, W, 3) uint8 BGR, or (H, W, 4) BGRA, as the bytes of a picture file.

    Raises:
        OSError: the format cannot hold it.
    """
    if image.shape[2] == 4 and suffix != ".png":
        raise OSError(f"{suffix} cannot hold transparency, .png can")
    settings = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    try:
        done, content = cv2.imencode(suffix, image, settings)
    except cv2.error:  # what OpenCV 4 does where 5 returns False
        done = False
    if not done:
        raise OSError(f"{suffix} cannot hold {image.shape[1]}x{image.shape[0]}")
    return content.tobytes()


class NullSink(Sink):
    """Takes frames and keeps none: runs for the numbers alone."""

    wants_image = False

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        pass

    def write(self, rendered: Rendered) -> None:
        """Do nothing."""
