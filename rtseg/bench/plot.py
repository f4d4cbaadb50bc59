"""A record as a chart: frames per second of each row, a bar per clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtseg.bench.record import Record, Row, is_busy
from rtseg.bench.tables import clocks_of
from rtseg.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"model": "#0072b2", "pipeline": "#009e73", "worst": "#cc79a7", "loop": "#d55e00"}
"""Of Okabe and Ito's palette, which people who do not see all colours can tell apart."""

_NAMES = {
    "model": "model only",
    "pipeline": "pipeline, memory to memory",
    "worst": "pipeline, checkerboard logits",
    "loop": "whole loop, file to file",
}
_BAR = 0.22  # inches
_WIDTH = 9.0
_LOG_FROM = 40.0  # fastest over slowest from which equal steps are equal ratios


def write_plot(record: Record, path: Path) -> None:
    """Write the chart.

    Raises:
        SinkError: it cannot be written.
    """
    save_figure(draw_plot(record), path)


def draw_plot(record: Record) -> Figure:
    """The chart; rows from the top, as in the table."""
    rows = [row for row in record.rows if row.clocks]
    clocks = clocks_of(record)
    tall = max(1, len(rows)) * (len(clocks) + 1) * _BAR
    figure = new_figure(_WIDTH, tall + 1.6, constrained=True)
    axes = figure.add_subplot()
    for place, clock in enumerate(clocks):
        _draw_clock(axes, rows, clock, place, len(clocks) + 1)
    middles = [number * (len(clocks) + 1) + (len(clocks) - 1) / 2 for number in range(len(rows))]
    axes.set_yticks(middles, [_label(row) for row in rows], parse_math=False)
    axes.invert_yaxis()
    _scale(axes, rows)
    axes.set_xlabel("frames per second, median of the rounds; whisker: slowest to fastest round")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    figure.suptitle(_title(record), fontsize=9, x=0.99, ha="right", color="0.35")
    return figure


def _draw_clock(axes: Any, rows: Sequence[Row], clock: str, place: int, step: int) -> None:
    found = [
        (number * step + place, row.clocks[clock])
        for number, row in enumerate(rows)
        if clock in row.clocks
    ]
    at = [y for y, _ in found]
    fps = [figures.fps for _, figures in found]
    low = [figures.fps - min(figures.rounds) for _, figures in found]
    high = [max(figures.rounds) - figures.fps for _, figures in found]
    axes.barh(at, fps, 0.9, color=COLOURS[clock], label=_NAMES[clock])
    axes.errorbar(fps, at, xerr=[low, high], fmt="none", ecolor="0.25", elinewidth=1, capsize=2)
    for y, figures in found:
        axes.annotate(
            f"{figures.fps:.1f}",
            (max(figures.rounds), y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )


def _scale(axes: Any, rows: Sequence[Row]) -> None:
    """Equal steps for equal differences, or where rows are too far apart, for equal ratios."""
    speeds = [figures.fps for row in rows for figures in row.clocks.values()]
    if not speeds:
        return
    most, least = max(max(f.rounds) for r in rows for f in r.clocks.values()), min(speeds)
    if most / least > _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(least / 2, most * 1.5)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, most * 1.1)


def _label(row: Row) -> str:
    """A row on two lines, and what weights are not the published ones."""
    note = ", random weights" if row.random_weights else ""
    return f"{row.model}{note}\n{row.backend} {row.precision}, {row.size}"


def _title(record: Record) -> str:
    clip, facts = record.clip, record.machine
    devices = {row.device for row in record.rows if row.clocks}
    blots = ["busy machine"] * is_busy(facts) + ["stopped before its end"] * record.partial
    where = facts["cpu"] if devices <= {"cpu"} else ", ".join(sorted(devices))
    return (
        f"{where}, {facts['cores']} cores\n{clip['name']}, {clip['width']}x{clip['height']}\n"
        f"rtseg {facts['rtseg']}, {facts['date'][:10]}" + (f"\n{', '.join(blots)}" if blots else "")
    )
