"""Fixtures of every test: real data where it is, no thread left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["flakes"]  # for CI

ON_GPU = os.environ.get("RTSEG_REQUIRE") == "cuda"
"""Whether Triton's kernels run on a GPU in this run, compiled: a program has them one way."""

if not ON_GPU:
    # before anything imports Triton: its kernels are then run by the processor, step by step
    os.environ["TRITON_INTERPRET"] = "1"

# before anything imports torch: its threads that wait for work sleep instead of spinning, which
# takes the cores from other threads and programs of a test
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

DEVICE = "cuda" if ON_GPU else "cpu"

on_the_device = (
    pytest.mark.needs_cuda if ON_GPU else pytest.mark.usefixtures("one_kernel_at_a_time")
)
"""Of tests of kernels on DEVICE, where they are compiled or interpreted."""


@pytest.fixture(scope="session")
def one_kernel_at_a_time() -> Iterator[None]:
    """Have threads take turns in Triton's interpreter, which is made for one."""
    if ON_GPU:
        yield
        return
    from triton.runtime.interpreter import GridExecutor

    lock, call = threading.Lock(), GridExecutor.__call__

    def locked(self: GridExecutor, *args: object, **more: object) -> object:
        with lock:
            return call(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GridExecutor, "__call__", locked)
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU, unless one is required; then it fails where there is none."""
    if item.get_closest_marker("needs_cuda") is None:
        return
    import torch

    if not ON_GPU:
        pytest.skip("runs on a GPU alone: RTSEG_REQUIRE=cuda pytest -m needs_cuda")
    if not torch.cuda.is_available():
        pytest.fail(f"torch {torch.__version__} finds no NVIDIA GPU")


MARKS = {"slow and not alone": "mark.slow", "slow and alone": "mark.alone"}
"""What stands in files of which some test is wanted, by the expressions that CI selects with."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test that is wanted: all of them together take long to import."""
    wanted = config.getoption("markexpr")
    if collection_path.name == "test_serve_schema.py" and wanted == "not slow":
        return True
    if wanted in MARKS and collection_path.suffix == ".py":
        return True if MARKS[wanted] not in collection_path.read_text("utf-8") else None
    return None


def pytest_collection_finish() -> None:
    """Have the garbage collector leave out what lives to the end, which it walks at every turn."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undo it: libraries look for what was not freed."""
    gc.unfreeze()


def pytest_runtest_teardown() -> None:
    """Undo what SVT-AV1 does to root's processes: real-time priority, which starves all others."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture
def driver_alone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What looks like an NVIDIA driver, and no GPU that any library reaches."""
    from rtseg.backends.auto import backends_on_nvidia
    from rtseg.system import nvidia_driver

    if nvidia_driver():
        pytest.skip("there is an NVIDIA driver")
    tool = tmp_path_factory.mktemp("driver") / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    backends_on_nvidia.cache_clear()
    yield
    backends_on_nvidia.cache_clear()


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
