"""The folder where weights and exported networks are kept, and how files get into it."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache folder for rtseg, or what RTSEG_CACHE names; it may not exist yet."""
    if given := os.environ.get("RTSEG_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("rtseg", appauthor=False)


def sha256(path: Path) -> str:
    """The file's SHA-256 in 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name when the block ends without error.

    Whatever interrupts the block, no half-made file is left, under this name or another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # named by chance, made by whoever writes it: with the permissions that its owner usually gives
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
