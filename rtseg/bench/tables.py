"""A record as text: a table for a terminal, Markdown, CSV or JSON, all from the same cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rtseg.bench.clocks import CLOCKS
from rtseg.bench.record import QUANTILES, ClockFigures, Comparison, Record, Row, is_busy
from rtseg.text import aligned


def to_csv(record: Record) -> str:
    """The rows under one line of heads; what was not measured is empty."""
    text = io.StringIO()
    rows = [flat(row, record) for row in record.rows]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat(row: Row, record: Record) -> dict[str, Any]:
    """A row as one line: every figure, and the stamp that it belongs to; None is not measured."""
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
    speed = {k: v for clock in CLOCKS for k, v in _speed(clock, row.clocks.get(clock)).items()}
    return ran | speed | _beside(row) | _stamp(record)


def _speed(clock: str, figures: ClockFigures | None) -> dict[str, Any]:
    return {
        f"{clock}_fps": figures.fps if figures else None,
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


FORMATS = ("table", "md", "csv", "json")
NONE = "-"


class Table(NamedTuple):
    """Heads, rows of as many cells, and how many columns at the left hold words."""

    heads: list[str]
    rows: list[list[str]]
    words: int


def render(record: Record, form: str) -> str:
    """The record in a form of `FORMATS`, ending in a newline."""
    if form == "json":
        return json.dumps(record.to_json(), indent=2) + "\n"
    if form == "csv":
        return to_csv(record)
    draw = markdown if form == "md" else plain
    parts = ["\n".join(header(record)), *map(draw, tables(record)), "\n".join(legend(record))]
    text = "\n\n".join(part for part in parts if part)
    return _as_list(text, form) + "\n"


def header(record: Record) -> list[str]:
    """The stamp: what ran where, on what."""
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
        lines.append(
            f"busy machine: {load} programs ran when this began, on {facts['cores']} cores"
        )
    if record.partial:
        lines.append("partial: stopped before its end")
    return lines


def tables(record: Record) -> list[Table]:
    """Speed; what ran and how well; what could not be measured."""
    ran = [row for row in record.rows if row.clocks or row.ran]
    made = [_tables_speed(record, ran), _quality(ran)] if ran else []
    failed = [row for row in record.rows if row.error]
    rows = [[row.model, _asked(row), row.size, row.error] for row in failed]
    if failed:
        made.append(Table(["network", "asked for", "input", "not measured, because"], rows, 4))
    return made


def changes(comparison: Comparison) -> Table:
    """What changed against an older record, one line per row and clock."""
    rows = [
        [
            change.row.model,
            change.row.runs_on,
            change.row.size,
            change.clock,
            f"{change.before:.2f}",
            f"{change.now:.2f}",
            f"{change.share:+.1%}",
        ]
        for change in comparison.changes
    ]
    return Table(
        ["network", "runs on", "input", "clock", "fps before", "fps now", "change"], rows, 4
    )


def legend(record: Record) -> list[str]:
    """What each clock starts and stops around, and what the other columns are, a line each."""
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
        "fps: median of the rounds; ms: p50 / p95 / p99 of every pass",
        "load: library imported and network ready; cold start: process begun to first picture",
        "memory: most that the combination's own process held (with Python, libraries and samples)",
        f"agreement: pixels with the class of torch fp32 on {_compared(record)} frames, "
        "mean (least)",
        *(
            [f"of peak: of torch's best product or convolution, {'; '.join(peaks)}"]
            if peaks
            else []
        ),
    ]


def _compared(record: Record) -> int:
    """The frames whose masks were compared: fewer than were asked for where the clip is short."""
    counts = [row.agreement.frames for row in record.rows if row.agreement]
    return max(counts, default=int(record.settings["samples"]))


def clocks_of(record: Record) -> list[str]:
    """The clocks that any row has."""
    return [name for name in CLOCKS if any(name in row.clocks for row in record.rows)]


def plain(table: Table) -> str:
    """Aligned columns."""
    return "\n".join(aligned(table.heads, table.rows, right=range(table.words, len(table.heads))))


def markdown(table: Table) -> str:
    """A table as GitHub reads it."""
    rule = ["---" if place < table.words else "---:" for place in range(len(table.heads))]
    lines = [table.heads, rule, *table.rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _as_list(text: str, form: str) -> str:
    """In Markdown, lines of prose one after the other would run together."""
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
        return CLOCKS[clock].replace("encode and finish an H.264 file", "and let go of the picture")
    return CLOCKS[clock]


def _tables_speed(record: Record, rows: Sequence[Row]) -> Table:
    clocks = clocks_of(record)
    heads = ["network", "runs on", "input"]
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
    return [f"{figures.fps:.1f}", " / ".join(_milliseconds(figures.ms[n]) for n in QUANTILES)]


def _milliseconds(value: float) -> str:
    """Three figures or so; more would be noise."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _lost(row: Row) -> str:
    """ "3 / 20" frames dropped and propagated; "" when none were."""
    counts = row.clocks["loop"].counts if "loop" in row.clocks else {}
    lost = [counts.get("dropped", 0), counts.get("propagated", 0)]
    return " / ".join(map(str, lost)) if any(lost) else ""


def _quality(rows: Sequence[Row]) -> Table:
    heads = "network,runs on,provider,input,load s,cold start s,memory MB,agreement".split(",")
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


def _agreement(row: Row) -> str:
    found = row.agreement
    return f"{found.mean:.3%} ({found.least:.3%})" if found else NONE


def _figure(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _asked(row: Row) -> str:
    return " ".join(row.asked.values())
