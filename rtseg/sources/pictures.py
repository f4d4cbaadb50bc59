"""A picture, a folder or a glob of pictures: each is a frame, in natural order."""

from __future__ import annotations

import glob
import re
from collections import deque
from fractions import Fraction
from itertools import islice
from pathlib import Path

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.files import reason
from rtseg.frame import Frame, Image
from rtseg.images import (
    IMAGE_SUFFIXES,
    decode_image,
    holds_several,
    read_animation,
    read_image,
    refusal,
)
from rtseg.outputs import NUMBER
from rtseg.sources.options import SourceOptions, exact_rate, split_glob
from rtseg.stats import Clock
from rtseg.text import counted, listed, natural_key

NOMINAL_RATE = Fraction(25)
"""pts counts pictures at this rate, unless the options give one."""

DELAYS = 3
"""Frames of an animation of which the shortest delay gives its rate: the first is often longer."""

MOST_NAMED = 1000
"""Pictures that cannot be read of which each has a warning."""


class PictureSource(Source):
    """Pictures as frames, each named by its file's stem; sizes may differ between them.

    Of a file with several images, such as a TIFF with pages or an animated WebP in a folder, the
    first is taken, with a warning. Other files of a folder or glob are left out, with a note. Those
    that cannot be read are left out, with a warning each, and reported by an error behind the last
    frame.

    Args:
        target: a picture, a folder (without its subfolders), a glob, or a numbered pattern such as
            `frames_%06d.png`.

    Raises:
        SourceError: no image is found, or none can be read; after the last frame, if some
            could not be read.
        UsageError: the glob matches files that are not images alone.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        self._paths, note = find_pictures(target)
        self._target, self._index = target, 0
        self._unread: list[SourceError] = []
        self._warned = False
        rate = None if options.fps is None else exact_rate(options.fps)
        self._rate = rate or NOMINAL_RATE
        self._held = self._next_image()
        if self._held is None:
            raise self._unread[0] if len(self._paths) == 1 else self._fault()
        height, width = self._held.shape[:2]
        name = self._paths[0].name if len(self._paths) == 1 else target
        self.info = SourceInfo(
            name,
            width,
            height,
            rate,
            len(self._paths),
            pictures=tuple(self._paths),
            notes=(note,) if note else (),
        )

    def _read(self) -> Frame | None:
        image, self._held = self._held, None
        if image is None:
            image = self._next_image()
        if image is None:
            if self._unread:
                raise self._fault()
            return None
        path = self._paths[self._index]
        self._warn_of_more(path)
        pts = float(self._index / self._rate)
        frame = Frame(image, self._index, pts, self.clock.now(), path.stem)
        self._index += 1
        return frame

    def _next_image(self) -> Image | None:
        """The picture at the index, which moves on to the next one that can be read."""
        while self._index < len(self._paths):
            try:
                return read_image(self._paths[self._index], SourceError)
            except SourceError as error:
                self._index += 1
                self._unread.append(error)
                if len(self._unread) <= MOST_NAMED:
                    self.warnings.append(str(error))
        return None

    def _fault(self) -> SourceError:
        return SourceError(
            f"cannot read {len(self._unread)} of {counted(len(self._paths), 'image')} of "
            + self._target,
            found="; ".join(map(str, self._unread[:1])),
            do="Remove or repair these files; all others were read",
        )

    def _warn_of_more(self, path: Path) -> None:
        if not self._warned and holds_several(path):
            self._warned = True
            self.warnings.append(
                f"{path.name} holds several images, of which only the first is used: "
                "save them as files in a folder, or as a video"
            )


class AnimationSource(Source):
    """An animated WebP, PNG or AVIF: every frame, at its own time.

    Raises:
        SourceError: it is damaged.
    """

    def __init__(
        self,
        target: str,
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        path = Path(target)
        self._images = read_animation(path, SourceError)
        self._held: deque[tuple[Image, float]] = deque()
        self._fault: SourceError | None = None
        try:
            self._held.extend(islice(self._images, DELAYS))
        except SourceError as error:  # after what comes before it
            self._fault = error
        if not self._held:
            raise self._fault or SourceError(f"cannot play {path.name}", found="it has no frame")
        height, width = self._held[0][0].shape[:2]
        rate = exact_rate(1 / min(lasts for _, lasts in self._held)) or None
        self._index, self._pts = 0, 0.0
        self.info = SourceInfo(path.name, width, height, rate, pictures=(path,))

    def _read(self) -> Frame | None:
        held = self._held.popleft() if self._held else next(self._images, None)
        if held is None and self._fault is not None:
            raise self._fault
        if held is None:
            return None
        image, lasts = held
        frame = Frame(image, self._index, self._pts, self.clock.now(), lasts=lasts)
        self._index, self._pts = self._index + 1, self._pts + lasts
        return frame

    def _release(self) -> None:
        self._images.close()


class Snapshot(Source):
    """One picture that is already in memory, as a server sent it.

    Args:
        content: of the image file.

    Raises:
        SourceError: it is damaged, or not an image.
    """

    def __init__(self, name: str, content: bytes, clock: Clock | None = None) -> None:
        super().__init__(clock)
        try:
            self._image: Image | None = decode_image(content)
        except ValueError as error:
            raise SourceError(f"cannot read the image {name}", found=str(error)) from error
        height, width = self._image.shape[:2]
        self.info = SourceInfo(name, width, height, frame_count=1)

    def _read(self) -> Frame | None:
        image, self._image = self._image, None
        return None if image is None else Frame(image, 0, 0.0, self.clock.now())


def find_pictures(target: str) -> tuple[list[Path], str]:
    """The pictures of a path, glob or numbered pattern, `2.png` before `10.png`; and what was left
    out, or "".

    Raises:
        SourceError: there is none.
        UsageError: the glob matches files that are not images alone.
    """
    path = Path(target)
    if path.is_file():
        return [path], ""
    if path.is_dir():
        return _in_folder(path)
    folder, pattern = split_glob(path)
    if NUMBER.search(path.name):
        before, after = map(re.escape, NUMBER.split(path.name, maxsplit=1))
        found = [p for p in folder.glob("*") if re.fullmatch(rf"{before}\d+{after}", p.name)]
    elif re.search(r"[*?\[]", target):
        names = glob.glob(str(Path(glob.escape(str(folder))) / pattern), recursive=True)  # noqa: PTH207 - absolute too
        found = [Path(name) for name in names]
    else:
        raise SourceError(
            f"cannot open {target}", found="there is no such file or folder", do="Check the path"
        )
    files = sorted((p for p in found if not p.is_dir()), key=natural_key)
    if not files:
        raise SourceError(f"no file matches {target}")
    pictures, others = _sorted_out(files)
    if not pictures and set(others) == {"not an image"}:
        more = f" and {len(files) - 1} more" * (len(files) > 1)
        raise UsageError(
            f"a glob is for pictures: {target}",
            found=f"it matches {files[0].name}{more}",
            do="Name the videos without quotes for a grid, or use rtseg batch",
        )
    if not pictures:
        raise SourceError(f"no pictures match {target}", found=_left_out(others))
    return pictures, _left_out(others)


def _in_folder(folder: Path) -> tuple[list[Path], str]:
    try:
        entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"cannot open {folder}", found=reason(error).lower()) from error
    entries.sort(key=natural_key)
    pictures, others = _sorted_out([p for p in entries if not p.is_dir()])
    if not pictures:
        raise SourceError(
            f"no pictures in {folder}",
            found=_left_out(others)
            or "it has no file ending in " + " ".join(sorted(IMAGE_SUFFIXES)),
        )
    if folders := [p.name for p in entries if p.is_dir()]:
        others["subfolders"] = folders
    return pictures, _left_out(others)


def _sorted_out(files: list[Path]) -> tuple[list[Path], dict[str, list[str]]]:
    """The pictures among files, and the names of the others by why they are left out.

    The usual suffixes are trusted: an image that turns out to be damaged is an error.
    """
    pictures: list[Path] = []
    others: dict[str, list[str]] = {}
    for path in files:
        trusted = path.suffix.lower() in IMAGE_SUFFIXES
        if path.is_fifo() or path.is_socket():
            why = "not a regular file"  # reading it would wait for ever
        else:
            why = "" if trusted else refusal(path)
        if why:
            others.setdefault(why, []).append(path.name)
        else:
            pictures.append(path)
    return pictures, others


def _left_out(others: dict[str, list[str]]) -> str:
    """Files that are left out, by why: "left out 3 files: a.txt, b.mp4 (not an image); ..."."""
    if not others:
        return ""
    groups = "; ".join(f"{listed(names, 3)} ({why})" for why, names in others.items())
    count = sum(len(names) for why, names in others.items() if why != "subfolders")
    return f"left out {counted(count, 'file')}: {groups}" if count else f"left out {groups}"
