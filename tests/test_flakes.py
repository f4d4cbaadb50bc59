"""CI's verdict on failures, flakes and crashes: .ci/run on small projects, installing nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="CI runs on Linux"),
]

TESTS = Path(__file__).parent

SEEN = """
from pathlib import Path

def seen(path):
    known = Path(path).exists()
    Path(path).mkdir(parents=True, exist_ok=True)
    return known
"""

INI = """
[pytest]
addopts = -q -p xdist -p pytest_timeout -p flakes -m "not slow"
markers =
    slow
    alone
"""

PROGRAMS = {
    "apt-get": "",
    "python3": 'mkdir -p "$3/bin" && touch "$3/bin/activate"',  # python3 -m venv FOLDER
    "python": "",  # pip
    "pytest": f'exec {sys.executable} -m pytest "$@"',
}

PASSES = """
def test_passes():
    pass
"""

SLOW = """
import pytest

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.slow
@pytest.mark.alone
def test_alone():
    pass
"""

FAILS = """
def test_fails():
    assert False
"""

MANY_FAIL = """
import pytest

@pytest.mark.parametrize("i", range(11))
def test_fails(i):
    assert False
"""

FLAKY = """
import pytest
from seen import seen

@pytest.mark.parametrize("name", ["a", "b"])
def test_flaky(name):
    assert seen(name)
"""

SLOW_FLAKY = """
import pytest
from seen import seen

@pytest.mark.slow
def test_slow_flaky():
    assert seen("c")
"""

UNTIDY = """
import pytest
from seen import seen

@pytest.fixture
def tidy():
    yield
    assert seen("mess")

def test_untidy(tidy):
    pass
"""

ORDER = """
before = []

def test_first():
    before.append(1)

def test_second():
    assert not before
"""

SKIPS = """
import pytest
from seen import seen

def test_skips():
    if seen("it"):
        pytest.skip("the second time")
    assert False
"""

COLD = """
import os
from seen import seen

def test_cold():
    assert seen(os.environ["XDG_CACHE_HOME"] + "/made")
"""

CRASHES = """
import os, signal
from seen import seen

def test_crashes():
    if not seen("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
"""

LEAVES = """
import os

def test_leaves():
    os._exit(0)
"""

CRASHES_AT_EXIT = """
import atexit, os, signal

def test_passes():
    atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
"""


WORKERS = "pytest -n 2 --dist loadfile"


def ci(folder: Path, *suites: str, check: str = "pytest") -> tuple[int, list[str]]:
    """Exit code and lines of .ci/run in a project with these test files, run by `check`."""
    for i, suite in enumerate(suites):
        (folder / f"test_{i}.py").write_text(suite)
    (folder / "seen.py").write_text(SEEN)
    (folder / "pytest.ini").write_text(INI)
    for path, text in [("tools/check", check), *((f"bin/{p}", PROGRAMS[p]) for p in PROGRAMS)]:
        program = folder / path
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    shutil.copytree(TESTS.parent / ".ci", folder / ".ci")
    surroundings = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(TESTS),
        "TMPDIR": str(folder),
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # most of the time would be theirs
    }
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=folder,
        env=os.environ | surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    return done.returncode, done.stdout.splitlines()


def flakes(lines: list[str]) -> list[str]:
    """The flakes that are named at the end."""
    return [line.split()[1] for line in lines[-5:] if line.startswith("FLAKY")]


def test_it_ends_with_pytest_s_closing_line(tmp_path: Path) -> None:
    code, lines = ci(tmp_path, PASSES, SLOW)
    assert code == 0
    assert lines[-1].startswith("1 passed, 2 deselected in"), "the last run is that of test_alone"


@pytest.mark.parametrize("suite", [FAILS, SKIPS, COLD], ids=["fails", "skips", "cold"])
def test_what_does_not_pass_alone_is_a_failure(tmp_path: Path, suite: str) -> None:
    code, lines = ci(tmp_path, PASSES, SLOW, suite)
    assert code == 1
    assert lines[-1].startswith("1 failed, 1 passed")
    assert not flakes(lines)


def test_where_many_fail_none_is_run_again(tmp_path: Path) -> None:
    code, lines = ci(tmp_path, MANY_FAIL)
    assert code == 1
    assert not any("again" in line for line in lines)


@pytest.mark.parametrize("check", ["pytest", WORKERS])
def test_two_flakes_pass_and_are_named(tmp_path: Path, check: str) -> None:
    code, lines = ci(tmp_path, FLAKY, SLOW, check=check)
    assert code == 0
    assert sorted(flakes(lines)) == ["test_0.py::test_flaky[a]", "test_0.py::test_flaky[b]"]
    assert lines[-1].startswith("1 passed, 3 deselected in")


def test_a_third_flake_fails(tmp_path: Path) -> None:
    code, lines = ci(tmp_path, FLAKY, SLOW_FLAKY)
    assert code == 1
    assert flakes(lines)[-1] == "test_1.py::test_slow_flaky"
    assert len(flakes(lines)) == 3


@pytest.mark.parametrize(
    ("suite", "name"),
    [(ORDER, "test_2.py::test_second"), (UNTIDY, "test_2.py::test_untidy")],
    ids=["order", "teardown"],
)
def test_what_fails_beside_others_alone_is_a_flake(tmp_path: Path, suite: str, name: str) -> None:
    code, lines = ci(tmp_path, PASSES, SLOW, suite)
    assert (code, flakes(lines)) == (0, [name])


@pytest.mark.parametrize(
    ("suite", "end"),
    [
        (CRASHES, "in test_2.py::test_crashes"),
        (LEAVES, "in test_2.py::test_leaves"),
        (CRASHES_AT_EXIT, "outside any test, exit code 139"),
    ],
    ids=["signal", "exit", "at exit"],
)
def test_a_crash_fails_and_names_its_test(tmp_path: Path, suite: str, end: str) -> None:
    code, lines = ci(tmp_path, PASSES, SLOW, suite)
    assert code == 1
    assert lines[-1].endswith(f"pytest died {end}")


@pytest.mark.parametrize("suite", [CRASHES, LEAVES], ids=["signal", "exit"])
def test_a_worker_that_crashes_fails_and_names_its_test(tmp_path: Path, suite: str) -> None:
    code, lines = ci(tmp_path, PASSES, SLOW, suite, check=WORKERS)
    assert code == 1
    assert any(re.search(r"crashed while running '?test_2.py::", line) for line in lines)
    assert not flakes(lines)
