"""Fixtures of every test: real data where it is, no thread left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def _data_folder() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("RTSEG_DATA", beside))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real clips, pictures and networks; skips where it is absent."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip("no shared data folder beside the project (set RTSEG_DATA to one)")
    return folder


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves one of rtseg's threads running."""
    yield
    left = threads_left(2.0)
    assert not left, f"threads left behind: {left}"


def threads_left(seconds: float) -> list[threading.Thread]:
    """Our threads that still run after so many seconds to end in."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and _our_threads():
        for thread in _our_threads():
            thread.join(0.05)
    return _our_threads()


def _our_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("rtseg-")]
