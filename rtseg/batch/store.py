"""Where outputs and the records of a batch are: a folder, which several machines may share."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rtseg.files import atomic


class Store(Protocol):
    """Small files by relative name, and finished outputs by their whole address.

    All raise OSError where the store fails.
    """

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, replacing what is there."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file; False if there is one. Of several machines at once one succeeds."""

    def touch(self, name: str) -> None:
        """Make a file the newest, if it is there."""

    def age(self, name: str) -> float | None:
        """Seconds since a file was last written or touched, by the store's own clock; None if it
        is gone."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """As `read`, of many files in order."""

    def names(self, mark: str) -> list[str]:
        """All names with `mark` in them."""

    def has(self, address: str) -> bool:
        """Whether there is an output at an address."""

    def put(self, path: Path, address: str) -> None:
        """Move a finished local file to an address, where it appears whole."""


class Folder:
    """A `Store` in a local or mounted folder."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def read(self, name: str) -> bytes | None:
        """As `Store`."""
        with suppress(FileNotFoundError):
            return (self._root / name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """As `Store`."""
        with atomic(self._root / name) as part:
            part.write_bytes(content)

    def create(self, name: str, content: bytes) -> bool:
        """As `Store`."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(content)
        except OSError:  # a full disk; nobody is to wait for what is left
            path.unlink(missing_ok=True)
            raise
        return True

    def touch(self, name: str) -> None:
        """As `Store`."""
        with suppress(FileNotFoundError):
            os.utime(self._root / name)  # without a time it is the file server's

    def age(self, name: str) -> float | None:
        """As `Store`."""
        try:
            modified = (self._root / name).stat().st_mtime
        except FileNotFoundError:
            return None
        with tempfile.TemporaryFile(dir=self._root) as file:  # by the clock of the file server
            return os.fstat(file.fileno()).st_mtime - modified

    def remove(self, name: str) -> None:
        """As `Store`."""
        (self._root / name).unlink(missing_ok=True)

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """As `Store`."""
        return map(self.read, names)

    def names(self, mark: str) -> list[str]:
        """As `Store`."""
        found = os.walk(self._root)  # passes over folders that vanish, where others work
        files = (Path(place, name) for place, _, names in found for name in names if mark in name)
        return [path.relative_to(self._root).as_posix() for path in files]

    def has(self, address: str) -> bool:
        """As `Store`."""
        return Path(address).exists()

    def put(self, path: Path, address: str) -> None:
        """As `Store`."""
        target = Path(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with atomic(target) as part:
                shutil.copyfile(path, part)
            path.unlink()
