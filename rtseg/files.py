"""Files that appear under their name only when they are complete, and the checks before writing.

Every file that rtseg writes is written under a temporary name beside its own, and renamed at the
end. `atomic` is the context manager for that, `write_file` writes one text or bytes object, and
`OutputFile` is a file that a person named, written over a whole run.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rtseg.errors import SinkError, UsageError

RESERVE_BYTES = 1 << 18
"""Kept free on the disk, so that a file can still be finished when the disk fills up."""

SHORTEST_LIMIT = 143
"""Bytes of a file name that every file system allows; this is eCryptfs, most others allow 255."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error.

    Whatever interrupts the block, no incomplete file is left. The folder is created if needed. A
    link is replaced, not followed. Several processes may write the same path at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not made by tempfile, whose files only their owner may read
    part = _beside(path, f"-{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _beside(path: Path, mark: str, named: Path | None = None) -> Path:
    """A hidden name beside `path`, with `mark` and the suffix of `named` (default `path`).

    A long name is replaced by a digest of it, as the mark would make it too long to be allowed.
    """
    named = named or path
    stem, suffix = named.stem, named.suffix
    if len(os.fsencode(named.name)) + len(mark) + 1 > SHORTEST_LIMIT:
        stem = hashlib.sha256(os.fsencode(named.name)).hexdigest()[:16]
        suffix = suffix if len(os.fsencode(suffix)) < 16 else ""
    return path.with_name(f".{stem}{mark}{suffix}")


def cut_name(stem: str, suffix: str, limit: int = 255) -> str:
    """`stem` and `suffix` as a file name of at most `limit` bytes; what is too long of `stem` goes.

    A multi-byte character is left out as a whole.
    """
    room = limit - len(os.fsencode(suffix))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + suffix


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file, through a link; text as UTF-8.

    Raises:
        SinkError: it cannot be written; what was there is unchanged.
    """
    try:
        with atomic(Path(os.path.realpath(path))) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise cannot_write(path, error) from error


class OutputFile:
    """A file that a person named; `part` is the temporary path to write to.

    The constructor creates the temporary file, so that a path that cannot be written fails at once.

    Raises:
        UsageError: the path exists and may not be replaced, or its folder does not exist.
        SinkError: the folder cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._place = Path(os.path.realpath(path))  # write through a link, perhaps to another disk
        # the same in every run: one that was killed leaves at most one file
        self.part = _beside(self._place, ".part", path)
        self._overwrite = overwrite
        check_new(path, overwrite)
        check_parent(self._place if path.is_symlink() else path)
        check_replaceable(path)
        try:
            self.part.write_bytes(b"")
        except OSError as error:
            raise cannot_write(path, error) from error

    def commit(self) -> None:
        """Rename the finished file.

        Raises:
            SinkError: it cannot be renamed; the temporary file is kept and named.
        """
        if self.path.exists() and not self._overwrite:
            raise SinkError(
                f"{self.path} appeared while it was being written", found=f"kept {self.part}"
            )
        try:
            self.part.replace(self._place)
        except OSError as error:
            raise SinkError(
                f"cannot rename {self.part} to {self.path}",
                found=f"{reason(error)}; kept {self.part}",
            ) from error

    def discard(self) -> None:
        """Remove the temporary file."""
        self.part.unlink(missing_ok=True)

    def check_space(self, needed: int = 0) -> None:
        """Raise OSError while there is still space to finish what has been written.

        Args:
            needed: bytes that finishing takes, besides `RESERVE_BYTES`.
        """
        disk = os.statvfs(self._place.parent) if hasattr(os, "statvfs") else None
        if disk is not None and disk.f_bavail * disk.f_frsize < RESERVE_BYTES + needed:
            raise OSError(28, "No space left on device")


def check_new(path: Path, overwrite: bool) -> None:
    """Raise UsageError if the path exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists", do="Pass -y to overwrite it.")


def check_parent(path: Path) -> None:
    """Raise UsageError if the folder of `path` does not exist."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}", found=f"there is no folder {path.parent}")


def check_replaceable(path: Path) -> None:
    """Raise UsageError if the path exists and is not a file, which renaming would replace."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}", found="it is a folder")
    if path.exists() and not path.is_file():
        raise UsageError(
            f"cannot write {path}",
            found="it is a device or a pipe, not a file",
            do="Name a file, or - for stdout",
        )


def cannot_write(path: Path, error: BaseException, do: str = "") -> SinkError:
    """The SinkError for an error of the system."""
    return SinkError(f"cannot write {path}", found=reason(error), do=do)


def reason(error: BaseException) -> str:
    """The system's own words for an error."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def discard_output(file: IO[Any]) -> None:
    """Redirect a pipe that nobody reads to the null device, so that its flush at exit succeeds."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, file.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return  # not a real file: nothing flushes it at exit
