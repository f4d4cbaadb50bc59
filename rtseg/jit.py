"""Machine code for loops over pixels, by numba: without the GIL, and kept from run to run."""

from __future__ import annotations

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """The function as machine code; numba infers the types.

    It is compiled at its first call, within seconds, and kept beside its source or in the user's
    cache of numba. Where neither can be written, as for a container's user without a home, it is
    kept in rtseg's cache; and where nothing can be written, for this run.
    """
    try:
        return _compiled(function, cache=True)
    except RuntimeError:  # numba names no type of its own for this
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
