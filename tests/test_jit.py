"""Compiled code where its machine code can be kept, and where it cannot."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core import caching

from rtseg.jit import compiled


def twice(x):  # type: ignore[no-untyped-def]
    return 2 * x


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache for a user who may write neither beside the source nor in a home."""
    named = "UserProvidedCacheLocator"
    only = getattr(caching, named, None) or getattr(caching, f"_{named}")  # before 0.61
    for kind in ("CacheImpl", "_CacheImpl"):
        if hasattr(caching, kind):
            monkeypatch.setattr(getattr(caching, kind), "_locator_classes", [only])
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(twice)
    return tmp_path / "cache"


def test_machine_code_goes_to_our_cache_where_nothing_else_can_be_written(nobody: Path) -> None:
    assert compiled(twice)(21) == 42
    assert list(nobody.rglob("*.nbi"))
    assert numba.config.CACHE_DIR == "", "what others compile goes where it went"


def test_nothing_is_kept_where_nothing_can_be_written(nobody: Path) -> None:
    nobody.write_text("in the way of a folder")
    assert compiled(twice)(21) == 42
    assert numba.config.CACHE_DIR == ""


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_machine_code_is_compiled_again(nobody: Path, suffix: str) -> None:
    assert compiled(twice)(21) == 42
    (path,) = nobody.rglob(f"*.{suffix}")
    whole = path.read_bytes()
    bomb = nobody.parent / "bomb"
    for content in (
        b"",
        whole[:40],
        whole[:-1],
        whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        pickle.dumps(Bomb(bomb)),
        bytes(32) + pickle.dumps(Bomb(bomb)),
    ):
        path.write_bytes(content)
        assert compiled(twice)(21) == 42
        assert not bomb.exists(), "what was not checked is not unpickled"
        again = compiled(twice)
        assert again(21) == 42
        assert again.stats.cache_hits, "and kept"


def test_compiled_code_runs_where_the_disk_is_full(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = compiled(twice)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert function(21) == 42
