"""What a command will write, checked against one another and against what it reads.

Names are compared as the file system compares them: through links, by folder and not by spelling,
and without regard to case where it has none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rtseg.errors import UsageError
from rtseg.files import ignores_case
from rtseg.text import first_characters, user_path

NUMBER = re.compile(r"%0?\d*d")
"""The field of a numbered pattern, `frames_%06d.png`."""


@dataclass(frozen=True)
class Output:
    """A file, or all files of a folder whose names begin and end so.

    Attributes:
        asked: how the user named it: "-o p/".
        folder: where the files go; it may not exist yet.
        before, after: beginning and end of their names.
        between: what may be between; "nothing" if it is one file.
    """

    asked: str
    folder: Path
    before: str
    after: str = ""
    between: Literal["nothing", "digits", "anything"] = "nothing"

    @classmethod
    def file(cls, asked: str, path: Path) -> Output:
        """One file; "-" is stdout."""
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        return cls(asked, path.parent, path.name)

    @classmethod
    def pictures(cls, asked: str, path: Path, *, numbered: bool) -> Output:
        """Those of a numbered pattern, or the PNGs of a folder, which may be all `numbered`."""
        if NUMBER.search(path.name):
            before, after = NUMBER.split(path.name, maxsplit=1)
            return cls(asked, path.parent, before, after, "digits")
        return cls(asked, path, "", ".png", "digits" if numbered else "anything")

    @property
    def path(self) -> Path:
        """Of one file."""
        return self.folder / self.before

    @property
    def is_linked(self) -> bool:
        """Whether it is one file that has other names too."""
        is_there = self.between == "nothing" and self.path.is_file()
        return is_there and self.path.stat().st_nlink > 1

    def writes(self, name: str) -> bool:
        """Whether a file of this name in its folder is one of them."""
        if self.between == "nothing":
            return _same_name(self.before, name, self.folder)
        rest = name[len(self.before) : len(name) - len(self.after)]
        whole = f"{self.before}{rest}{self.after}".casefold() == name.casefold()
        return whole and bool(rest) and (self.between == "anything" or rest.isdecimal())

    def meets(self, other: Output) -> bool:
        """Whether both may write a file of the same name."""
        for one, two in ((self, other), (other, self)):
            if one.between == "nothing":
                if two.between != "nothing" and _same_path(one, two.folder):
                    return True
                linked = two.between == "nothing" and one.is_linked and two.is_linked
                if linked and one.path.samefile(two.path):
                    return True
                return _same_folder(one.folder, two.folder) and two.writes(one.before)
        anything = "anything" in (self.between, other.between)
        return (
            _same_folder(self.folder, other.folder)
            and _fits(self.before, other.before, anything=anything)
            and _fits(self.after[::-1], other.after[::-1], anything=anything)
        )


def check_apart(outputs: Sequence[Output], inputs: Iterable[tuple[Path, str]] = ()) -> None:
    """Refuse outputs that would replace one another, or what the command reads.

    Args:
        inputs: files that are read, and what each is: "part of the source".

    Raises:
        UsageError: two outputs may write the same file, or one replaces an input.
    """
    for number, one in enumerate(outputs):
        for other in outputs[:number]:
            if not one.meets(other):
                continue
            name, again = (each.asked.partition(" ")[2] for each in (other, one))
            if one.between == other.between == "nothing" or Path(name) == Path(again):
                name = "stdout" if name == "-" else name
                raise UsageError(f"{name} is given twice as an output", do="Give each its own name")
            raise UsageError(
                f"{other.asked} and {one.asked}",
                found="they would replace one another's files",
                do="Give each its own folder",
            )
    read: dict[Path, list[tuple[str, Path, str]]] = {}
    for path, what in inputs:
        real = Path(os.path.realpath(path)) if path.is_symlink() else path
        for place in dict.fromkeys((path, real)):
            read.setdefault(place.parent, []).append((place.name, path, what))
    for one in outputs:
        for folder, names in read.items():
            same = _same_folder(one.folder, folder)
            linked = one.is_linked
            for name, path, what in names if same or linked else ():
                if (same and one.writes(name)) or (linked and path.samefile(one.path)):
                    raise UsageError(
                        one.asked,
                        found=f"it would replace {path}, which is {what}",
                        do="Give the output another name or folder",
                    )


def read_by(named: Mapping[str, str | Iterable[str] | None]) -> Iterator[tuple[Path, str]]:
    """The files among what flags name, as inputs of `check_apart`."""
    for flag, texts in named.items():
        for text in [texts] if isinstance(texts, str) else texts or ():
            if is_file(text):
                yield user_path(text), f"read by {flag}"


def is_file(text: str) -> bool:
    """Whether a text is the path of a file; False for one that cannot be a path."""
    try:
        return user_path(text).is_file()
    except (OSError, ValueError, UsageError):
        return False


def check_not_among(outputs: Iterable[Output], root: Path, mark: str) -> None:
    """Refuse outputs that would replace a file among labelled images, as their annotations.

    Args:
        mark: what a JSON file of the same command begins with; these may be replaced.

    Raises:
        UsageError: one of them would.
    """
    root = Path(os.path.realpath(root))
    for output in outputs:
        place = Path(os.path.realpath(output.path))
        if output.between != "nothing" or not place.exists() or not place.is_relative_to(root):
            continue
        if place.suffix.lower() != ".json" or mark not in first_characters(place, 64):
            raise UsageError(
                output.asked,
                found=f"it would replace a file of the labelled images in {root}",
                do="Give the output another name or folder",
            )


def _fits(one: str, other: str, *, anything: bool) -> bool:
    """Whether one is the beginning of the other, the rest of which may stand for a number."""
    short, long = sorted((one.casefold(), other.casefold()), key=len)
    rest = long[len(short) :]
    return long.startswith(short) and (anything or not rest or rest.isdecimal())


def _same_name(one: str, other: str, folder: Path) -> bool:
    if one == other:
        return True
    return one.casefold() == other.casefold() and ignores_case(folder)


def _same_path(output: Output, path: Path) -> bool:
    """Whether a file has the path of a folder."""
    is_there = _same_name(output.before, path.name, output.folder)
    return is_there and _same_folder(output.folder, path.parent)


def _same_folder(one: Path, other: Path) -> bool:
    """Whether two paths are, or will be, the same folder."""
    one, other = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    if one == other:
        return True
    try:
        if one.exists() or other.exists():
            return one.samefile(other)
    except OSError:  # one of them does not exist
        return False
    return _same_name(one.name, other.name, one.parent) and _same_folder(one.parent, other.parent)
