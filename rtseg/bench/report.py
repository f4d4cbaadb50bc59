"""A record as a table, Markdown, CSV or JSON, all from the same cells, and as a chart."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtseg.bench.clocks import CLOCKS
from rtseg.bench.record import (
    QUANTILES,
    Change,
    ClockFigures,
    Comparison,
    Record,
    Row,
    is_busy,
)
from rtseg.figures import new_figure, save_figure
from rtseg.text import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NONE = "-"

COLOURS = {"model": "#0072b2", "pipeline": "#009e73", "worst": "#cc79a7", "loop": "#d55e00"}
"""From Okabe and Ito's palette for colour-blind readers."""

_NAMES = {
    "model": "model only",
    "pipeline": "pipeline, memory to memory",
    "worst": "pipeline, checkerboard logits",
    "loop": "whole loop, file to file",
}
_BAR, _WIDTH = 0.22, 9.0
"""Height of a bar and width of the chart in inches."""

_LOG_FROM = 40.0
"""Ratio of fastest to slowest above which the axis is logarithmic."""


class Table(NamedTuple):
    """Heads, rows, and the number of left-aligned text columns."""

    heads: list[str]
    rows: list[list[str]]
    text_columns: int


def render(record: Record, form: str) -> str:
    """The record as "table", "md", "csv" or "json", ending in a newline."""
    if form == "json":
        return json.dumps(record.to_json(), indent=2) + "\n"
    if form == "csv":
        return to_csv(record)
    draw = markdown if form == "md" else plain
    parts = ["\n".join(header(record)), *map(draw, tables(record)), "\n".join(legend(record))]
    text = "\n\n".join(part for part in parts if part)
    return _as_list(text, form) + "\n"


def header(record: Record) -> list[str]:
    """What ran where, on which clip."""
    facts, clip = record.machine, record.clip
    git = f" ({facts['git']})" if facts["git"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"rtseg {facts['rtseg']}{git}, {facts['date']}",
        f"{facts['cpu']}, {facts['cores']} cores, {record.settings.get('threads') or 'default'} "
        f"threads, {facts['os']}",
        *([f"GPU {facts['gpu']}"] if facts["gpu"] else []),
        f"Python {facts['python']}, {versions}",
        f"clip {clip['name']}, {clip['width']}x{clip['height']}; {_rounds(record)}",
    ]
    if is_busy(facts):
        load = facts["load_average"]
        lines.append(f"busy machine: load {load} on {facts['cores']} cores at the start")
    if record.partial:
        lines.append("partial: interrupted")
    return lines


def tables(record: Record) -> list[Table]:
    """Speed; what ran and how well; what could not be measured."""
    ran = [row for row in record.rows if row.clocks or row.ran]
    made = [_speed_table(record, ran), _quality_table(ran)] if ran else []
    timed = [row for row in ran if row.processor_ms]
    made += [_processor_table(timed)] if timed else []
    failed = [row for row in record.rows if row.error]
    rows = [[row.model, _asked(row), row.size, row.error] for row in failed]
    if failed:
        made.append(Table(["model", "requested", "input", "not measured"], rows, 4))
    return made


def changes(comparison: Comparison) -> Table:
    """The changes since an older record, one line per row and clock."""
    rows = [
        [
            change.row.model,
            change.row.runs_on,
            change.row.size,
            change.clock,
            f"{change.before:.2f}",
            f"{change.now:.2f}",
            f"{change.share:+.1%}",
            NONE if change.noise is None else f"±{change.noise:.1%}",
            _verdict(change),
        ]
        for change in comparison.changes
    ]
    heads = ["model", "runs on", "input", "clock", "fps before", "fps now", "change", "noise", ""]
    return Table(heads, rows, 4)


def _verdict(change: Change) -> str:
    if change.noise is None or not change.share:
        return ""
    return "within noise" if change.within_noise else "slower" if change.share < 0 else "faster"


def legend(record: Record) -> list[str]:
    """What each clock and column means, one line each."""
    lines = [f"{name}: {_meaning(name, record)}" for name in clocks_of(record)]
    if not lines:
        return []
    peaks = [
        f"{p['gflops']:.0f} GFLOP/s in {p['precision']} on {p['device']}, "
        f"where copies run at {p['copy_gb_s']:.0f} GB/s"
        for p in record.peaks
    ]
    return [
        *lines,
        "fps: median of the rounds (slowest to fastest round); ms: p50 / p95 / p99 of all passes",
        "load: import the library and load the model; cold start: process start to first image",
        *(
            [
                "CPU ms: processor time per frame of all threads, in brackets of the bare library "
                "on the same frames: FFmpeg to YUV, the backend, x264; of the loop their sum"
            ]
            if any(row.processor_ms for row in record.rows)
            else []
        ),
        "memory: peak of the combination's own process (with Python, libraries and samples)",
        f"agreement: pixels with the class of torch fp32 on {_compared(record)} frames, "
        "mean (least)",
        *(
            [f"of peak: of torch's best product or convolution, {'; '.join(peaks)}"]
            if peaks
            else []
        ),
    ]


def _compared(record: Record) -> int:
    """Number of frames whose masks were compared; fewer than requested for a short clip."""
    counts = [row.agreement.frames for row in record.rows if row.agreement]
    return max(counts, default=int(record.settings["samples"]))


def clocks_of(record: Record) -> list[str]:
    """The clocks that any row has."""
    return [name for name in CLOCKS if any(name in row.clocks for row in record.rows)]


def plain(table: Table) -> str:
    """Aligned columns."""
    return "\n".join(
        aligned(table.heads, table.rows, right=range(table.text_columns, len(table.heads)))
    )


def markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table."""
    rule = ["---" if place < table.text_columns else "---:" for place in range(len(table.heads))]
    lines = [table.heads, rule, *table.rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _as_list(text: str, form: str) -> str:
    """Lines outside tables as a list in Markdown, where they would run together."""
    if form != "md":
        return text
    return "\n".join(
        line if not line or line.startswith("|") else f"- {line}" for line in text.splitlines()
    )


def _rounds(record: Record) -> str:
    settings = record.settings
    most = f" or {settings['frames']} frames" if settings["frames"] else ""
    rounds = f"{settings['rounds']} interleaved round{'s' * (settings['rounds'] != 1)}"
    return f"{rounds} of {settings['seconds']:g} s{most} per clock"


def _meaning(clock: str, record: Record) -> str:
    if clock == "loop" and record.settings["loop_ends_in"] != "h264":
        return CLOCKS[clock].replace("encode and finish an H.264 file", "and drop the image")
    return CLOCKS[clock]


def _speed_table(record: Record, rows: Sequence[Row]) -> Table:
    clocks = clocks_of(record)
    heads = ["model", "runs on", "input"]
    heads += [head for clock in clocks for head in (f"{clock} fps", f"{clock} ms")]
    counted = any(_lost(row) for row in rows)
    heads += ["loop dropped / propagated"] if counted else []
    cells = [
        [row.model, row.runs_on, row.size]
        + [cell for clock in clocks for cell in _clock_cells(row.clocks.get(clock))]
        + ([_lost(row) or "0 / 0"] if counted else [])
        for row in rows
    ]
    return Table(heads, cells, 3)


def _clock_cells(figures: ClockFigures | None) -> list[str]:
    if figures is None:
        return [NONE, NONE]
    low, high = min(figures.rounds), max(figures.rounds)
    spread = f" ({low:.1f}-{high:.1f})" if len(figures.rounds) > 1 else ""
    return [
        f"{figures.fps:.1f}{spread}",
        " / ".join(_milliseconds(figures.ms[n]) for n in QUANTILES),
    ]


def _milliseconds(value: float) -> str:
    """About three significant digits; more would be noise."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _lost(row: Row) -> str:
    """Frames dropped and propagated as "3 / 20"; "" if there were none."""
    counts = row.clocks["loop"].counts if "loop" in row.clocks else {}
    lost = [counts.get("dropped", 0), counts.get("propagated", 0)]
    return " / ".join(map(str, lost)) if any(lost) else ""


def _quality_table(rows: Sequence[Row]) -> Table:
    heads = "model,runs on,provider,input,load s,cold start s,memory MB,agreement".split(",")
    miou = any(row.miou is not None for row in rows)
    heads += ["mIoU"] * miou + ["GFLOP", "of peak"]
    cells = [
        [
            row.model + (" (random weights)" if row.random_weights else ""),
            row.runs_on,
            row.ran.provider if row.ran else NONE,
            row.size,
            _figure(row.load_seconds, ".2f"),
            _figure(row.cold_start_seconds, ".2f"),
            _figure(row.peak_memory_mb, ".0f"),
            _agreement(row),
            *([_figure(row.miou, ".4f")] if miou else []),
            _figure(row.gflop, ".2f"),
            _figure(row.peak_share, ".0%"),
        ]
        for row in rows
    ]
    return Table(heads, cells, 4)


def _processor_table(rows: Sequence[Row]) -> Table:
    """Processor time per frame by stage, with that of the bare libraries in brackets."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row.processor_ms))
    heads = ["model", "runs on", "input"]
    heads += [f"{stage} CPU ms" for stage in stages] + ["of bare libraries"]
    cells = []
    for row in rows:
        times = [row.processor_ms.get(stage, [None, None]) for stage in stages]
        ours, bare = row.processor_ms.get("loop", [None, None])
        share = f"{ours / bare:.2f}x" if ours is not None and bare else NONE
        cells.append([row.model, row.runs_on, row.size, *map(_processor_cell, times), share])
    return Table(heads, cells, 3)


def _processor_cell(times: Sequence[float | None]) -> str:
    ours, bare = times
    words = _figure(ours, ".2f")
    return words if bare is None else f"{words} ({bare:.2f})"


def _agreement(row: Row) -> str:
    found = row.agreement
    return f"{found.mean:.3%} ({found.least:.3%})" if found else NONE


def _figure(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _asked(row: Row) -> str:
    return " ".join(row.asked.values())


def to_csv(record: Record) -> str:
    """The rows below a header line; figures that were not measured are empty."""
    text = io.StringIO()
    rows = [flat(row, record) for row in record.rows]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat(row: Row, record: Record) -> dict[str, Any]:
    """Every figure of a row, with facts of its record; None if not measured."""
    ran = {
        "model": row.model,
        "backend": row.backend,
        "precision": row.precision,
        "device": row.device,
        "provider": row.ran.provider if row.ran else None,
        "height": row.input_size[0],
        "width": row.input_size[1],
        "random_weights": row.random_weights,
    }
    speed = {
        k: v for clock in CLOCKS for k, v in _speed_fields(clock, row.clocks.get(clock)).items()
    }
    return ran | speed | _beside(row) | _stamp(record)


def _speed_fields(clock: str, figures: ClockFigures | None) -> dict[str, Any]:
    return {
        f"{clock}_fps": figures.fps if figures else None,
        f"{clock}_fps_slowest": min(figures.rounds) if figures else None,
        f"{clock}_fps_fastest": max(figures.rounds) if figures else None,
        **{f"{clock}_{name}_ms": figures.ms[name] if figures else None for name in QUANTILES},
        f"{clock}_passes": figures.passes if figures else None,
    }


def _beside(row: Row) -> dict[str, Any]:
    counts = row.clocks["loop"].counts if "loop" in row.clocks else {}
    return {
        "dropped": counts.get("dropped"),
        "propagated": counts.get("propagated"),
        "load_seconds": row.load_seconds,
        "first_seconds": row.first_seconds,
        "cold_start_seconds": row.cold_start_seconds,
        "peak_memory_mb": row.peak_memory_mb,
        "agreement_mean": row.agreement.mean if row.agreement else None,
        "agreement_least": row.agreement.least if row.agreement else None,
        "miou": row.miou,
        "gflop": row.gflop,
        "peak_share": row.peak_share,
        "loop_cpu_ms": row.processor_ms.get("loop", [None])[0],
        "bare_cpu_ms": row.processor_ms.get("loop", [None, None])[1],
        "error": row.error,
    }


def _stamp(record: Record) -> dict[str, Any]:
    return {
        "partial": record.partial,
        "clip": record.clip["name"],
        "rtseg": record.machine["rtseg"],
        "cpu": record.machine["cpu"],
        "date": record.machine["date"],
    }


def write_plot(record: Record, path: Path) -> None:
    """Write the chart.

    Raises:
        SinkError: it cannot be written.
    """
    save_figure(draw_plot(record), path)


def draw_plot(record: Record) -> Figure:
    """Frames per second as bars, one per clock; rows from the top, as in the table."""
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
    """A linear axis, or a logarithmic one if rows are far apart."""
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
    """A row on two lines."""
    note = ", random weights" if row.random_weights else ""
    return f"{row.model}{note}\n{row.backend} {row.precision}, {row.size}"


def _title(record: Record) -> str:
    clip, facts = record.clip, record.machine
    devices = {row.device for row in record.rows if row.clocks}
    caveats = ["busy machine"] * is_busy(facts) + ["interrupted"] * record.partial
    where = facts["cpu"] if devices <= {"cpu"} else ", ".join(sorted(devices))
    return (
        f"{where}, {facts['cores']} cores\n{clip['name']}, {clip['width']}x{clip['height']}\n"
        f"rtseg {facts['rtseg']}, {facts['date'][:10]}"
        + (f"\n{', '.join(caveats)}" if caveats else "")
    )
