"""What a run says on stderr: how it starts, and what came of it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtseg.cli.options import Flags, temporal_of
from rtseg.cli.plan import Plan
from rtseg.cli.process import Stop
from rtseg.contracts import BackendInfo, Rendered, Sink, Source, SourceInfo
from rtseg.errors import counted
from rtseg.labels import LabelSet
from rtseg.segmenter import Segmenter
from rtseg.session.pipeline import keeps_newest
from rtseg.sinks import find_kind
from rtseg.sinks.files import FileTarget, cannot_write
from rtseg.sources import kind_of
from rtseg.stats import Report, Stats
from rtseg.temporal import TemporalOptions

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class _Rule(NamedTuple):
    """Flags of a group, whether this run uses them, and why not where it does not."""

    group: Any
    names: str
    used: bool
    why: str


def unused(flags: Flags, plan: Plan) -> Iterator[str]:
    """A sentence for what was given in vain: flags, and sound that is not kept."""
    for rule in _rules(flags, plan):
        given = [f"--{name.replace('_', '-')}" for name in _given(rule.group, rule.names.split())]
        if given and not rule.used:
            change = "changes" if len(given) == 1 else "change"
            yield f"{' and '.join(given)} {change} nothing here: {rule.why}"
    yield from _lost_sound(flags, plan)


def _rules(flags: Flags, plan: Plan) -> tuple[_Rule, ...]:
    source, view, output = kind_of(plan.source), flags.view, flags.output
    sinks = {find_kind(target)[0] for target in plan.outputs}
    # in a window b goes through backgrounds, r records, s saves and m goes through networks
    matte = view.background != "none" or view.view == "cutout" or plan.window
    timed = source in ("camera", "stdin", "pictures")
    raw = source == "stdin" or "raw" in sinks
    return (
        _Rule(flags.source, "width height fourcc", source == "camera", "the source is no camera"),
        _Rule(flags.source, "fps", timed, "the source has a rate of its own"),
        _Rule(flags.source, "size", source == "stdin", "no raw frames come in"),
        _Rule(flags.source, "pix_fmt", raw, "no raw frames come or go"),
        _Rule(flags.model, "models", plan.window, "there is no window"),
        _Rule(view, "feather matte_threshold", matte, "there is no --background"),
        _Rule(output, "codec crf", "video" in sinks, "no video is written with -o"),
        _Rule(output, "rle", "json" in sinks, "there is no --json"),
        _Rule(output, "screenshots", plan.window, "there is no window"),
    )


def _given(group: Any, names: list[str]) -> Iterator[str]:
    """Those of the flags that are not as they are by themselves."""
    usual = {field.name: field.default for field in fields(group)}
    return (name for name in names if getattr(group, name) != usual[name])


def _lost_sound(flags: Flags, plan: Plan) -> Iterator[str]:
    """A file that is begun again, or replayed live, has pictures that its sound does not fit."""
    again = [f"--{name}" for name in ("loop", "live") if getattr(flags.source, name)]
    videos = any(find_kind(target)[0] == "video" for target in plan.outputs)
    if again and videos and flags.output.audio == "copy" and kind_of(plan.source) == "video":
        from rtseg.sinks.audio import has_sound

        if has_sound(Path(plan.source)):
            yield f"the sound is left out with {' and '.join(again)}"


class TerminalBar:
    """One line on stderr that is drawn over itself, and gone at the end.

    There is no refresh thread, which would run beside what is timed and stand in the way of
    forked workers: each call draws. Where stderr is no terminal, or `quiet`, `shown` is False and
    nothing is drawn.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stderr.isatty()
        self._rich: Any = None

    def draw(self, done: int, total: int, about: str, heading: str = "") -> None:
        """Show `done` of `total`, 0 being an unknown total, between two texts."""
        if not self.shown:
            return
        if self._rich is None:
            self._rich = _started()
        self._rich.update(
            self._rich.tasks[0].id,
            total=total or None,
            completed=done,
            heading=heading,
            about=about,
        )
        self._rich.refresh()

    def clear(self) -> None:
        """Take the line away, so that others can be written; the next call draws it again."""
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    def __enter__(self) -> TerminalBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()


def _started() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    heading = TextColumn("{task.fields[heading]}", markup=False)
    about = TextColumn("{task.fields[about]}", markup=False)
    left = TimeRemainingColumn(compact=True)
    columns = (heading, BarColumn(), MofNCompleteColumn(), about, left, TextColumn("left"))
    progress = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    progress.add_task("", total=None, heading="", about="")
    progress.start()
    return progress


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> None:
    """Print rows under heads in aligned columns; those numbered in `right` align right."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = (
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def write_metrics(path: str, report: Report) -> None:
    """Write the report's figures as JSON; as `write_json`."""
    write_json(path, asdict(report))


def write_json(path: str, values: dict[str, Any]) -> None:
    """Write values as JSON, whole or not at all; "-" is stdout.

    Raises:
        SinkError: it cannot be written.
    """
    text = json.dumps(values, indent=2)
    if path == "-":
        print(text)
        return
    target = FileTarget(Path(path), overwrite=True)  # whether it may is asked before the run
    try:
        target.part.write_text(text + "\n", "utf-8")
    except OSError as error:
        target.discard()
        raise cannot_write(target.path, error) from error
    target.commit()


class Seen(Sink):
    """Looks at masks until one of the wanted classes turns up; then costs nothing.

    Args:
        labels: the network's classes.
        selected: those a person asked for; None means all but the background.
    """

    wants_image = False

    def __init__(self, labels: LabelSet, selected: frozenset[int] | None) -> None:
        self._labels = labels
        self._sought = labels.sought(selected)
        self._found = not self._sought

    def write(self, rendered: Rendered) -> None:
        """Look at one frame."""
        if not self._found and rendered.segmentation.labels.names == self._labels.names:
            self._found = bool(self._sought & rendered.segmentation.shares.keys())

    def summary(self) -> str:
        """ "no pixels of: ..." when nothing of the wanted classes ever came; else ""."""
        return "" if self._found else f"no pixels of: {self._labels.listed(self._sought)}"


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


REFRESH_SECONDS = 0.1
FIRST_LINE_SECONDS = 2.0
PATIENCE_SECONDS = 1.0


class Progress:
    """Says nothing; the others say something in `show`.

    `tick` may be called as often as one likes; it draws at most every `interval` seconds.
    """

    def __init__(self, source: Source, stats: Stats, interval: float = REFRESH_SECONDS) -> None:
        self.source, self.stats, self.interval = source, stats, interval
        self._next = stats.clock.now() + interval
        self._last = (0, stats.clock.now())

    def tick(self) -> None:
        """Draw, if it is time."""
        if self._last[0] != self.stats.shown:
            self._last = (self.stats.shown, self.stats.clock.now())
        if (now := self.stats.clock.now()) >= self._next:
            self._next = now + self.interval
            self.show()

    def show(self) -> None:
        """Draw now."""

    def figures(self) -> str:
        """The live line, with how long the last frame has been here."""
        waited = self.stats.clock.now() - self._last[1]
        return live_line(self.source, self.stats, waited)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return


class Lines(Progress):
    """A plain line now and then, each pause twice the last: for logs."""

    def __init__(self, source: Source, stats: Stats) -> None:
        super().__init__(source, stats, FIRST_LINE_SECONDS)

    def show(self) -> None:
        """One more line."""
        self.interval *= 2
        count = self.source.info.frame_count
        of = f" of {count}" if count else ""
        say("running", f"{self.stats.shown}{of} frames, {self.figures()}")


class Bar(Progress):
    """A bar with rate and time left, or a live line where there is no end in sight."""

    def __init__(self, source: Source, stats: Stats) -> None:
        super().__init__(source, stats)
        self._rich = _rich_progress(bounded=source.info.frame_count is not None)
        self._task = self._rich.add_task("", total=source.info.frame_count, figures="")

    def show(self) -> None:
        """Redraw."""
        self._rich.update(self._task, completed=self.stats.shown, figures=self.figures())
        self._rich.refresh()

    def __enter__(self) -> Progress:
        self._rich.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._rich.stop()


def open_progress(source: Source, stats: Stats, *, quiet: bool) -> Progress:
    """The progress display that suits stderr."""
    if quiet:
        return Progress(source, stats)
    return Bar(source, stats) if sys.stderr.isatty() else Lines(source, stats)


def live_line(source: Source, stats: Stats, waited: float = 0.0) -> str:
    """Speed now, and for live sources age and drops; or why no frame comes.

    Args:
        waited: seconds since the last frame.
    """
    if source.notice:
        return source.notice
    if waited > PATIENCE_SECONDS:
        return f"no frame for {length(waited)}"
    parts = [f"{stats.fps_now or stats.fps:.1f} fps"]
    if source.info.live:
        parts.append(f"age {1e3 * stats.recent.get('age', 0.0):.0f} ms")
        parts.append(f"{stats.dropped} dropped")
        parts.append(length(stats.seconds))
    return ", ".join(parts)


def _rich_progress(*, bounded: bool) -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    figures = TextColumn("{task.fields[figures]}", markup=False)
    left = TimeRemainingColumn(compact=True)
    bar = [BarColumn(), MofNCompleteColumn(), figures, left, TextColumn("left")]
    columns = bar if bounded else [SpinnerColumn(), figures]
    # No refresh thread: the loop's own ticks redraw.
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)


class DownloadProgress:
    """What shows a download to a person: a bar on a terminal, two lines in a log."""

    def __init__(self, stop: Stop, *, quiet: bool = False) -> None:
        self._stop = stop
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._title = ""

    def __call__(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the file `title` are here; 0 is an unknown total.

        Raises:
            Interrupted: a signal asked for the end.
        """
        self._stop.check()
        if self._quiet:
            return
        if title != self._title:
            self._begin(title, total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None)
            self._bar.refresh()
        if total and done >= total:
            self._finish(total)

    def _begin(self, title: str, total: int) -> None:
        self._title = title
        if not sys.stderr.isatty():
            say("fetching", f"{title}, {total / 1e6:.0f} MB" if total else title)
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(
            *columns, console=Console(stderr=True), auto_refresh=False, transient=True
        )
        self._bar.start()
        self._task = self._bar.add_task(title, total=total or None)

    def _finish(self, total: int) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._title:
            say("fetched", f"{self._title}, {total / 1e6:.0f} MB")
        self._title = ""
