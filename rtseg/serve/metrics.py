"""Figures of the server, as Prometheus reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
"""Upper ends in seconds."""

HELP = {
    "rtseg_requests_total": ("counter", "Requests by route and status."),
    "rtseg_stage_seconds": ("histogram", "Seconds of each stage of a request."),
    "rtseg_pictures": ("gauge", "Images of /v1/segment that are being worked on, or wait."),
    "rtseg_streams": ("gauge", "Live streams that are open."),
    "rtseg_stream_frames_total": ("counter", "Frames of live streams by what became of them."),
    "rtseg_stream_server_seconds": ("histogram", "From a frame's arrival to its answer."),
    "rtseg_stream_age_seconds": ("histogram", "From camera to screen, as clients report it."),
    "rtseg_jobs": ("gauge", "Videos that run, or wait for their turn."),
    "rtseg_jobs_bytes": ("gauge", "Disk space of all videos and their results."),
    "rtseg_jobs_total": ("counter", "Videos by what became of them."),
    "rtseg_up": ("gauge", "1 while the network is warm and new requests are taken."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms; written in the event loop's thread alone."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], list[float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        key = name, tuple(labels.items())
        self._counters[key] = self._counters.get(key, 0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram."""
        key = name, tuple(labels.items())
        row = self._histograms.setdefault(key, [0.0] * (len(BUCKETS) + 2))
        row[bisect_left(BUCKETS, seconds)] += 1
        row[-1] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything in Prometheus' text format, version 0.0.4."""
        lines: list[str] = []
        for name, (kind, help_text) in HELP.items():
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
            if name in gauges:
                lines.append(f"{name} {gauges[name]:g}")
            for (own, labels), value in self._counters.items():
                if own == name:
                    lines.append(f"{name}{_braces(labels)} {value:.12g}")
            for (own, labels), row in self._histograms.items():
                if own == name:
                    lines += _histogram(name, labels, row)
        return "\n".join(lines) + "\n"


def _histogram(name: str, labels: Labels, row: list[float]) -> list[str]:
    total, lines = 0.0, []
    for end, count in zip((*map(str, BUCKETS), "+Inf"), row[:-1], strict=True):
        total += count
        lines.append(f"{name}_bucket{_braces((*labels, ('le', end)))} {total:g}")
    return [
        *lines,
        f"{name}_sum{_braces(labels)} {row[-1]:.6f}",
        f"{name}_count{_braces(labels)} {total:g}",
    ]


def _braces(labels: Labels) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


async def metrics(request: Request) -> Response:
    """All figures, for Prometheus."""
    from starlette.responses import PlainTextResponse

    service = request.app.state.service
    jobs = request.app.state.jobs
    text = service.metrics.text(service.gauges() | (jobs.gauges() if jobs else {}))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
