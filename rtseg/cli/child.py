"""The command line for a program that runs it: progress as JSON lines on stderr, at low priority,
and for as long as that program lives, however it dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from rtseg.__main__ import main as run_program
from rtseg.cli.process import leave
from rtseg.cli.report import Progress
from rtseg.threads import Flow

WATCH_SECONDS = 0.2
NICE = 10


def main(parent: int) -> None:
    """Run the program with the arguments of this process, and leave with its exit code.

    Args:
        parent: number of the process that started this one.
    """
    Progress.in_lines = True
    _be_nice()
    with Flow(_watching(parent), latest=True, name="parent"):
        run_program()


def _be_nice() -> None:
    if sys.platform == "win32":
        return
    os.nice(NICE)
    if os.getsid(0) == os.getpid():
        # Linux shares processors between sessions first, whatever the priorities of their processes
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE))


def _watching(parent: int) -> Iterator[None]:
    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(WATCH_SECONDS)
        yield
    leave(1)
