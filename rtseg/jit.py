"""Loops over pixels compiled by numba: without the GIL, cached between runs."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from rtseg.errors import UsageError, first_line

try:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Environment variable")  # else it goes on without it
        import numba
        from numba import literal_unroll as literal_unroll
        from numba.core.caching import IndexDataCacheFile
except (ValueError, Warning) as error:
    raise UsageError(
        "cannot start numba",
        found=first_line(error),
        do="Check the environment variables NUMBA_...",
    ) from error

if numba.config.DISABLE_JIT:
    raise UsageError(
        "cannot start numba",
        found="NUMBA_DISABLE_JIT is set, and loops over pixels take minutes when not compiled",
        do="Unset it",
    )

DIGEST_BYTES = 32


def compiled(function: Any) -> Any:
    """The function as machine code; numba infers the types.

    It is compiled at its first call, within seconds, and cached beside its source or in numba's
    user cache. If neither can be written, as for a container's user without a home, it is cached in
    rtseg's cache; if nothing can be written, not at all.
    """
    try:
        return _compiled(function, cache=True)
    except RuntimeError:  # numba has no type of its own for this
        usual = numba.config.CACHE_DIR
    from rtseg.cache import cache_dir

    try:
        numba.config.CACHE_DIR = str(cache_dir() / "compiled")
        return _compiled(function, cache=True)
    except (RuntimeError, OSError):
        return _compiled(function, cache=False)
    finally:
        numba.config.CACHE_DIR = usual


def _compiled(function: Any, *, cache: bool) -> Any:
    compile_it = numba.njit(cache=cache, nogil=True, boundscheck=False, error_model="numpy")
    made = compile_it(function)
    if cache:
        usual = made._cache
        usual._cache_file = _CheckedFiles(
            usual.cache_path, usual._impl.filename_base, usual._impl.locator.get_source_stamp()
        )
    return made


class _CheckedFiles(IndexDataCacheFile):
    """numba's cache of one function, each file of it with a checksum before what numba writes.

    numba unpickles and runs whatever lies there; what is damaged here is compiled again.
    """

    def save(self, key: Any, data: Any) -> None:
        """Keep compiled code, unless the disk is full."""
        with suppress(OSError):
            super().save(key, data)

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = self._load_data(self._index_name)
        except OSError:
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._save_data(self._index_name, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            raise OSError(f"{name} is damaged")  # numba takes it for a file that is gone
        return pickle.loads(data)

    def _dump(self, value: Any) -> bytes:
        data: bytes = super()._dump(value)
        return hashlib.sha256(data).digest() + data
