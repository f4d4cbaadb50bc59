"""Two records of one machine, held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtseg.bench.record import Record, Row


@dataclass(frozen=True)
class Change:
    """One clock of one row, before and now, in frames per second."""

    row: Row
    clock: str
    before: float
    now: float

    @property
    def share(self) -> float:
        """0.1 is a tenth faster, -0.1 a tenth slower."""
        return self.now / self.before - 1


@dataclass(frozen=True)
class Comparison:
    """What changed.

    Attributes:
        warnings: why the figures may not be comparable, and which rows have no partner.
        lost: what was measured before and asked for now, and failed.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    lost: tuple[str, ...] = ()

    def slower_than(self, threshold: float) -> list[Change]:
        """The changes that lost more than a share, 0.1 being a tenth."""
        return [change for change in self.changes if change.share < -threshold]


def compare(now: Record, before: Record) -> Comparison:
    """Match the rows by network, backend, precision, input size and device."""
    old = {row.key: row for row in before.rows if row.clocks}
    new = {row.key: row for row in now.rows if row.clocks}
    changes = [
        Change(row, clock, old[key].clocks[clock].fps, figures.fps)
        for key, row in new.items()
        if key in old
        for clock, figures in row.clocks.items()
        if clock in old[key].clocks
    ]
    alone = [
        *(f"not in the older record: {' '.join(key)}" for key in new if key not in old),
        *(f"only in the older record: {' '.join(key)}" for key in old if key not in new),
    ]
    lost = [
        f"{row.model} {row.runs_on} {row.size}: {row.error}"
        for row in now.rows
        if row.error and any(_has_lost(row, one) for one in old.values())
    ]
    return Comparison(tuple(changes), (*_differences(now, before), *alone), tuple(lost))


def _has_lost(row: Row, before: Row) -> bool:
    """Whether a row that failed lacks a clock that the same was measured with before.

    The row of a network that was not even found stands for all that was asked, with commas.
    """
    same = row.model == before.model and row.input_size in ((0, 0), before.input_size)
    same = same and all(before.asked[name] in text.split(",") for name, text in row.asked.items())
    return same and not before.clocks.keys() <= row.clocks.keys()


def _differences(now: Record, before: Record) -> list[str]:
    facts = [
        *((name, before.machine.get(name), now.machine.get(name)) for name in _FACTS),
        *(("clip " + name, before.clip.get(name), now.clip.get(name)) for name in _CLIP),
        *((name, before.settings.get(name), now.settings.get(name)) for name in _SETTINGS),
        *_versions(before.machine["versions"], now.machine["versions"]),
    ]
    found = [
        f"{name} was {old or 'none'}, is {new or 'none'}" for name, old, new in facts if old != new
    ]
    partial = "one of the two records was stopped before its end"
    return [*found, *([partial] if now.partial or before.partial else [])]


_FACTS = ("cpu", "cores", "gpu", "os", "python", "rtseg")
_CLIP = ("name", "width", "height")
_SETTINGS = ("threads", "view", "loop_ends_in", "seconds", "frames")


def _versions(before: dict[str, str], now: dict[str, str]) -> Sequence[tuple[str, str, str]]:
    return [(name, before.get(name, ""), now.get(name, "")) for name in sorted({*before, *now})]
