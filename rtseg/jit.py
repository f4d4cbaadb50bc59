"""Loops over pixels compiled by numba: without the GIL, cached between runs."""

from __future__ import annotations

from typing import Any

import numba


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
    return compile_it(function)
