"""The cache folder of weights and exported networks: location, safe names, eviction."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from rtseg.files import atomic, reason, sweep
from rtseg.text import user_path

MADE_BYTES = 2_000_000_000
"""Limit per kind of file that can be rebuilt in seconds: exported or compiled networks."""

MADE_FILES = 1000
"""Limit per kind of file, as those that only remember something are small or empty."""

YOUNG_SECONDS = 3600
"""Files used within the last hour are not removed, as another run may need them."""

NAME_LENGTH = 80
"""Maximum length of a safe name; file systems allow 255 bytes for a whole file name."""

DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\.|\Z)", re.IGNORECASE)
"""Names that Windows takes for devices, whatever their suffix."""

EXPORTED = r".+-\d+x\d+-[a-z0-9]+-[0-9a-f]{16}\.(onnx|sha256)"
"""Pattern of the names of exported networks and their checksums; see `rtseg.nets.onnx_file`."""

CHOSEN = r".+-\d+x\d+-[0-9a-f]{16}\.json"
"""Pattern of the names of remembered choices of a backend; see `rtseg.backends.auto`."""

TRIED = r"[0-9a-f]{32}-\w+"
"""Pattern of the names of what `rtseg.backends.base.check_network` remembers."""

COMPILED = r".+-\d+x\d+-[a-z0-9]+-[0-9a-f]{16}\.(blob|sha256)|\d+\.(blob|cl_cache)"
"""Pattern of the names of networks compiled by OpenVINO, also of those of earlier versions."""


def cache_dir() -> Path:
    """The folder in RTSEG_CACHE, or the user's cache folder; it may not exist yet.

    If the user's cannot be written, as in a container without a home, it is a temporary one.
    """
    if given := os.environ.get("RTSEG_CACHE"):
        return user_path(given)
    import platformdirs

    usual = platformdirs.user_cache_path("rtseg", appauthor=False)
    return usual if can_be_written(usual) else _temporary() or usual


def can_be_written(folder: Path) -> bool:
    """Whether this user may write to a folder, or to its nearest existing parent."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError:  # stat is not permitted
        return False
    return os.access(nearest, os.W_OK)


def safe_name(name: str) -> str:
    """Any text as a file name of letters, digits, ".", "_" and "-".

    Names of networks come from untrusted files, so they must not be usable as paths.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:NAME_LENGTH].rstrip(".")
    return f"_{safe}"[:NAME_LENGTH] if not safe or DEVICES.match(safe) else safe


def cache_path(kind: str, name: str) -> Path:
    """The path of a file in the folder `kind` of the cache; either may not exist yet.

    Raises:
        ValueError: the name is not a file name; see `safe_name`.
    """
    for part in (kind, name):
        if part in ("", ".", "..") or re.search(r"[\\/:\0]", part):
            raise ValueError(f"not the name of a file in the cache: {part!r}")
    return cache_dir() / kind / name


def sha256(path: Path) -> str:
    """The file's SHA-256 in 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def short_digest(value: object) -> str:
    """16 hexadecimal digits of all that shapes a file, for its name in the cache."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def is_intact(path: Path, notes: list[str]) -> bool:
    """Whether a file is in the cache as it was when `add_checksum` saw it; marks it as used.

    Args:
        notes: gets one if the file was changed since.
    """
    checksum = path.with_suffix(".sha256")
    try:
        if not path.is_file() or not checksum.is_file():
            return False  # or a run was killed before it had its checksum
        with checksum.open("rb") as file:
            kept = file.read(64)
        if kept != _checksum(path):
            notes.append(f"{path.name} in the cache was damaged, and is made again")
            return False
    except OSError as error:
        notes.append(f"cannot read {path.name} in the cache ({reason(error)}); it is made again")
        return False
    mark_used([checksum])
    return True


def mark_used(paths: Iterable[Path]) -> None:
    """Renew the times of files, for `make_room`: not every disk notes that one was read."""
    for path in paths:
        with suppress(OSError):  # a read-only cache
            os.utime(path)


def add_checksum(path: Path) -> None:
    """Write the checksum of a file beside it, for `is_intact`; raises OSError."""
    with atomic(path.with_suffix(".sha256")) as temporary:
        temporary.write_bytes(_checksum(path))


def _checksum(path: Path) -> bytes:
    """64 digits, of the file's content and of its name: another network's file is not intact."""
    return hashlib.sha256(f"{path.name}\0{sha256(path)}".encode()).hexdigest().encode()


@cache
def temporary_dir() -> Path:
    """A folder of this process, for what the cache has no place for; removed at exit."""
    folder = tempfile.mkdtemp(prefix="rtseg-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def make_room(
    folder: Path, ours: str, most_bytes: int = MADE_BYTES, most_files: float | None = None
) -> None:
    """Remove the least recently used files of a folder until they are within both limits.

    What a run still needs must have been written or marked (`mark_used`) within `YOUNG_SECONDS`.
    Files with the same stem, such as a network and its checksum, are removed together, and what a
    killed run left incomplete. Files that cannot be removed, or do not match `ours`, are kept.

    Args:
        ours: a regular expression for the full names of the files that rtseg writes there.
        most_files: `MADE_FILES` if None.
    """
    sweep(folder)
    most_files = MADE_FILES if most_files is None else most_files
    groups: dict[str, list[tuple[Path, os.stat_result]]] = {}
    for path in folder.glob("*"):
        if path.name.startswith(".") or re.fullmatch(ours, path.name) is None:
            continue
        with suppress(OSError):  # another run may remove it first
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                groups.setdefault(path.stem, []).append((path, facts))
    total = sum(facts.st_size for files in groups.values() for _, facts in files)
    aged = sorted((max(map(_used, files)), stem) for stem, files in groups.items())
    for number, (used, stem) in enumerate(aged):
        full = total > most_bytes or len(aged) - number > most_files
        if not full or used > time.time() - YOUNG_SECONDS:
            return
        for path, facts in groups[stem]:
            with suppress(OSError):
                path.unlink()
                total -= facts.st_size


def _temporary() -> Path | None:
    """A temporary folder that only this user can write; None if another user created it."""
    if sys.platform == "win32":  # temporary folders are per user
        return None
    folder = Path(tempfile.gettempdir()) / f"rtseg-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if ours and not found.st_mode & 0o022 else None


def _used(file: tuple[Path, os.stat_result]) -> float:
    """Time of the last access, or of the last write if the file system does not record accesses."""
    return max(file[1].st_atime, file[1].st_mtime)
