"""Candidates against one another: all are opened and timed, one is kept.

Whatever fails in a candidate costs it its place, and never the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rtseg.backends.candidates import Candidate
from rtseg.backends.remembered import Measured
from rtseg.backends.side_by_side import Batch, agreement, time_each
from rtseg.clock import Clock
from rtseg.contracts import Backend
from rtseg.errors import RtsegError

LEAST_AGREEMENT = 0.99
"""Share of pixels that reduced precision must give the class that full precision gives."""

LEAST_GAIN = 0.05
"""By this share must a candidate be faster than one before it in the list to be preferred: less is
noise, and the first ones are exact and start soonest."""

OpenCandidate = Callable[[Candidate], Backend]

# what a library may raise when it is broken, beside what we raise of it
Failure = (RtsegError, ImportError, OSError, RuntimeError)


@dataclass
class Entry:
    """A candidate in the contest; `backend` is None once it is out."""

    candidate: Candidate
    backend: Backend | None = None
    precision: str = ""
    seconds: float | None = None
    agreement: float | None = None
    failure: str = ""

    def out(self, failure: Exception | str) -> None:
        """It takes no further part."""
        if isinstance(failure, RtsegError):
            failure = f"{failure.asked}: {failure.found}" if failure.found else failure.asked
        self.failure = str(failure).partition("\n")[0]
        self.close()

    def close(self) -> None:
        """Free what it holds."""
        if self.backend is not None:
            self.backend.close()
            self.backend = None

    def measured(self) -> Measured:
        """What is remembered of it."""
        seconds = None if self.failure else self.seconds
        precision = self.precision or self.candidate.precision
        return Measured(self.candidate.backend, precision, seconds, self.agreement, self.failure)


def contest(
    field: Sequence[Candidate],
    opened: OpenCandidate,
    frames: Sequence[Batch],
    clock: Clock | None = None,
) -> list[Entry]:
    """Open all candidates, time them, and keep the winner.

    Args:
        field: those to prefer first.
        opened: loads one; what fails in it costs that candidate its place and nothing else.
        frames: at least one, to time on and to compare masks on.

    Returns:
        The winner first, and it alone open; then the others, the quickest first. Where none is
        left, the first has no backend.
    """
    entries = [_enter(candidate, opened) for candidate in field]
    try:
        _time(entries, frames[0], clock)
        winner = _trusted(entries, frames)
    except BaseException:
        for entry in entries:
            entry.close()
        raise
    for entry in entries:
        if entry is not winner:
            entry.close()
    return sorted(entries, key=lambda entry: (entry is not winner, entry.seconds or math.inf))


def _enter(candidate: Candidate, opened: OpenCandidate) -> Entry:
    entry = Entry(candidate)
    try:
        entry.backend = opened(candidate)
    except Failure as error:
        entry.out(error)
        return entry
    entry.precision = entry.backend.info.precision
    if not candidate.exact and entry.precision != candidate.precision:
        runs, entry.precision = entry.precision, candidate.precision
        entry.out(f"{runs} runs instead")
    return entry


def _time(entries: Sequence[Entry], batch: Batch, clock: Clock | None) -> None:
    """Note the seconds per frame of each; those that fail are out."""
    backends = {i: entry.backend for i, entry in enumerate(entries) if entry.backend}
    times, failures = time_each(backends, batch, clock=clock)
    for index, seconds in times.items():
        entries[index].seconds = seconds
    for index, error in failures.items():
        entries[index].out(error)


def _trusted(entries: Sequence[Entry], frames: Sequence[Batch]) -> Entry | None:
    """The quickest whose masks are those of full precision; those that fail are out."""
    reference = next((one.backend for one in entries if one.backend and one.candidate.exact), None)
    for entry in _ranked(entries):
        assert entry.backend is not None
        if entry.candidate.exact:
            return entry
        if reference is None:
            return None
        try:
            entry.agreement = agreement(entry.backend, reference, frames)
        except RtsegError as error:
            entry.out(error)
            continue
        if entry.agreement >= LEAST_AGREEMENT:
            return entry
    return None


def _ranked(entries: Sequence[Entry]) -> list[Entry]:
    """The quickest first; among those that differ by noise, the one to prefer."""
    left = [(entry.seconds, entry) for entry in entries if entry.backend and entry.seconds]
    ranked = []
    while left:
        limit = min(seconds for seconds, _ in left) / (1 - LEAST_GAIN)
        first = next(one for one in left if one[0] <= limit)
        ranked.append(first[1])
        left.remove(first)
    return ranked
