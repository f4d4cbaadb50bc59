"""A file that appears under its name only when it is whole."""

from __future__ import annotations

import os
from pathlib import Path

from rtseg.errors import SinkError, UsageError

RESERVE_BYTES = 1 << 18
"""Kept free on the disk, so that a file can still be finished when the disk fills up."""


class FileTarget:
    """The path that was asked for, and the temporary one beside it that is written meanwhile.

    Its constructor makes the temporary file, so that what cannot be written is known at once.

    Raises:
        UsageError: the target exists and may not be replaced, or has no folder to lie in.
        SinkError: the folder cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        # where a link leads, perhaps to another disk, is where the file is wanted
        self._place = Path(os.path.realpath(path))
        self.part = self._place.with_name(f".{path.stem}.part{path.suffix}")
        self._overwrite = overwrite
        check_new(path, overwrite)
        check_parent(self._place if path.is_symlink() else path)
        check_replaceable(path)
        try:
            self.part.write_bytes(b"")
        except OSError as error:
            raise cannot_write(path, error) from error

    def commit(self) -> None:
        """Put the finished file in its place.

        Raises:
            SinkError: it cannot be put there; the temporary file stays and is named.
        """
        if self.path.exists() and not self._overwrite:
            raise SinkError(
                f"{self.path} appeared while it was being written", found=f"kept {self.part}"
            )
        try:
            os.replace(self.part, self._place)  # noqa: PTH105 - the name says that it is atomic
        except OSError as error:
            raise SinkError(
                f"cannot put {self.path} in place", found=f"{reason(error)}; kept {self.part}"
            ) from error

    def discard(self) -> None:
        """Leave nothing behind."""
        self.part.unlink(missing_ok=True)

    def check_space(self, needed: int = 0) -> None:
        """Raise OSError while there is still room to finish what has been written."""
        disk = os.statvfs(self._place.parent) if hasattr(os, "statvfs") else None
        if disk is not None and disk.f_bavail * disk.f_frsize < RESERVE_BYTES + needed:
            raise OSError(28, "No space left on device")


def check_new(path: Path, overwrite: bool) -> None:
    """Raise UsageError when something is there that may not be replaced."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists", do="Pass -y to overwrite it.")


def check_parent(path: Path) -> None:
    """Raise UsageError when the folder that `path` would lie in does not exist."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}", found=f"there is no folder {path.parent}")


def check_replaceable(path: Path) -> None:
    """Raise UsageError where something else than a file is there: a finished file would take its
    place, be it a device or a pipe.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}", found="it is a folder")
    if path.exists() and not path.is_file():
        raise UsageError(
            f"cannot write {path}",
            found="it is a device or a pipe, not a file",
            do="Name a file, or - for stdout",
        )


def reason(error: BaseException) -> str:
    """Why the system refused, in its own words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def cannot_write(path: Path, error: BaseException, kept: str = "") -> SinkError:
    """The SinkError for a system's refusal; `kept` says what is left of it, and where."""
    return SinkError(f"cannot write {path}", found=reason(error), do=kept)
