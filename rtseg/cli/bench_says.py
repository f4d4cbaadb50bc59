"""What `rtseg bench` says: how far it is on stderr, the figures on stdout."""

from __future__ import annotations

import sys
from pathlib import Path

from rtseg.bench.compare import Comparison
from rtseg.bench.record import Record
from rtseg.bench.tables import changes, markdown, plain, render
from rtseg.cli.bars import TerminalBar
from rtseg.cli.report import counted, say
from rtseg.clock import Clock
from rtseg.sinks.files import FileTarget, cannot_write

LINE_SECONDS = 10.0


class Progress:
    """How far it is: a bar on a terminal, a line now and then in a log."""

    def __init__(self, *, quiet: bool, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._quiet = quiet
        self._bar = TerminalBar(quiet=quiet)
        self._next = self._clock.now()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Told before every step."""
        self._bar.draw(done, total, text)
        if self._bar.shown:
            return
        if not self._quiet and (now := self._clock.now()) >= self._next:
            say("running", f"{done} of {total}, {text}")
            self._next = now + LINE_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.clear()


def figures(record: Record, form: str) -> None:
    """The record on stdout."""
    sys.stdout.write(render(record, form))
    sys.stdout.flush()


def write(path: Path, text: str) -> None:
    """The record in a file, whole or not at all.

    Raises:
        SinkError: it cannot be written.
    """
    target = FileTarget(path, overwrite=True)  # whether it may is asked before the run
    try:
        target.part.write_text(text, "utf-8")
    except OSError as error:
        target.discard()
        raise cannot_write(path, error) from error
    target.commit()


def comparison(found: Comparison, form: str) -> None:
    """What changed: on stdout beside a table, on stderr beside what a program reads."""
    for warning in found.warnings:
        say("warning", warning)
    if not found.changes:
        say("compare", "no row of the two records has a partner in the other")
        return
    to_people = form in ("table", "md")
    drawn = markdown(changes(found)) if form == "md" else plain(changes(found))
    print(f"\n{drawn}", file=sys.stdout if to_people else sys.stderr)


def ended(record: Record) -> None:
    """That it was stopped, and how much is there."""
    if record.partial:
        done = sum(bool(row.clocks) for row in record.rows)
        say("partial", f"{done} of {counted(len(record.rows), 'row')} have figures; it was stopped")
