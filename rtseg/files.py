"""Files that appear under their name only when they are complete, and the checks before writing.

Every file that rtseg writes is written under a temporary name beside its own, and renamed at the
end. `atomic` is the context manager for that, `write_file` writes one text or bytes object, and
`OutputFile` is a file that a person named, written over a whole run.

Temporary names cannot be guessed, and the files are new: nothing that lies there is followed,
waited for or replaced. A process keeps its temporary file locked, so that one without a lock is
known to be from a process that was killed: what `atomic` left is removed by `sweep`, what
`resumable` left is continued, and what an `OutputFile` left can be played or read, so `leftovers`
lists it for the user.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rtseg.errors import SinkError, UsageError

if sys.platform != "win32":  # where a file that is open cannot be renamed either
    import fcntl

RESERVE_BYTES = 1 << 18
"""Kept free on the disk, so that a file can still be finished when the disk fills up."""

SHORTEST_LIMIT = 143
"""Bytes of a file name that every file system allows; this is eCryptfs, most others allow 255."""

SWEPT_SECONDS = 60
"""Younger temporary files are not removed: another process may be about to lock them."""

DIGITS = 16
"""Hexadecimal digits of a temporary name."""


class _Part:
    """A new, empty file beside `path`, locked for as long as this process has it.

    It is called `.NAME-XXXXXXXXXXXXXXXX.MARK.SUFFIX` with random digits.

    Args:
        left: a file of this name that another process left, to continue instead of a new one.

    Raises:
        OSError: the folder cannot be written; or `left` is not a file of this user's alone.
    """

    def __init__(
        self, path: Path, mark: str, named: Path | None = None, *, left: Path | None = None
    ) -> None:
        before, after = _around(named or path, mark)
        new = path.with_name(f"{before}{secrets.token_hex(DIGITS // 2)}{after}")
        self.path = left or new
        how = getattr(os, "O_NONBLOCK", 0) if left else os.O_CREAT | os.O_EXCL
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | how
        place = self.path
        if mark == "part" and not left and sys.platform != "win32":
            # nobody is to see its name, and take it for abandoned, before it is locked
            before, after = _around(named or path, "tmp")
            place = path.with_name(f"{before}{secrets.token_hex(DIGITS // 2)}{after}")
        self._open: int | None = os.open(place, flags, 0o666)
        if sys.platform == "win32":
            self.release()
        else:
            try:
                fcntl.flock(self._open, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left and not self._is_ours():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(left))
            except OSError:
                if left:
                    self.release()
                    raise  # a new one may be on a network file system without locks
            if place != self.path:
                self._show(place)

    def _show(self, place: Path) -> None:
        """Give the new file at `place` its temporary name, which random digits make its own."""
        try:
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))
            place.rename(self.path)
        except OSError:
            place.unlink(missing_ok=True)
            self.release()
            raise

    def _is_ours(self) -> bool:
        """Whether what is open is a file of this user with one name, which it still has."""
        facts = os.fstat(self._open or 0)
        alone = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
        if sys.platform != "win32" and facts.st_uid != os.getuid():
            return False
        return alone and os.path.samestat(facts, self.path.lstat())

    def rename(self, path: Path, *, replace: bool) -> None:
        """Give it its name.

        Raises:
            FileExistsError: there is a file of this name, and it may not be replaced.
            OSError: it cannot be renamed.
        """
        if replace:
            self.path.replace(path)
            return
        try:
            os.link(self.path, path)
        except FileExistsError:
            raise
        except OSError:  # file systems without hard links refuse one in many ways
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            self.path.replace(path)

    def release(self) -> None:
        """Unlock it; it may be gone or renamed."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def find(self) -> Path | None:
        """Where it is, on Linux even if its folder was renamed; None if gone or already named."""
        if self.path.exists():
            return self.path
        with suppress(OSError):
            place = Path(f"/proc/self/fd/{self._open}").readlink()
            return place if place.name == self.path.name and place.exists() else None
        return None

    def remove(self) -> None:
        """Remove it if it still has its temporary name."""
        place = self.find()
        if place is not None:
            place.unlink(missing_ok=True)
        self.release()


@contextmanager
def atomic(path: Path, *, new: bool = False, make_folder: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error.

    Whatever interrupts the block, no incomplete file is left. A link is replaced, not followed.
    Several processes may write the same path at once: the last one's file stays, whole.

    Args:
        new: replace no file; FileExistsError is raised at the end if there is one.
        make_folder: create the folder if there is none.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(path, "tmp")
    try:
        yield part.path
        part.rename(path, replace=not new)
    finally:
        part.remove()


@contextmanager
def resumable(path: Path) -> Iterator[Path]:
    """As `atomic`, but what a block has written when it is interrupted is kept for the next one.

    The next one, in any process, finds it in the file that it gets. A block that wants nothing kept
    empties the file. Without locks, as on Windows, nothing is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _left_part(path) or _Part(path, "part")
    try:
        yield part.path
        part.rename(path, replace=True)
        for left in _left_in(path.parent, path):
            with suppress(OSError):  # another process was first
                _Part(path, "part", left=left).remove()
    except BaseException:
        with suppress(OSError):
            if sys.platform == "win32" or part.path.stat().st_size == 0:
                part.remove()
        raise
    finally:
        part.release()


def _left_part(path: Path) -> _Part | None:
    """The largest unfinished file of a path, locked again; None if there is none."""
    found = _left_in(path.parent, path)
    with suppress(OSError):  # another process removes one
        found.sort(key=lambda each: each.lstat().st_size, reverse=True)
    for left in found:
        with suppress(OSError):  # another process was first
            return _Part(path, "part", left=left)
    return None


def _around(path: Path, mark: str) -> tuple[str, str]:
    """What a temporary name has before and after its digits.

    A long name is replaced by a digest of it, so that the whole is not too long.
    """
    stem, suffix = path.stem, path.suffix
    if len(os.fsencode(path.name)) + len(mark) + DIGITS + 3 > SHORTEST_LIMIT:
        stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        suffix = suffix if len(os.fsencode(suffix)) < 16 else ""
    return f".{stem}-", f".{mark}{suffix}"


def leftovers(path: Path) -> list[Path]:
    """Unfinished files of `path` whose processes were killed, as `OutputFile` names them."""
    return _left_in(Path(os.path.realpath(path)).parent, path)


def _left_in(folder: Path, path: Path) -> list[Path]:
    before, after = map(re.escape, _around(path, "part"))
    return list(_abandoned(folder, f"{before}[0-9a-f]{{{DIGITS}}}{after}"))


def sweep(folder: Path) -> None:
    """Remove what `atomic` left in a folder in processes that were killed."""
    old = time.time() - SWEPT_SECONDS
    for path in _abandoned(folder, rf"\..+-[0-9a-f]{{{DIGITS}}}\.tmp(\.[^.]*)?"):
        with suppress(OSError):
            if path.lstat().st_mtime < old:
                path.unlink()


def is_temporary(name: str) -> bool:
    """Whether a file of this name is an unfinished one, of this process or another."""
    return (
        re.fullmatch(rf"\..+-[0-9a-f]{{{DIGITS}}}\.(part|tmp)(\..*)?", name, re.DOTALL) is not None
    )


def _abandoned(folder: Path, names: str) -> Iterator[Path]:
    """Files of this user with such names that no process has locked."""
    try:
        found = [path for path in folder.iterdir() if re.fullmatch(names, path.name, re.DOTALL)]
    except OSError:
        return
    for path in sorted(found):
        with suppress(OSError):  # locked, gone, or not ours
            if _is_abandoned(path):
                yield path


def _is_abandoned(path: Path) -> bool:
    """Whether a file of this user is not locked; raises OSError if it is."""
    if sys.platform != "win32":
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            facts = os.fstat(opened)
            if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid():
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
        finally:
            os.close(opened)
    return False


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
    """A file that a person named; `part` is the temporary path to write to, until it is `named`.

    The constructor creates the temporary file, so that a path that cannot be written fails at once.
    Of several processes that write the same file, the last to finish wins with `overwrite`, and
    without it the first; the file is always one of theirs, whole.

    Raises:
        UsageError: the path exists and may not be replaced, or its folder does not exist.
        SinkError: the folder cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._place = Path(os.path.realpath(path))  # write through a link, perhaps to another disk
        self._overwrite, self.named = overwrite, False
        check_new(path, overwrite)
        check_parent(self._place if path.is_symlink() else path)
        check_replaceable(path)
        sweep(self._place.parent)
        try:
            self._part = _Part(self._place, "part", path)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.part = self._part.path

    def commit(self, *, whole: bool = True) -> None:
        """Rename the finished file.

        Args:
            whole: whether it is all that was to be written; less replaces no older file.

        Raises:
            SinkError: it cannot be renamed; the temporary file is kept and named.
        """
        if not whole and self._place.exists():
            raise SinkError(
                f"{self.path} is not replaced", do=f"{self.keep()}; the old file is whole"
            )
        self._rename(self._place, replace=self._overwrite)
        self.named = True

    def reject(self, path: Path) -> None:
        """Give it this name instead, replacing a file of this name; raises as `commit`."""
        self._rename(path, replace=True)

    def _rename(self, path: Path, *, replace: bool) -> None:
        try:
            self._part.rename(path, replace=replace)
        except FileExistsError as error:
            raise SinkError(
                f"{self.path} appeared while it was being written", found=self.keep()
            ) from error
        except OSError as error:
            raise SinkError(
                f"cannot write {self.path}", found=reason(error), do=self.keep()
            ) from error
        self._part.remove()  # its temporary name, where it was linked to the other

    def keep(self) -> str:
        """Give up, and say in a sentence where the unfinished file is."""
        place = self._part.find()
        self._part.release()
        if place is not None:
            return f"It is kept as {place}"
        lost = self._place.parent if not self._place.parent.is_dir() else self.part
        return f"Nothing of it is left, as {lost} was removed or renamed during the run"

    def discard(self) -> None:
        """Remove the temporary file, unless it has got its name."""
        self._part.remove()

    def check_space(self, needed: int) -> None:
        """Raise OSError while there is still space to finish what has been written.

        Args:
            needed: bytes that finishing takes, besides `RESERVE_BYTES`.
        """
        if free_bytes(self._place.parent) < RESERVE_BYTES + needed:
            raise OSError(errno.ENOSPC, "No space left on device")


def free_bytes(folder: Path) -> float:
    """Bytes that can still be written there; infinite where the system does not tell.

    Raises:
        OSError: there is no such folder.
    """
    if not hasattr(os, "statvfs"):
        return math.inf
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


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


def check_file(path: Path, overwrite: bool) -> None:
    """Check that a file can be written, before a long run; "-" is stdout.

    Raises:
        UsageError: it exists and may not be replaced, or is no file, or there is no such folder.
        SinkError: the folder cannot be written.
    """
    if str(path) == "-":
        check_stdout()
        return
    try:
        check_new(path, overwrite)
        check_parent(path)
        check_replaceable(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    check_writable(Path(os.path.realpath(path)))


def check_stdout() -> None:
    """Raise SinkError if stdout is closed, or cannot take anything."""
    try:
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:
        return  # not a real file
    except (OSError, AttributeError) as error:
        closed = not isinstance(error, OSError) or error.errno in (errno.EBADF, errno.EPIPE)
        found = "it is closed" if closed else reason(error)
        raise SinkError("cannot write stdout", found=found) from error


def check_writable(path: Path) -> None:
    """Raise SinkError if no file can be created beside `path`, by creating one and removing it."""
    try:
        _Part(path, "tmp").remove()
    except OSError as error:
        raise cannot_write(path, error) from error


def ignores_case(folder: Path) -> bool:
    """Whether names in a folder, or in the one where it will be made, are the same in any case."""
    folder = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        part = _Part(folder / "case", "tmp")
    except OSError:
        return False
    try:
        return part.path.with_name(part.path.name.swapcase()).exists()
    finally:
        part.remove()


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
