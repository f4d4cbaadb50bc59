"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import platform

import psutil
import pytest

from rtseg import memory

PIECES, BYTES = 1600, 64_000
"""Too small for pages of their own; 100 MB in all."""


def resident() -> float:
    return psutil.Process().memory_info().rss / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_what_is_freed_between_things_in_use_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(BYTES) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, BYTES)
    for piece in pieces[:-1]:
        libc.free(piece)
    kept = resident()
    memory.give_back()
    assert resident() < kept - 70
    libc.free(pieces[-1])


def test_where_there_is_no_such_call_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", None)
    memory.give_back()
