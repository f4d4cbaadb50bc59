"""Plugin of pytest for CI: tell flakes from failures, and name the test in which Python crashed.

With `--flakes FOLDER` a test that failed is run again, alone, in a fresh process with fresh caches.
One that passes there is a flake. Two flakes, over all runs that share FOLDER, leave the exit code
at 0. While tests run, FOLDER/running names the one begun last; it stays if the process dies. A test
in which a worker of pytest-xdist crashed has failed and is not run again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MOST_FLAKES = 2

MOST_RERUNS = 10
"""Where more tests fail, something is broken, and none is run again."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flakes", metavar="FOLDER", type=Path, help="run failed tests again, alone")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--flakes")
    if folder and not hasattr(config, "workerinput"):  # a worker reports to the one that counts
        config.pluginmanager.register(Flakes(folder))


class Flakes:
    def __init__(self, folder: Path) -> None:
        self.running, self.found = folder / "running", folder / "found"
        self.crashed: set[str] = set()
        self.environment = dict(os.environ)  # before a test changes it

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running.write_text(nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        self.crashed.add(crashitem)

    def pytest_sessionfinish(self) -> None:
        self.running.unlink(missing_ok=True)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Run failed tests again; after the failures' texts, before the closing line."""
        stats = terminalreporter.stats
        failed = dict.fromkeys(
            r.nodeid for kind in ("failed", "error") for r in stats.get(kind, ())
        )
        if exitstatus == pytest.ExitCode.TESTS_FAILED and len(failed) <= MOST_RERUNS:
            terminalreporter.section("failed tests again, alone")
            flakes = [
                nodeid
                for nodeid in failed
                if nodeid not in self.crashed and self.passes_alone(nodeid, terminalreporter)
            ]
            with self.found.open("a") as file:
                file.writelines(f"{nodeid}\n" for nodeid in flakes)
            for kind in ("failed", "error"):
                reports = stats.pop(kind, [])
                stats[kind] = [r for r in reports if r.nodeid not in flakes]
                stats["flaky"] = stats.get("flaky", []) + [r for r in reports if r.nodeid in flakes]
            if len(flakes) == len(failed):
                self.session.exitstatus = pytest.ExitCode.OK
        found = self.found.read_text().splitlines() if self.found.exists() else []
        if found:
            terminalreporter.section(f"{len(found)} flaky, at most {MOST_FLAKES} pass")
            for nodeid in found:
                terminalreporter.line(f"FLAKY {nodeid} (passes alone)")
        if len(found) > MOST_FLAKES:
            self.session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def passes_alone(self, nodeid: str, terminalreporter: pytest.TerminalReporter) -> bool:
        """Whether a test passes, and is not skipped, in a fresh process with fresh caches."""
        arguments = (
            *self.session.config.invocation_params.args,
            "-n0",
            "-p",
            "no:cacheprovider",
            nodeid,
        )
        with tempfile.TemporaryDirectory() as cache:
            fresh = {"XDG_CACHE_HOME": cache, "NUMBA_CACHE_DIR": cache, "PYTEST_ADDOPTS": ""}
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *arguments],
                cwd=self.session.config.invocation_params.dir,
                env=self.environment | fresh,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        terminalreporter.write(done.stdout)
        closing = done.stdout.strip().rpartition("\n")[2]
        return done.returncode == 0 and re.search(r"\b1 passed\b", closing) is not None
