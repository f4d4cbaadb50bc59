"""A download, shown on stderr."""

from __future__ import annotations

import sys
from typing import Any

from rtseg.cli.process import Stop
from rtseg.cli.report import say


class DownloadProgress:
    """What shows a download to a person: a bar on a terminal, two lines in a log."""

    def __init__(self, stop: Stop, *, quiet: bool = False) -> None:
        self._stop = stop
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._title = ""

    def __call__(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the file `title` are here; 0 is an unknown total.

        Raises:
            Interrupted: a signal asked for the end.
        """
        self._stop.check()
        if self._quiet:
            return
        if title != self._title:
            self._begin(title, total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None)
            self._bar.refresh()
        if total and done >= total:
            self._finish(total)

    def _begin(self, title: str, total: int) -> None:
        self._title = title
        if not sys.stderr.isatty():
            say("fetching", f"{title}, {total / 1e6:.0f} MB" if total else title)
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(
            *columns, console=Console(stderr=True), auto_refresh=False, transient=True
        )
        self._bar.start()
        self._task = self._bar.add_task(title, total=total or None)

    def _finish(self, total: int) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._title:
            say("fetched", f"{self._title}, {total / 1e6:.0f} MB")
        self._title = ""
