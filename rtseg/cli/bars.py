"""A progress bar on the terminal, drawn from the thread that works."""

from __future__ import annotations

import sys
from typing import Any


class TerminalBar:
    """One line on stderr that is drawn over itself, and gone at the end.

    There is no refresh thread, which would run beside what is timed and stand in the way of
    forked workers: each call draws. Where stderr is no terminal, or `quiet`, `shown` is False and
    nothing is drawn.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stderr.isatty()
        self._rich: Any = None

    def draw(self, done: int, total: int, about: str, heading: str = "") -> None:
        """Show `done` of `total`, 0 being an unknown total, between two texts."""
        if not self.shown:
            return
        if self._rich is None:
            self._rich = _started()
        self._rich.update(
            self._rich.tasks[0].id,
            total=total or None,
            completed=done,
            heading=heading,
            about=about,
        )
        self._rich.refresh()

    def clear(self) -> None:
        """Take the line away, so that others can be written; the next call draws it again."""
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    def __enter__(self) -> TerminalBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()


def _started() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    heading = TextColumn("{task.fields[heading]}", markup=False)
    about = TextColumn("{task.fields[about]}", markup=False)
    left = TimeRemainingColumn(compact=True)
    columns = (heading, BarColumn(), MofNCompleteColumn(), about, left, TextColumn("left"))
    progress = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    progress.add_task("", total=None, heading="", about="")
    progress.start()
    return progress
