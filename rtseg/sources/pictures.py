"""A picture, a folder or a glob of pictures: each is a frame, in natural order."""

from __future__ import annotations

import glob
import re
from fractions import Fraction
from pathlib import Path

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.files import reason
from rtseg.frame import Frame, Image
from rtseg.images import IMAGE_SUFFIXES, count_images, read_image
from rtseg.sources.options import SourceOptions, exact_rate
from rtseg.stats import Clock
from rtseg.text import natural_key

NOMINAL_RATE = Fraction(25)
"""pts counts pictures at this rate, unless the options give one."""


class PictureSource(Source):
    """Pictures as frames, each named by its file's stem; sizes may differ between them.

    Of a file with several images, such as an animated WebP or a TIFF with pages, the first is
    taken, with a warning.

    Args:
        target: a picture, a folder (without its subfolders), or a glob.

    Raises:
        SourceError: there is no picture, or one cannot be read.
        UsageError: the glob matches files that are not pictures.
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
        rate = None if options.fps is None else exact_rate(options.fps)
        self._rate = rate or NOMINAL_RATE
        self._held: Image | None = read_image(self._paths[0], SourceError)
        height, width = self._held.shape[:2]
        name = self._paths[0].name if len(self._paths) == 1 else target
        self.info = SourceInfo(
            name, width, height, rate, len(self._paths), pictures=tuple(self._paths)
        )

    def _read(self) -> Frame | None:
        if self._index == len(self._paths):
            return None
        path = self._paths[self._index]
        image, self._held = self._held, None
        if image is None:
            image = read_image(path, SourceError)
        self._warn_of_more(path)
        pts = float(self._index / self._rate)
        frame = Frame(image, self._index, pts, self.clock.now(), path.stem)
        self._index += 1
        return frame

    def _warn_of_more(self, path: Path) -> None:
        if not self.warnings and (count := count_images(path)) > 1:
            self.warnings.append(
                f"{path.name} holds {count} images, of which only the first is used: "
                "save them as files in a folder, or as a video"
            )


def find_pictures(target: str) -> list[Path]:
    """The pictures of a path or glob, `2.png` before `10.png`.

    Raises:
        SourceError: there is none.
        UsageError: the glob matches files that are not pictures.
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
    files = sorted((p for p in found if p.is_file()), key=natural_key)
    if not files:
        raise SourceError(f"no file matches {target}")
    others = [p.name for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        raise UsageError(
            f"a glob is for pictures: {target}",
            found=f"it matches {others[0]}" + (f" and {len(files) - 1} more" * (len(files) > 1)),
            do="Name one video at a time",
        )
    return files


def _in_folder(folder: Path) -> list[Path]:
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise SourceError(f"cannot open {folder}", found=reason(error).lower()) from error
    pictures = sorted((p for p in files if not p.name.startswith(".")), key=natural_key)
    if not pictures:
        raise SourceError(
            f"no pictures in {folder}",
            found="it has no file ending in " + " ".join(sorted(IMAGE_SUFFIXES)),
        )
    return pictures
