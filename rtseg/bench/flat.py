"""A record as CSV: a line for each row, every figure in its own column."""

from __future__ import annotations

import csv
import io
from typing import Any

from rtseg.bench.clocks import CLOCKS
from rtseg.bench.record import QUANTILES, ClockFigures, Record, Row


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
