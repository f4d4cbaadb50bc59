"""The cache folder: weights and exported networks, safe names, and eviction."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

MADE_BYTES = 2_000_000_000
"""Room for each kind of file that can be made again in seconds: networks exported or compiled."""

YOUNG_SECONDS = 3600
"""What was used within the hour is kept in any case: a run beside this one may need it."""

NAME_LENGTH = 80
"""Characters of a name that become part of a file name; every file system allows 255 bytes."""

EXPORTED = r".+-\d+x\d+-[a-z0-9]+-[0-9a-f]{16}\.(onnx|sha256)"
"""File names of exported networks and their checksums; see `rtseg.nets.onnx_file`."""

COMPILED = r"\d+\.(blob|cl_cache)"
"""File names under which OpenVINO keeps compiled networks."""


def cache_dir() -> Path:
    """The user's cache folder for rtseg, or what RTSEG_CACHE names; it may not exist yet.

    Where the user's cannot be written, as in a container without a home, one for temporary files.
    """
    if given := os.environ.get("RTSEG_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    usual = platformdirs.user_cache_path("rtseg", appauthor=False)
    return usual if can_be_written(usual) else _temporary() or usual


def can_be_written(folder: Path) -> bool:
    """Whether a folder, or the one that it would be made in, lets us write."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError:  # it may not even be looked at
        return False
    return os.access(nearest, os.W_OK)


def _temporary() -> Path | None:
    """A folder of our own among temporary files; None where another user's is in its place."""
    if sys.platform == "win32":  # where that folder is the user's own anyway
        return None
    folder = Path(tempfile.gettempdir()) / f"rtseg-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if ours and not found.st_mode & 0o022 else None


def safe_name(name: str) -> str:
    """A file name made of any text: letters, digits, ".", "_" and "-", none of which is a path.

    Networks are named by files that anybody may have written.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:NAME_LENGTH] or "_"


def cache_path(kind: str, name: str) -> Path:
    """The place of a file in a folder of the cache; both may have to be made.

    Raises:
        ValueError: the name is not that of a file in the folder; see `safe_name`.
    """
    if name in ("", ".", "..") or re.search(r"[\\/:\0]", name):
        raise ValueError(f"not the name of a file in the cache: {name!r}")
    return cache_dir() / kind / name


def sha256(path: Path) -> str:
    """The file's SHA-256 in 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_room(folder: Path, ours: str, most_bytes: int = MADE_BYTES) -> None:
    """Remove the least recently used files until a folder of the cache holds at most that much.

    Files of one stem, such as a network and its checksum, go together. What cannot be removed
    stays, and so does every file that rtseg did not make.

    Args:
        ours: a regular expression that matches the whole names of files that rtseg makes there.
    """
    groups: dict[str, list[tuple[Path, os.stat_result]]] = {}
    for path in folder.glob("[!.]*"):
        if re.fullmatch(ours, path.name) is None:
            continue
        with suppress(OSError):  # another run makes room as well
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                groups.setdefault(path.stem, []).append((path, facts))
    total = sum(facts.st_size for files in groups.values() for _, facts in files)
    aged = sorted((max(map(_used, files)), stem) for stem, files in groups.items())
    for used, stem in aged:
        if total <= most_bytes or used > time.time() - YOUNG_SECONDS:
            return
        for path, facts in groups[stem]:
            with suppress(OSError):
                path.unlink()
                total -= facts.st_size


def _used(file: tuple[Path, os.stat_result]) -> float:
    """When a file was last read, or, where a disk does not note that, written."""
    return max(file[1].st_atime, file[1].st_mtime)
