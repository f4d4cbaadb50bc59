"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import psutil
import pytest

from rtseg import system as memory

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


KEPT = """
import ctypes, threading, psutil
from rtseg.system import keep_little, keep_much

def resident():
    return psutil.Process().memory_info().rss / 1e6

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
{first}
libc.free(libc.malloc(32_000_000))  # glibc keeps more from now on, where it is let

def work():
    pieces = [libc.malloc(2_700_000) for _ in range(20)]
    for piece in pieces:
        ctypes.memset(piece, 1, 2_700_000)
    for piece in pieces:
        libc.free(piece)

before = resident()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resident() - before)
"""
"""Frees twenty frames in a thread; prints how many megabytes of them are kept."""


def kept(first: str, **environment: str) -> float:
    ours = ("GLIBC_TUNABLES", "MALLOC_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", KEPT.replace("{first}", first)],
        env={**variables, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_a_thread_keeps_few_frames() -> None:
    assert kept("pass") > 40
    assert kept("keep_little()") < 15
    assert kept("keep_little(); keep_much()") > 40


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_what_the_environment_says_of_memory_stands() -> None:
    assert kept("keep_little()", GLIBC_TUNABLES="glibc.malloc.arena_max=4") > 40


def test_where_there_are_no_such_calls_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", None)
    memory.keep_little()
    memory.keep_much()
    memory.give_back()
