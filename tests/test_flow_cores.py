"""Cores that a process may use, as its control groups limit them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtseg import system as cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree of control groups in the place of the system's."""
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    cores.cpu_quota.cache_clear()
    yield tmp_path
    cores.cpu_quota.cache_clear()


def put(groups: Path, group: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = groups / "cgroup" / group / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("limit", "usable"),
    [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1),
     ("3200000 100000", 16), ("nonsense", 16)],
)  # fmt: skip
def test_version_2(groups: Path, limit: str, usable: int) -> None:
    (groups / "self").write_text("0::/\n")
    put(groups, "", {"cpu.max": limit})
    assert cores.usable_cores() == usable
    assert cores.limited_cores() == (usable if usable < 16 else None)


def test_the_strictest_group_of_those_around_it_counts(groups: Path) -> None:
    (groups / "self").write_text("0::/user.slice/app.scope\n")
    put(groups, "user.slice", {"cpu.max": "400000 100000"})
    put(groups, "user.slice/app.scope", {"cpu.max": "max 100000"})
    assert cores.usable_cores() == 4


def test_version_1(groups: Path) -> None:
    (groups / "self").write_text("9:name=systemd:/\n4:cpu,cpuacct:/docker/abc\n2:pids:/\n")
    limits = {"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"}
    put(groups, "cpu,cpuacct", limits)
    assert cores.usable_cores() == 3, "a container sees its own group in the place of the first"
    put(groups, "cpu,cpuacct/docker/abc", {**limits, "cpu.cfs_quota_us": "-1"})
    cores.cpu_quota.cache_clear()
    assert cores.usable_cores() == 3


def test_without_control_groups_all_cores_count(groups: Path) -> None:
    assert cores.usable_cores() == 16
    assert cores.limited_cores() is None


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_of_openmp_spin_briefly_unless_the_user_decides(
    given: dict[str, str], found: str
) -> None:
    code = "import os, rtseg; print(os.environ.get('GOMP_SPINCOUNT'))"
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    surroundings = {name: value for name, value in os.environ.items() if name not in own} | given
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found
