"""The most that each device can do, measured beside the networks, and their share of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtseg.bench.record import Row

Peak = dict[str, Any]
"""One of `peaks` of the record."""


def keep_best(
    peaks: list[Peak], place: tuple[str, str], threads: int | None, **found: float
) -> None:
    """Note measurements (`gflops`, `copy_gb_s`); of several of one device and precision the best
    counts.
    """
    for peak in peaks:
        if _place(peak) == place:
            peak.update({name: max(peak[name], value) for name, value in found.items()})
            return
    device, precision = place
    peaks.append({"device": device, "precision": precision, "threads": threads, **found})


def peak_place(row: Row) -> tuple[str, str]:
    """Device and precision of what a row is held against: on a processor, fp32 or bf16."""
    device = row.device.split()[0]
    own = device.startswith("cuda") or row.precision == "bf16"
    return device, row.precision if own else "fp32"


def peak_share(row: Row, peaks: Sequence[Peak]) -> float | None:
    """Operations per second of the model clock's p50, over the peak of its device."""
    peak = next((p["gflops"] for p in peaks if _place(p) == peak_place(row)), None)
    if not peak or row.gflop is None or "model" not in row.clocks:
        return None
    return float(row.gflop / (row.clocks["model"].ms["p50"] / 1e3) / peak)


def _place(peak: Peak) -> tuple[str, str]:
    return peak["device"], peak["precision"]
