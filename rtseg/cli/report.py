"""What every verb prints: lines, tables, progress, JSON; and the report of a run."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from html import escape
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtseg.addresses import clean_values, detailed_name, is_address, shown
from rtseg.cli.options import Flags, temporal_of
from rtseg.cli.plan import GridPlan, Plan
from rtseg.cli.process import Stop, out
from rtseg.contracts import BackendInfo, Rendered, Sink, Source, SourceInfo
from rtseg.effects import VIEWS
from rtseg.errors import RtsegError
from rtseg.files import leftovers, write_file
from rtseg.labels import LabelSet
from rtseg.options import flag, keeps_newest
from rtseg.segmenter import Segmenter
from rtseg.session import keys
from rtseg.session.engine import Channel
from rtseg.session.grid import Film
from rtseg.session.loop import summarise
from rtseg.session.sources import Unopened
from rtseg.sinks import find_kind, split_prefix
from rtseg.sources import source_kind
from rtseg.sources.wrappers import Replay
from rtseg.stats import Clock, Report, Stats
from rtseg.temporal import TemporalOptions
from rtseg.text import aligned, counted, listed

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_COLUMN = 9
"""Width of the headings."""

REFRESH_SECONDS = 0.1
FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 0.5
STALLED_SECONDS = 1.0
"""Without a frame for this long, the progress line reports the wait instead of a rate."""


def say(heading: str, text: str) -> None:
    """Print a heading and a text on stderr, in two columns; wrapped on a terminal."""
    _print_columns(heading, shown(text))


def _print_columns(heading: str, text: str) -> None:
    lines = [text]
    if sys.stderr.isatty():
        room = max(40, shutil.get_terminal_size().columns - _COLUMN)
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    for line in lines:
        print(f"{heading:<{_COLUMN}}{line}", file=sys.stderr, flush=True)
        heading = ""


def say_where(lines: Collection[tuple[str, str]], *, quiet: bool) -> None:
    """Print where a server listens, as `greeting` says it, and on a terminal the code of its
    address for the cameras of telephones, if they can reach it."""
    from rtseg.serve.listen import qr_code  # of the extra rtseg[serve]

    for heading, text in lines:
        _print_columns(heading, text)  # of our own making; the token is for whoever reads it
    code = qr_code(dict(lines)["serving"]) if sys.stderr.isatty() and not quiet else ""
    if code:
        out(code, to=sys.stderr)


def teller(*, quiet: bool) -> Callable[[str, str], None]:
    """A function like `say` that prints only warnings if `quiet`."""

    def tell(heading: str, text: str) -> None:
        if heading == "warning" or not quiet:
            say(heading, text)

    return tell


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> None:
    """Print a table on stdout; columns numbered in `right` are right-aligned."""
    out("\n".join(aligned(heads, rows, right=right)))


def write_json(path: str, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write values as JSON, whole or not at all; "-" is stdout.

    Raises:
        SinkError: it cannot be written.
    """
    text = json.dumps(clean_values(values), indent=2).replace("\x7f", "\\u007f")
    if path == "-":
        print(text, flush=True)  # not by `out`, which would take secrets out of the finished text
        return
    write_file(Path(path), text + "\n")  # -y was checked before the run


class Progress:
    """How far a program is: a bar on a terminal and in a notebook, a plain line now and then in a
    log.

    There is no refresh thread, which would disturb what is timed and break forked workers:
    `update` draws, at most every `REFRESH_SECONDS`. In a log the first line of a heading comes
    after `first_line` seconds, and each pause is twice the one before.

    Args:
        quiet: draw and print nothing.
        in_bytes: the counts are bytes; the bar shows megabytes and the transfer rate.

    Attributes:
        draws: whether it is a bar.
        in_lines: in this process, print each `LINE_SECONDS` a JSON object instead, for a program.
    """

    in_lines = False

    def __init__(
        self,
        *,
        quiet: bool = False,
        in_bytes: bool = False,
        first_line: float = FIRST_LINE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self.draws = not quiet and (sys.stderr.isatty() or _in_notebook())
        self._quiet, self._in_bytes = quiet, in_bytes
        self._clock = clock or Clock()
        self._first = REFRESH_SECONDS if self.draws else first_line
        self._first = LINE_SECONDS if self.in_lines else self._first
        self._pause = self._first
        self._next = self._clock.now() + self._first
        self._heading = ""
        self._bar: RichProgress | _NotebookBar | None = None
        self._bounded = False

    @property
    def due(self) -> bool:
        """Whether the next `update` draws or prints."""
        return not self._quiet and self._clock.now() >= self._next

    def update(
        self,
        done: int,
        total: int,
        text: str = "",
        *,
        unit: str = "",
        heading: str = "",
        redraw: bool = False,
    ) -> None:
        """Show that `done` of `total` are done; a `total` of 0 is unknown.

        Args:
            unit: what is counted, in the plural ("frames").
            redraw: draw the bar at once.
        """
        if heading != self._heading:  # a step that ends quickly needs no line
            self._heading, self._pause = heading, self._first
            if not self.draws:
                self._next = self._clock.now() + self._first
        if self.draws and (redraw or self.due):
            self._draw(done, total, ", ".join(filter(None, (unit, text))))
        elif self.due and self.in_lines:
            print(json.dumps({"done": done, "total": total, "unit": unit}), file=sys.stderr)
        elif self.due:
            self._pause = max(2 * self._pause, FIRST_LINE_SECONDS)
            count = f"{done} of {total} {unit}" if total else f"{done} {unit}"
            say(heading or "running", ", ".join(filter(None, (count.rstrip(), text))))
        else:
            return
        self._next = self._clock.now() + self._pause

    def clear(self) -> None:
        """Remove the bar, so that lines can be printed; the next `update` draws it again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bar is not None and self._bounded != bool(total):
            self.clear()
        if self._bar is None:
            self._bounded = bool(total)
            if _in_notebook():
                self._bar = _NotebookBar(in_bytes=self._in_bytes)
            else:
                self._bar = _terminal_bar(bounded=self._bounded, in_bytes=self._in_bytes)
                self._bar.add_task("", heading="", text="")
                self._bar.start()
        if isinstance(self._bar, _NotebookBar):
            self._bar.update(self._heading, done, total, text)
            return
        task = self._bar.task_ids[0]
        self._bar.update(
            task, total=total or None, completed=done, heading=self._heading, text=shown(text)
        )
        self._bar.refresh()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


class _NotebookBar:
    """A bar in the output of a notebook's cell; rich's would need ipywidgets."""

    def __init__(self, *, in_bytes: bool) -> None:
        self._in_bytes = in_bytes
        self._ipython = import_module("IPython.display")
        self._handle = self._ipython.display(self._ipython.HTML(""), display_id=True)

    def update(self, heading: str, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` are done; 0 is an unknown total."""
        if self._in_bytes:
            count = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        else:
            count = f"{done} of {total}" if total else str(done)
        bar = f'<progress max="{total}" value="{done}"></progress>' if total else ""
        words = " ".join(filter(None, (heading, count, text)))
        self._handle.update(self._ipython.HTML(f"{bar} {escape(shown(words))}"))

    def stop(self) -> None:
        """Remove it."""
        self._handle.update(self._ipython.HTML(""))


def _terminal_bar(*, bounded: bool, in_bytes: bool) -> RichProgress:
    from rich import progress as rich
    from rich.console import Console

    heading = rich.TextColumn("{task.fields[heading]}", markup=False)
    text = rich.TextColumn("{task.fields[text]}", markup=False)
    left = (rich.TimeRemainingColumn(compact=True), rich.TextColumn("left"))
    columns: tuple[rich.ProgressColumn, ...]
    if in_bytes:
        columns = heading, rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn()
    elif bounded:
        columns = heading, rich.BarColumn(), rich.MofNCompleteColumn(), text, *left
    else:
        columns = heading, rich.SpinnerColumn(), text
    return rich.Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)


class DownloadProgress:
    """The progress of downloads: a bar on a terminal, a line at the start and end of each file."""

    def __init__(self, stop: Stop, *, quiet: bool = False) -> None:
        self._stop, self._quiet, self._title = stop, quiet, ""
        self._progress = Progress(quiet=quiet, in_bytes=True)

    def __call__(self, title: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes of the file `title` are here; 0 is an unknown total.

        Raises:
            Interrupted: a signal asked for the end.
        """
        self._stop.check()
        if self._quiet:
            return
        if self._progress.draws:
            self._progress.update(done, total, heading=title, redraw=title != self._title)
        elif title != self._title:
            say("fetching", f"{title}, {total / 1e6:.0f} MB" if total else title)
        self._title = title
        if total and done >= total:
            self._progress.clear()
            say("fetched", f"{title}, {total / 1e6:.0f} MB")
            self._title = ""


# The report of a run


def start(flags: Flags, plan: Plan, source: Source, segmenter: Segmenter) -> None:
    """Report what was opened, what really runs, and which frames are kept and why."""
    if flags.run.quiet:
        return
    say("source", describe_source(source.info))
    _say_all("address", _detailed(flags))
    _say_all("note", source.info.notes)
    say("model", describe_model(segmenter))
    say("runs on", describe_backend(segmenter.info))
    _say_all("note", segmenter.info.notes)
    _say_all("note", unused(flags, plan))
    say("policy", describe_policy(flags.run.policy, source.info.live, plan.paced))
    temporal = temporal_of(flags, source.info.live, watched=plan.window)
    say_temporal(temporal, single=source.info.frame_count == 1)
    say_refine(segmenter)
    if targets := [target for target in plan.outputs if target != "window:"]:
        say("output", ", ".join(map(_describe_target, targets)))
    left_behind(find_kind(target)[1] for target in targets)
    if plan.window:
        say("window", "press h for the keys, q or Esc to quit")


def _detailed(flags: Flags) -> list[str]:
    """With --verbose, more of the addresses than their names tell."""
    return [detailed_name(each) for each in flags.sources if flags.run.verbose and is_address(each)]


def left_behind(paths: Iterable[Path]) -> None:
    """Report unfinished files of these outputs, of runs that were killed."""
    for path in chain.from_iterable(map(leftovers, paths)):
        say(
            "note", f"{path} is what a run that was killed left; rename it to keep it, or delete it"
        )


def say_temporal(temporal: TemporalOptions, *, single: bool = False) -> None:
    """Report the temporal options of a run; a single image is not smoothed."""
    if temporal.idle:
        say("idle", "the model pauses while the image does not change (--no-idle)")
    if temporal.smooth and not single:
        say("smooth", f"masks smoothed over time, strength {temporal.smooth:g} (--no-smooth)")


def say_refine(segmenter: Segmenter) -> None:
    """Report --refine."""
    if segmenter.refine:
        say("refine", "mask edges refined from image colours")


def report(
    flags: Flags, figures: Report, sinks: Sequence[Sink], seen: Seen, source: Source
) -> None:
    """Report the result of a run; warnings even if quiet."""
    if not flags.run.quiet:
        say("done", describe_frames(figures))
        for line in stage_table(figures, verbose=flags.run.verbose):
            out(" " * _COLUMN + line, to=sys.stderr)
        _say_all("wrote", (sink.summary() for sink in sinks))
        _say_all("metrics", [flags.run.metrics or ""])
    _say_all("warning", source.warnings)
    _warn_closed(sinks)
    if not flags.run.quiet:
        _say_all("note", [seen.summary()] if figures.frames else [])
    _say_all(
        "warning", (f"thread {name!r} did not stop and was abandoned" for name in figures.hung)
    )


def _warn_closed(sinks: Sequence[Sink]) -> None:
    if any(sink.medium == "file" for sink in sinks):
        closed = [sink for sink in sinks if sink.medium == "pipe" and not sink.alive]
        _say_all("warning", ["the reader of stdout closed it before the end"] if closed else [])


def describe_source(info: SourceInfo) -> str:
    """A source in one line: name, size, rate, length, and whether it is live."""
    size = f"{info.width}x{info.height}"
    parts = [info.name] if size in info.name else [info.name, size]
    if info.frame_rate and info.frame_count != 1:
        parts.append(f"{rate(info.frame_rate)} fps")
    if info.frame_count:
        parts.append(counted(info.frame_count, "frame"))
    if info.seconds:
        parts.append(length(info.seconds))
    elif info.frame_rate and (info.frame_count or 0) > 1:
        parts.append(length(float((info.frame_count or 0) / info.frame_rate)))
    return ", ".join([*parts, *(["live"] if info.live else [])])


def describe_model(segmenter: Segmenter) -> str:
    """A model in one line: name, classes, input size."""
    height, width = segmenter.input_size
    classes = f"{len(segmenter.labels)} classes"
    return f"{segmenter.spec.name}, {classes}, input {height}x{width} (HxW)"


def describe_backend(info: BackendInfo) -> str:
    """Backend, device, precision and provider that really run, in one line."""
    provider = f" ({info.provider})" if info.provider else ""
    return f"{info.name} on {info.device}, {info.precision}{provider}"


def describe_policy(policy: str, live: bool, paced: bool) -> str:
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
        parts.append(f"model {figures.network_fps:.1f} fps (keyframes: {causes})")
    if figures.idle:
        parts.append(f"{figures.idle} of them idle (unchanged images)")
        parts.append(f"model {figures.network_fps:.1f} fps")
    if figures.dropped:
        causes = ", ".join(f"{cause} {count}" for cause, count in figures.dropped_by.items())
        parts.append(f"dropped {figures.dropped} of {figures.produced} ({causes})")
    if figures.inputs:
        parts.append(describe_inputs(figures.inputs, figures.steps))
    if figures.outages:
        parts.append(counted(figures.outages, "outage"))
    if figures.cores:
        parts.append(f"CPU {figures.cpu_share:.0%} of {counted(figures.cores, 'core')}")
    return ", ".join(parts)


def describe_inputs(inputs: Mapping[str, int], steps: int) -> str:
    """How often the input size changed with the frame rate or the frames, and frames by size."""
    sizes = listed([f"{size} {count}" for size, count in inputs.items()], 4)
    return f"input size changed {counted(steps, 'time')} ({sizes})"


def stage_table(figures: Report, *, verbose: bool) -> list[str]:
    """Milliseconds per stage and of the frame's age, as aligned lines; `verbose` adds columns."""
    rows = {**figures.stages_ms, "age": figures.age_ms}
    columns = ("p50", "p95", "p99", *(("max", "mean") if verbose else ()))
    cells = [[name, *(f"{row[c]:.2f}" for c in columns)] for name, row in rows.items() if row]
    return aligned(["ms", *columns], cells, right=range(1, 6)) if cells else []


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


def _describe_target(target: str) -> str:
    """A target of `open_sink` as "masks/ (mask)"."""
    prefix, path = split_prefix(target)
    return f"{path} ({prefix[:-1]})" if prefix and path else target


def _say_all(heading: str, texts: Iterable[str]) -> None:
    for text in texts:
        if text:
            say(heading, text)


class RunProgress:
    """The progress of a run: frames shown, rate, and for live sources age and drops."""

    def __init__(
        self,
        info: SourceInfo,
        stats: Stats,
        *,
        notice: Callable[[], str | None] = lambda: None,
        quiet: bool,
    ) -> None:
        self._info, self._stats, self._notice = info, stats, notice
        self._progress = Progress(quiet=quiet, clock=stats.clock)
        self._shown, self._since = 0, stats.clock.now()

    def tick(self) -> None:
        """Draw if it is time; call as often as you like."""
        if self._shown != self._stats.shown:
            self._shown, self._since = self._stats.shown, self._stats.clock.now()
        if self._progress.due:
            waited = self._stats.clock.now() - self._since
            text = self._notice() or live_line(self._info, self._stats, waited)
            self._progress.update(self._shown, self._info.frame_count or 0, text, unit="frames")

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.clear()


def live_line(info: SourceInfo, stats: Stats, waited: float = 0.0) -> str:
    """The current rate, and for live sources age and drops; or that no frame comes.

    Args:
        waited: seconds since the last frame.
    """
    if waited > STALLED_SECONDS:
        return f"no frame for {length(waited)}"
    parts = [f"{stats.fps_now or stats.fps:.1f} fps"]
    if info.live:
        parts.append(f"age {1e3 * stats.recent.get('age', 0.0):.0f} ms")
        parts.append(f"{stats.dropped} dropped")
        parts.append(length(stats.seconds))
    return ", ".join(parts)


class Seen(Sink):
    """Watches masks until a selected class appears; then costs nothing.

    Args:
        labels: the model's classes.
        selected: the selected classes; None is all but the background.
    """

    wants_image = False

    def __init__(self, labels: LabelSet, selected: frozenset[int] | None) -> None:
        self._labels = labels
        self._sought = labels.foreground(selected)
        self._found = not self._sought

    def write(self, rendered: Rendered) -> None:
        """Check one frame."""
        if not self._found and rendered.segmentation.labels.names == self._labels.names:
            sought = {self._labels.names[index] for index in self._sought}
            self._found = bool(sought & rendered.segmentation.shares.keys())

    def summary(self) -> str:
        """A note if no selected class ever appeared, else ""."""
        return "" if self._found else f"no pixels of: {self._labels.join_names(self._sought)}"


class _Rule(NamedTuple):
    """Flags of a group, whether this run uses them, and why not."""

    group: Any
    names: str
    used: bool
    why: str


def unused(flags: Flags, *plans: Plan, shared: Sequence[str] = ()) -> Iterator[str]:
    """Warn about flags that have no effect in any plan, and about sound that is not kept.

    Args:
        shared: outputs of all plans together.
    """
    for rules in zip(*(_rules(flags, plan, shared) for plan in plans), strict=True):
        rule = rules[0]
        given = list(_given(rule.group, rule.names.split()))
        if given and not any(rule.used for rule in rules):
            have = "has" if len(given) == 1 else "have"
            yield f"{' and '.join(given)} {have} no effect {rule.why}"
    yield from dict.fromkeys(note for plan in plans for note in _lost_sound(flags, plan))


def _rules(flags: Flags, plan: Plan, shared: Sequence[str]) -> tuple[_Rule, ...]:
    view, sink = flags.view, flags.sink
    used = source_kind(plan.source).options
    outputs = (*plan.outputs, *shared)
    read = {name for target in outputs for name in find_kind(target)[0].options}
    # the keys of a window choose backgrounds and models, record and save
    matte = view.background != "none" or VIEWS[plan.view.view].is_matte or plan.window
    seen, own_alpha = not VIEWS[plan.view.view].covers, VIEWS[plan.view.view].own_alpha
    return (
        _Rule(
            flags.source, "width height fourcc", "width" in used, "on a source that is not a camera"
        ),
        _Rule(flags.source, "fps", "fps" in used, "on a source with a rate of its own"),
        _Rule(
            flags.source, "stream deinterlace", "stream" in used, "on a source that is not a video"
        ),
        _Rule(
            flags.source,
            "timeout reconnect",
            "timeout" in used,
            "on a source that is neither a camera nor a stream",
        ),
        _Rule(flags.source, "size", "size" in used, "without raw frames on stdin"),
        _Rule(flags.source, "pix_fmt", "pix_fmt" in used | read, "without raw frames"),
        _Rule(flags.run, "models", plan.window, "without a window"),
        _Rule(view, "alpha", not own_alpha or plan.window, f"with --view {plan.view.view}"),
        _Rule(view, "feather matte_threshold", matte, "without --background"),
        _Rule(view, "background", seen or plan.window, f"with --view {plan.view.view}"),
        _Rule(sink, "codec crf encoder", "codec" in read, "without a video output"),
        _Rule(sink, "audio", "audio" in read or plan.window, "without a video output"),
        _Rule(sink, "rle", "rle" in read, "without --json"),
        _Rule(flags.run, "screenshots", plan.window, "without a window"),
    )


def _given(group: Any, names: list[str]) -> Iterator[str]:
    """The flags that differ from their defaults."""
    for name in names:
        value, default = getattr(group, name), getattr(type(group), name)
        if value != default:
            yield flag(f"no_{name}" if default is True else name)


def _lost_sound(flags: Flags, plan: Plan) -> Iterator[str]:
    """The sound of a looped file, or of one replayed live, does not fit its frames."""
    again = [f"--{name}" for name in ("loop", "live") if getattr(flags.source, name)]
    videos = any("audio" in find_kind(target)[0].options for target in plan.outputs)
    kind = source_kind(plan.source)
    is_video = kind.is_path and not kind.is_pictures
    if again and videos and flags.sink.audio == "copy" and is_video:
        from rtseg.sinks.audio import has_audio

        if has_audio(Path(plan.source)):
            yield f"audio is not kept with {' and '.join(again)}"


# The report of a grid


def start_grid(
    flags: Flags, plan: GridPlan, channels: Sequence[Channel], segmenter: Segmenter
) -> None:
    """Report what was opened, what really runs, and which frames of each source are kept."""
    if flags.run.quiet:
        return
    for number, channel in enumerate(channels, 1):
        if not isinstance(channel.source, Unopened):
            say(
                f"source {number}"[:8],
                f"{describe_source(channel.source.info)}; {_kept(flags, channel)}",
            )
        _say_all("note", channel.source.info.notes)
    _say_all("address", _detailed(flags))
    say("model", describe_model(segmenter))
    say("runs on", describe_backend(segmenter.info))
    _say_all("note", segmenter.info.notes)
    shared = [*plan.films, *([f"json:{plan.json}"] if plan.json else [])]
    plans = [replace(one, window=plan.window) for one in plan.plans]
    _say_all("note", unused(flags, *plans, shared=shared))
    moving = [channel.temporal for channel in channels if channel.source.info.frame_count != 1]
    smooth = max((temporal.smooth for temporal in moving), default=0.0)
    say_temporal(
        TemporalOptions(
            smooth,
            any(temporal.propagate for temporal in moving),
            next((temporal.key_every for temporal in moving), None),
            idle=any(temporal.idle for temporal in moving),
        )
    )
    say_refine(segmenter)
    own = [target for one in plan.plans for target in one.outputs]
    lines = [plan.json] if plan.json else []
    targets = [*plan.films, *own]
    if targets or lines:
        say("output", ", ".join([*targets, *lines]))
    left_behind([*(find_kind(target)[1] for target in targets), *map(Path, lines)])
    if plan.window:
        say("window", keys.summary())


def _kept(flags: Flags, channel: Channel) -> str:
    """Which frames of a source are kept, and why."""
    if channel.source.info.frame_count == 1:
        return "one image"
    if isinstance(channel.source, Replay):
        return "file: played at its own speed, late frames dropped"
    return describe_policy(flags.run.policy, channel.source.info.live, channel.paced)


def images_left_out(film: Film) -> None:
    """Report that writing the grid was too slow for its rate."""
    if film.left_out:
        images = counted(film.left_out, "repeated image")
        say(
            "note",
            f"{images} left out of the grid, as writing was too slow; its timing is unaffected",
        )


def source_lost(name: str, error: RtsegError) -> None:
    """Report, even if quiet, that a source was lost."""
    say("lost", _named(name, str(error)))


def _named(name: str, text: str) -> str:
    """A message that names the source it is about."""
    return " ".join((text if name in text else f"{name}: {text}").split())


def source_ended(channel: Channel) -> None:
    """Report a source that was lost; one that ended is in the final report."""
    if channel.error is not None:
        source_lost(channel.name, channel.error)


def grid_figures(
    channels: Sequence[Channel], segmenter: Segmenter, totals: Stats
) -> dict[str, Any]:
    """What `--metrics` writes: a report for each source, and the figures of all together."""
    totals.add_up(channel.stats for channel in channels)
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


def report_grid(
    flags: Flags, figures: dict[str, Any], channels: Sequence[Channel], sinks: Sequence[Sink]
) -> None:
    """Report the result of a run: all sources together, then a line for each."""
    total, rows = figures["total"], figures["sources"]
    if not flags.run.quiet:
        lost = f", {counted(total['lost'], 'source')} lost" if total["lost"] else ""
        inputs = total["inputs"]
        stepped = f", {describe_inputs(inputs, total['steps'])}" if inputs else ""
        say(
            "done",
            f"{counted(total['frames'], 'frame')} of {counted(len(rows), 'source')} in "
            f"{length(total['seconds'])}, {total['fps']:.1f} fps in total{stepped}, "
            f"CPU {total['cpu_share']:.0%} of {counted(total['cores'], 'core')}{lost}",
        )
        for line in source_table(rows):
            say("", line)
        _say_all("wrote", (sink.summary() for sink in sinks))
        _say_all("metrics", [flags.run.metrics or ""])
    _warn_closed(sinks)
    for channel in channels:
        _say_all("warning", (_named(channel.name, text) for text in channel.source.warnings))
        for name in channel.stats.hung:
            say("warning", f"thread {name!r} did not stop and was abandoned")


def source_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each source: frames, rate, drops, outages, age and the network's time."""
    heads = ["", "frames", "fps", "dropped", "age p50", "p99", "infer", ""]
    return aligned(heads, map(_cells, rows), right=range(1, 7))


def _cells(row: dict[str, Any]) -> list[str]:
    age, infer = row["age_ms"], row["stages_ms"].get("infer", {})
    notes = [f"{row['idle']} idle"] if row["idle"] else []
    notes += [f"{row['propagated']} propagated"] if row["propagated"] else []
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
