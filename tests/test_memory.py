"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from live_controls import stub, studio

from rtseg import system as memory
from rtseg.segmenter import Segmenter

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
    memory.trim_memory()
    assert resident() < kept - 70
    libc.free(pieces[-1])


KEPT = """
import ctypes, threading, psutil
from rtseg.system import return_freed_memory, keep_freed_memory

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
    return float(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_a_thread_keeps_few_frames() -> None:
    assert kept("pass") > 40
    assert kept("return_freed_memory()") < 15
    assert kept("return_freed_memory(); keep_freed_memory()") > 40


PROGRAM = """
import runpy, sys
sys.argv = ["rtseg", "--version"]
try:
    runpy.run_module("rtseg", run_name="__main__")
except SystemExit:
    pass
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_the_program_has_its_threads_keep_few_frames() -> None:
    assert kept(PROGRAM) < 15


class Libc:
    """Counts the calls that give memory back."""

    calls = 0

    def malloc_trim(self, pad: int) -> None:
        self.calls += 1


@pytest.mark.parametrize(
    ("key", "times", "calls"),
    [("m", 0, 0), ("m", 1, 1), ("s", 1, 1), ("r", 2, 1)],
    ids=["nothing", "a model was loaded", "a screenshot", "a recording"],
)
def test_freed_memory_goes_back_after(
    key: str, times: int, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc, loading = Libc(), threading.Event()

    def load(name: str) -> Segmenter:
        loading.set()
        return stub()

    monkeypatch.setattr(memory, "_libc", libc)
    made = studio(tmp_path, names=("a", "b"), load=load)
    press = lambda desk: desk.press(key)  # noqa: E731
    made.wall.script = dict.fromkeys((10, 20)[:times], press)
    if key == "m" and times:
        made.wall.script[30] = lambda desk: loading.wait(10)
    made.run()
    assert libc.calls == calls


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_what_the_environment_says_of_memory_stands() -> None:
    assert kept("return_freed_memory()", GLIBC_TUNABLES="glibc.malloc.arena_max=4") > 40


def test_where_there_are_no_such_calls_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", None)
    memory.return_freed_memory()
    memory.keep_freed_memory()
    memory.trim_memory()
