"""Progress on stderr: a bar for files, a live line for cameras, a few plain lines in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rtseg.cli.report import length, say
from rtseg.contracts import Source
from rtseg.stats import Stats

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

REFRESH_SECONDS = 0.1
FIRST_LINE_SECONDS = 2.0
PATIENCE_SECONDS = 1.0


class Progress:
    """Says nothing; the others say something in `show`.

    `tick` may be called as often as one likes; it draws at most every `interval` seconds.
    """

    def __init__(self, source: Source, stats: Stats, interval: float = REFRESH_SECONDS) -> None:
        self.source, self.stats, self.interval = source, stats, interval
        self._next = stats.clock.now() + interval
        self._last = (0, stats.clock.now())

    def tick(self) -> None:
        """Draw, if it is time."""
        if self._last[0] != self.stats.shown:
            self._last = (self.stats.shown, self.stats.clock.now())
        if (now := self.stats.clock.now()) >= self._next:
            self._next = now + self.interval
            self.show()

    def show(self) -> None:
        """Draw now."""

    def figures(self) -> str:
        """The live line, with how long the last frame has been here."""
        waited = self.stats.clock.now() - self._last[1]
        return live_line(self.source, self.stats, waited)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return


class Lines(Progress):
    """A plain line now and then, each pause twice the last: for logs."""

    def __init__(self, source: Source, stats: Stats) -> None:
        super().__init__(source, stats, FIRST_LINE_SECONDS)

    def show(self) -> None:
        """One more line."""
        self.interval *= 2
        count = self.source.info.frame_count
        of = f" of {count}" if count else ""
        say("running", f"{self.stats.shown}{of} frames, {self.figures()}")


class Bar(Progress):
    """A bar with rate and time left, or a live line where there is no end in sight."""

    def __init__(self, source: Source, stats: Stats) -> None:
        super().__init__(source, stats)
        self._rich = _rich_progress(bounded=source.info.frame_count is not None)
        self._task = self._rich.add_task("", total=source.info.frame_count, figures="")

    def show(self) -> None:
        """Redraw."""
        self._rich.update(self._task, completed=self.stats.shown, figures=self.figures())
        self._rich.refresh()

    def __enter__(self) -> Progress:
        self._rich.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._rich.stop()


def open_progress(source: Source, stats: Stats, *, quiet: bool) -> Progress:
    """The progress display that suits stderr."""
    if quiet:
        return Progress(source, stats)
    return Bar(source, stats) if sys.stderr.isatty() else Lines(source, stats)


def live_line(source: Source, stats: Stats, waited: float = 0.0) -> str:
    """Speed now, and for live sources age and drops; or why no frame comes.

    Args:
        waited: seconds since the last frame.
    """
    if source.notice:
        return source.notice
    if waited > PATIENCE_SECONDS:
        return f"no frame for {length(waited)}"
    parts = [f"{stats.fps_now or stats.fps:.1f} fps"]
    if source.info.live:
        parts.append(f"age {1e3 * stats.recent.get('age', 0.0):.0f} ms")
        parts.append(f"{stats.dropped} dropped")
        parts.append(length(stats.seconds))
    return ", ".join(parts)


def _rich_progress(*, bounded: bool) -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    figures = TextColumn("{task.fields[figures]}", markup=False)
    left = TimeRemainingColumn(compact=True)
    bar = [BarColumn(), MofNCompleteColumn(), figures, left, TextColumn("left")]
    columns = bar if bounded else [SpinnerColumn(), figures]
    # No refresh thread: the loop's own ticks redraw.
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
