"""What a run of several sources says on stderr, and the figures that `--metrics` writes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rtseg.cli.options import Flags
from rtseg.cli.plan import GridPlan
from rtseg.cli.report import (
    counted,
    describe_backend,
    describe_inputs,
    describe_model,
    describe_policy,
    describe_source,
    edges,
    length,
    say,
    ties,
)
from rtseg.contracts import Sink
from rtseg.errors import RtsegError
from rtseg.segmenter import Segmenter
from rtseg.session import keys
from rtseg.session.engine import Channel, Unopened, add_up
from rtseg.session.grid import Film
from rtseg.session.loop import summarise
from rtseg.sources.wrappers import Replay
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.text import aligned


def start(flags: Flags, plan: GridPlan, channels: Sequence[Channel], segmenter: Segmenter) -> None:
    """Say what was opened, what really runs, and which frames of each source are kept."""
    if flags.run.quiet:
        return
    for number, channel in enumerate(channels, 1):
        if not isinstance(channel.source, Unopened):
            say(
                f"source {number}"[:8],
                f"{describe_source(channel.source.info)}; {_kept(flags, channel)}",
            )
        for note in channel.source.info.notes:
            say("note", note)
    say("model", describe_model(segmenter))
    say("runs on", describe_backend(segmenter.info))
    for note in segmenter.info.notes:
        say("note", note)
    moving = [channel.temporal for channel in channels if channel.source.info.frame_count != 1]
    smooth = max((temporal.smooth for temporal in moving), default=0.0)
    ties(
        TemporalOptions(
            smooth,
            any(temporal.propagate for temporal in moving),
            next((temporal.key_every for temporal in moving), None),
            idle=any(temporal.idle for temporal in moving),
        )
    )
    edges(segmenter)
    own = [target for one in plan.plans for target in one.outputs]
    if targets := [*plan.films, *own, *([plan.json] if plan.json else [])]:
        say("output", ", ".join(targets))
    if plan.window:
        say("window", keys.summary())


def _kept(flags: Flags, channel: Channel) -> str:
    """Which of its frames are kept, and why."""
    if channel.source.info.frame_count == 1:
        return "one picture"
    if isinstance(channel.source, Replay):
        return "file: at its own speed, frames that are late dropped"
    return describe_policy(flags.run.policy, channel.source.info.live, channel.paced)


def left_out(film: Film) -> None:
    """Say that writing the grid was too slow for its rate."""
    if film.left_out:
        pictures = counted(film.left_out, "repeated picture")
        say(
            "note", f"{pictures} left out of the grid, which took too long to write; its times hold"
        )


def failure(name: str, error: RtsegError) -> None:
    """Say, even when quiet, that a source was lost."""
    say("lost", _named(name, str(error)))


def _named(name: str, text: str) -> str:
    """One line that says of which source it speaks."""
    return " ".join((text if name in text else f"{name}: {text}").split())


def ending(channel: Channel) -> None:
    """Say that a source was lost; one that ended is in the report."""
    if channel.error is not None:
        failure(channel.name, channel.error)


def figures(channels: Sequence[Channel], segmenter: Segmenter, totals: Stats) -> dict[str, Any]:
    """What `--metrics` writes: a report for each source, and the figures of all together."""
    add_up(totals, channels)
    together = asdict(summarise(channels[0].source, segmenter, totals))
    of_one = ("source", "outages", "hung", "propagated", "keyframes", "network_fps")
    sources = [_of(channel, segmenter) for channel in channels]
    total = {
        **{name: value for name, value in together.items() if name not in of_one},
        "outages": sum(source["outages"] for source in sources),
        "lost": sum(source["error"] is not None for source in sources),
        "notes": list(segmenter.info.notes),
    }
    return {"total": total, "sources": sources}


def _of(channel: Channel, segmenter: Segmenter) -> dict[str, Any]:
    report = asdict(summarise(channel.source, segmenter, channel.stats))
    error = None if channel.error is None else str(channel.error)
    return {
        **report,
        "source": channel.name,
        "error": error,
        "notes": list(channel.source.warnings),
    }


def report(
    flags: Flags, figures: dict[str, Any], channels: Sequence[Channel], sinks: Sequence[Sink]
) -> None:
    """Say what came of the run: all together, then a line for each source."""
    total, rows = figures["total"], figures["sources"]
    if not flags.run.quiet:
        lost = f", {counted(total['lost'], 'source')} lost" if total["lost"] else ""
        inputs = total["inputs"]
        stepped = f", {describe_inputs(inputs, total['steps'])}" if inputs else ""
        say(
            "done",
            f"{counted(total['frames'], 'frame')} of {counted(len(rows), 'source')} in "
            f"{length(total['seconds'])}, {total['fps']:.1f} fps together{stepped}, "
            f"processor {total['cpu_share']:.0%} of {counted(total['cores'], 'core')}{lost}",
        )
        for line in table(rows):
            say("", line)
        for sink in sinks:
            if text := sink.summary():
                say("wrote", text)
        if flags.run.metrics:
            say("figures", f"in {flags.run.metrics}")
    for channel in channels:
        for warning in channel.source.warnings:
            say("warning", _named(channel.name, warning))
        for name in channel.stats.hung:
            say("warning", f"thread {name!r} did not stop; abandoned")


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each source: frames, rate, drops, outages, age and the network's time."""
    heads = ["", "frames", "fps", "dropped", "age p50", "p99", "infer", ""]
    return aligned(heads, map(_cells, rows), right=range(1, 7))


def _cells(row: dict[str, Any]) -> list[str]:
    age, infer = row["age_ms"], row["stages_ms"].get("infer", {})
    notes = [f"idle at {row['idle']}"] if row["idle"] else []
    notes += [counted(row["outages"], "outage")] if row["outages"] else []
    notes += ["lost"] if row["error"] else []
    return [
        row["source"],
        str(row["frames"]),
        f"{row['fps']:.1f}",
        str(row["dropped"]),
        _ms(age, "p50"),
        _ms(age, "p99"),
        _ms(infer, "p50"),
        "  ".join(notes),
    ]


def _ms(row: dict[str, float], name: str) -> str:
    return f"{row[name]:.0f} ms" if name in row else "-"
