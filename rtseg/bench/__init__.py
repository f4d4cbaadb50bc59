"""Benchmark models side by side: three clocks, interleaved rounds, one record."""

from __future__ import annotations

from rtseg.bench.clocks import CLOCKS, Limit
from rtseg.bench.record import Record, Row
from rtseg.bench.rounds import Settings, measure
from rtseg.bench.worker import Combination

__all__ = ["CLOCKS", "Combination", "Limit", "Record", "Row", "Settings", "measure"]
