"""What a run says on stderr: how it starts, and what came of it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

from rtseg.cli.options import Flags
from rtseg.cli.plan import Plan
from rtseg.cli.seen import Seen
from rtseg.cli.temporal import temporal_of
from rtseg.cli.unused import unused
from rtseg.contracts import BackendInfo, Sink, Source, SourceInfo
from rtseg.segmenter import Segmenter
from rtseg.session.pipeline import keeps_newest
from rtseg.stats import Report
from rtseg.temporal import TemporalOptions
from rtseg.words import counted as counted


def say(heading: str, text: str) -> None:
    """One line on stderr: a heading in its column, then the text; wrapped on a terminal."""
    lines = [text]
    if sys.stderr.isatty():
        room = max(40, shutil.get_terminal_size().columns - _COLUMN)
        lines = textwrap.wrap(text, room, break_long_words=False) or [""]
    for line in lines:
        print(f"{heading:<{_COLUMN}}{line}", file=sys.stderr, flush=True)
        heading = ""


_COLUMN = 9


def teller(*, quiet: bool) -> Callable[[str, str], None]:
    """What says a line with its heading; when quiet, only warnings."""

    def tell(heading: str, text: str) -> None:
        if heading == "warning" or not quiet:
            say(heading, text)

    return tell


def start(flags: Flags, plan: Plan, source: Source, segmenter: Segmenter) -> None:
    """Say what was opened, what really runs, and which frames are kept and why."""
    if flags.run.quiet:
        return
    say("source", describe_source(source.info))
    _say_all("note", source.info.notes)
    say("network", describe_network(segmenter))
    say("runs on", describe_backend(segmenter.info))
    _say_all("note", segmenter.info.notes)
    _say_all("note", unused(flags, plan))
    say("policy", describe_policy(flags.run.policy, source.info.live, plan.paced))
    temporal = temporal_of(flags.run, source.info.live, watched=plan.window)
    ties(temporal, single=source.info.frame_count == 1)
    edges(segmenter)
    if targets := [target for target in plan.outputs if target != "window:"]:
        say("output", ", ".join(map(_in_words, targets)))
    if plan.window:
        say("window", "h lists the keys, q or Esc ends")


def ties(temporal: TemporalOptions, *, single: bool = False) -> None:
    """Say how the masks of consecutive frames are tied together; a single picture has none."""
    if temporal.idle:
        say("idle", "the network rests while the picture does not change (--no-idle)")
    if temporal.smooth and not single:
        say("smooth", f"masks are held still over time, strength {temporal.smooth:g} (--no-smooth)")


def edges(segmenter: Segmenter) -> None:
    """Say that masks are more than the network's own."""
    if segmenter.refine:
        say("refine", "edges of masks follow the picture's")


def report(
    flags: Flags, figures: Report, sinks: Sequence[Sink], seen: Seen, source: Source
) -> None:
    """Say what came of the run; warnings and empty results even when quiet."""
    if not flags.run.quiet:
        say("done", describe_frames(figures))
        for line in table(figures, verbose=flags.run.verbose):
            print(" " * _COLUMN + line, file=sys.stderr)
        _say_all("wrote", (sink.summary() for sink in sinks))
        _say_all("figures", [f"go to {flags.run.metrics}"] if flags.run.metrics else [])
    _say_all("warning", source.warnings)
    _say_all("note", [seen.summary()] if figures.frames else [])
    _say_all("warning", (f"{name} hung and was left behind" for name in figures.hung))


def describe_source(info: SourceInfo) -> str:
    """A source in one line: name, size, rate, length, and whether it is live."""
    size = f"{info.width}x{info.height}"
    parts = [info.name] if size in info.name else [info.name, size]
    if info.frame_rate and info.frame_count != 1:
        parts.append(f"{rate(info.frame_rate)} fps")
    if info.frame_count:
        parts.append(counted(info.frame_count, "frame"))
    if info.frame_rate and (info.frame_count or 0) > 1:
        parts.append(length(float((info.frame_count or 0) / info.frame_rate)))
    return ", ".join([*parts, *(["live"] if info.live else [])])


def describe_network(segmenter: Segmenter) -> str:
    """A network in one line: name, classes, input size."""
    height, width = segmenter.input_size
    classes = f"{len(segmenter.labels)} classes"
    return f"{segmenter.spec.name}, {classes}, input {height}x{width} (HxW)"


def describe_backend(info: BackendInfo) -> str:
    """What really runs, in one line."""
    provider = f" ({info.provider})" if info.provider else ""
    return f"{info.name} on {info.device}, {info.precision}{provider}"


def describe_policy(policy: str, live: bool, paced: bool = False) -> str:
    """Which frames are kept, and why."""
    what = (
        "newest frame, older ones dropped" if keeps_newest(policy, live) else "every frame in order"
    )
    speed = ", at its own speed" if paced and not live else ""
    why = f"--policy {policy}" if policy != "auto" else ("live" if live else "file")
    return f"{why}: {what}{speed}"


def describe_frames(figures: Report) -> str:
    """Frames, time, speed and drops in one line."""
    parts = [
        f"{counted(figures.frames, 'frame')} in {length(figures.seconds)}",
        f"{figures.fps:.1f} fps (whole loop)",
    ]
    if figures.keyframes:
        causes = ", ".join(f"{cause} {count}" for cause, count in figures.keyframes.items())
        parts.append(f"{figures.propagated} of them propagated")
        parts.append(f"network {figures.network_fps:.1f} fps (keyframes: {causes})")
    if figures.idle:
        parts.append(f"idle at {figures.idle} of them (the picture had not changed)")
        parts.append(f"network {figures.network_fps:.1f} fps")
    if figures.dropped:
        causes = ", ".join(f"{cause} {count}" for cause, count in figures.dropped_by.items())
        parts.append(f"dropped {figures.dropped} of {figures.produced} ({causes})")
    if figures.inputs:
        parts.append(describe_inputs(figures.inputs, figures.steps))
    if figures.outages:
        parts.append(counted(figures.outages, "outage"))
    if figures.cores:
        parts.append(f"processor {figures.cpu_share:.0%} of {counted(figures.cores, 'core')}")
    return ", ".join(parts)


def describe_inputs(inputs: Mapping[str, int], steps: int) -> str:
    """How often the input's size changed to keep a frame rate, and frames by size."""
    sizes = ", ".join(f"{size} {count}" for size, count in inputs.items())
    return f"input stepped {counted(steps, 'time')} ({sizes})"


def table(figures: Report, *, verbose: bool = False) -> list[str]:
    """Milliseconds per stage and of the frame's age, as aligned lines; `verbose` adds columns."""
    rows = {**figures.stages_ms, "age": figures.age_ms}
    rows = {name: row for name, row in rows.items() if row}
    if not rows:
        return []
    columns = ("p50", "p95", "p99", *(("max", "mean") if verbose else ()))
    head = f"{'ms':<12}" + "".join(f"{column:>9}" for column in columns)
    return [
        head,
        *(
            f"{name:<12}" + "".join(f"{row[c]:>9.2f}" for c in columns)
            for name, row in rows.items()
        ),
    ]


def rate(frame_rate: Fraction) -> str:
    """30000/1001 as "29.97"."""
    return f"{float(frame_rate):.2f}".rstrip("0").rstrip(".")


def length(seconds: float) -> str:
    """Seconds as "9.8 s" or "1:02:03"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _in_words(target: str) -> str:
    """A target as `open_sink` takes it, for people: "masks/ (mask)"."""
    role, colon, path = target.partition(":")
    return f"{path} ({role})" if colon and path else target


def _say_all(heading: str, texts: Iterable[str]) -> None:
    for text in texts:
        if text:
            say(heading, text)
