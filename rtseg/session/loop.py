"""The main thread's part of a run: draw, show, write, listen to controls, and report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rtseg.contracts import Effect, Rendered, Sink, Source
from rtseg.errors import UsageError
from rtseg.options import Policy, expect, keeps_newest
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.engine import Channel, Engine, Result
from rtseg.stats import Pace, Report, Stats
from rtseg.system import usable_cores
from rtseg.temporal import TemporalOptions

TICK_SECONDS = 0.05
"""How long the main thread waits for a frame before it turns once with nothing."""

PACE_SECONDS = 0.01
"""The same while a frame waits for its time or the run is paused, so that keys are heard soon."""

UNCHANGED = TemporalOptions()

STEP_SECONDS = 0.5
"""A step while paused shows a frame of every source, but waits no longer for one that has none;
where sources share the network, than this after a turn of each."""


class Control:
    """What decides about a run while it goes on; this one lets it run."""

    steps: int = 0
    """Frames of each source that are still to be shown although it is paused."""

    def rests(self) -> bool:
        """Whether no further frame is to be shown for now."""
        return False

    def stepped(self) -> None:
        """A step is over: every source has shown one frame more."""

    def look(self) -> object:
        """What frames are drawn by; a frame drawn by anything else is drawn again."""
        return None

    def shows(self, rendered: Rendered) -> None:
        """One more frame goes to the sinks now."""


class Compositor:
    """Puts the frames of several sources together; this one leaves them apart.

    Attributes:
        alive: False once a person has closed a window.
        draws: whether `show` draws.
        sinks: what it writes to by itself.
    """

    alive: bool = True
    draws: bool = False
    sinks: Sequence[Sink] = ()

    def due(self, results: Sequence[Result]) -> list[tuple[Result, float]]:
        """Results to be shown now, in order, with their time in seconds."""
        return [(result, 0.0) for result in results]

    def advance(self, seconds: float | None = None) -> None:
        """Write everything that comes before this time; None for the present."""

    def show(self, result: Result) -> None:
        """Take one frame."""

    def present(self, *, changed: bool) -> None:
        """Show what has become of it; called at least every 50 ms."""


@dataclass(frozen=True)
class Outlet:
    """Where the frames of one source go, at full size."""

    effect: Effect
    sinks: Sequence[Sink] = ()


def offer_planes(
    source: Source,
    segmenter: Segmenter,
    outlet: Outlet,
    temporal: TemporalOptions = UNCHANGED,
) -> None:
    """Let a source give frames in planes if nothing in the run needs them in BGR.

    They go to one sink alone, whose encoder writes its own times into them.
    """
    shown = [sink for sink in outlet.sinks if sink.wants_image]
    needed = segmenter.refine or segmenter.backend.segment is not None or temporal != UNCHANGED
    if len(shown) == 1 and not needed and getattr(outlet.effect, "in_planes", None):
        source.planar = shown[0].takes_planes


@dataclass
class Loop:
    """Takes results to effects and sinks as they come, in the thread that calls `run`.

    Attributes:
        outlets: of each source.
        compositor: of several sources.
        pace: makes every frame wait for its time; None does not.
        totals: of all sources together; of one alone its own.
        stop: whether the run is to end; asked at least every 50 ms.
        on_tick: called as often.
        on_end: called with the channel of a source that ended or was lost.
    """

    engine: Engine
    outlets: list[Outlet]
    compositor: Compositor
    totals: Stats
    control: Control = field(default_factory=Control)
    pace: Pace | None = None
    stop: Callable[[], bool] = lambda: False
    on_tick: Callable[[], None] = lambda: None
    on_end: Callable[[Channel], None] = lambda channel: None
    _ended: set[int] = field(default_factory=set, init=False)
    _stepped: set[int] = field(default_factory=set, init=False)
    _step_until: float = field(default=0.0, init=False)
    _last_ends: float = field(default=0.0, init=False)

    @property
    def several(self) -> bool:
        """Whether sources share the network."""
        return self.engine.shared is not None

    def run(self) -> None:
        """Until every source has ended or the run is over.

        Raises:
            RtsegError: of the network or a sink; of a source, its channel keeps it.
        """
        if self.several:
            self.totals.start()
        for results in self.engine.poll(TICK_SECONDS):
            self.turn(results)
            if self._rests():
                self._rest()
            if self.over:
                return
        self.turn([])
        if self.pace is not None and self._last_ends:
            self._wait(self.pace, self._last_ends)  # the last frame has its time too

    def hold(self) -> None:
        """Keep the window of images open after `run`, until a person closes it."""
        while not self.over:
            self.turn([])
            self.totals.clock.sleep(PACE_SECONDS)

    @property
    def over(self) -> bool:
        """Whether to end before the sources do."""
        sinks = [sink for outlet in self.outlets for sink in outlet.sinks]
        sinks += self.compositor.sinks
        writes = any(sink.medium == "file" for sink in sinks)
        closed = any(not sink.alive and not (writes and sink.medium == "pipe") for sink in sinks)
        return self.stop() or not self.compositor.alive or closed

    def turn(self, results: Sequence[Result]) -> None:
        """Show what is due, and let windows and progress displays live."""
        due = self.compositor.due(results)
        if self.several:
            for result, _ in due:
                self.engine.done(result)  # all of them before the first is drawn
        shown = []
        for result, seconds in due:
            self.compositor.advance(seconds)
            if not self._take(result):
                break
            shown.append(result)
        self._note_ends()
        self.compositor.advance()
        self.compositor.present(changed=bool(shown))
        if not due:
            self._idle()
        for result in shown:
            self._count(result)
        if self.several:
            self.totals.add_up(channel.stats for channel in self.engine.channels)
        self.on_tick()

    def _take(self, result: Result) -> bool:
        """Draw one frame, show and write it when it is due; False if the run ended before that."""
        channel, outlet = self.engine.channels[result.source], self.outlets[result.source]
        name = channel.name if self.several else ""
        rendered = Rendered(result.frame, result.segmentation, outlet.effect, name)
        look = self.control.look()
        wanted = any(sink.wants_image for sink in outlet.sinks)
        if wanted or self.compositor.draws:
            # before the mask: most effects decode it in the pass that draws it
            with channel.stats.stage("draw"):
                if wanted:
                    _ = rendered.drawn
                self.compositor.show(result)
        if not self.several:
            with channel.stats.stage("decode"):
                if not wanted:  # else drawing decoded it, on a GPU without fetching it
                    _ = rendered.segmentation.mask
            self.engine.done(result)
        if self.pace is not None:
            self._wait(self.pace, result.frame.pts)
            if self.over:
                return False
            if self.control.look() != look:
                rendered = replace(rendered)  # drawn before somebody chose another look
            lasts = result.frame.lasts or 1 / float(channel.source.info.frame_rate or 25)
            self._last_ends = result.frame.pts + lasts
        if self.control.steps:
            self._stepped.add(result.source)
        if not self.several:
            self.control.shows(rendered)
        with channel.stats.stage("write"):
            for sink in outlet.sinks:
                sink.write(rendered)
        for sink in outlet.sinks:
            channel.stats.add_encoded(sink.encoded())
        return True

    def _count(self, result: Result) -> None:
        carried = result.segmentation.carried
        idle = carried is not None and carried.idle
        stats = self.engine.channels[result.source].stats
        for each in (stats,) if stats is self.totals else (stats, self.totals):
            each.show(
                result.frame.captured_at, propagated=carried is not None and not idle, idle=idle
            )

    def _rests(self) -> bool:
        """Whether the run is paused, and a step that was asked for is over."""
        if self.control.steps:
            now, channels = self.totals.clock.now(), self.engine.channels
            self._step_until = self._step_until or now + self._step_seconds()
            missing = {n for n, each in enumerate(channels) if not each.ended} - self._stepped
            if missing and (not self.several or now < self._step_until):
                return False
            self.control.stepped()
        self._stepped.clear()
        self._step_until = 0.0
        return self.control.rests()

    def _step_seconds(self) -> float:
        turns = (channel.stats.recent.get("infer", 0.0) for channel in self.engine.channels)
        return STEP_SECONDS + len(self.engine.channels) * max(turns)

    def _rest(self) -> None:
        """Turn with nothing while the run is paused, and not every source was lost."""
        clock = self.totals.clock
        since = clock.now()
        self.engine.pause()
        channels = self.engine.channels
        while self._rests() and not self.over and not all(c.error for c in channels):
            self.turn([])
            clock.sleep(PACE_SECONDS)
            if self.pace is None:  # else the last frame may still wait for its time
                self.engine.note_ends()
        self.engine.resume()
        for stats in dict.fromkeys((self.totals, *(channel.stats for channel in channels))):
            stats.add_pause(since)

    def _wait(self, pace: Pace, pts: float) -> None:
        """Turn with nothing until `pts` is due, a step asks for it, or the run is over."""
        clock = self.totals.clock
        since = clock.now()
        while not self.over:
            if self._rests():
                self.totals.add_wait(since)
                self._rest()
                since = clock.now()
            elif self.control.steps or not (left := pace.seconds_left(pts)):
                break
            else:
                self._idle(notices=False)
                self.on_tick()
                clock.sleep(min(left, PACE_SECONDS))
        self.totals.add_wait(since)

    def _idle(self, *, notices: bool = True) -> None:
        for channel, outlet in zip(self.engine.channels, self.outlets, strict=True):
            for sink in outlet.sinks:
                sink.idle(channel.source.notice if notices else None)

    def _note_ends(self) -> None:
        for number, channel in enumerate(self.engine.channels):
            if channel.ended and number not in self._ended:
                self._ended.add(number)
                self.on_end(channel)


def run(
    source: Source,
    segmenter: Segmenter,
    effect: Effect,
    sinks: Iterable[Sink],
    *,
    stats: Stats | None = None,
    policy: str = "auto",
    temporal: TemporalOptions = UNCHANGED,
    paced: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_tick: Callable[[], None] = lambda: None,
    control: Control | None = None,
) -> Report:
    """Show or write every frame until the source ends, a sink is closed, or `stop` says so.

    The caller opens and closes the source, the segmenter and the sinks; what `run` starts, it
    has stopped when it returns or raises.

    Args:
        stats: filled while it runs, for whoever shows figures live.
        policy: "auto" keeps the newest frame of live sources and every frame of others.
        temporal: smoothing over time, and the network on keyframes only; off by default.
        paced: whether every frame waits for its pts, so that a file plays at its own speed, or
            slower if the network is. Live sources have the world's speed, and are never paced.
        stop: asked at least every 50 ms.
        on_tick: called as often, for progress displays.
        control: pauses the run, and chooses how frames are drawn.

    Returns:
        What was measured.

    Raises:
        RtsegError: of the source, the backend or a sink; frames before it were delivered.
    """
    expect((source, "rtseg.contracts:Source"), (segmenter, "rtseg.segmenter:Segmenter"))
    check_unread(source)
    expect((temporal, "rtseg.temporal:TemporalOptions"))
    many = isinstance(sinks, Iterable) and not isinstance(sinks, str)
    taken: list[Sink] = list(sinks) if many else [sinks]  # type: ignore[list-item]
    for sink in taken:
        expect((sink, "rtseg.contracts:Sink"))
    if not callable(effect):
        raise UsageError(f"{effect!r} is not an effect", found="it is not a function")
    stats = stats or Stats(source.clock)
    channel = Channel(
        source, source.info.name, keeps_newest(policy, source.info.live), False, temporal, stats
    )
    outlet = Outlet(effect, taken)
    offer_planes(source, segmenter, outlet, temporal)
    with Engine([channel], segmenter) as engine:
        Loop(
            engine,
            [outlet],
            Compositor(),
            stats,
            control or Control(),
            Pace(stats.clock) if paced and not source.info.live else None,
            stop,
            on_tick,
        ).run()
    if channel.error is not None:
        raise channel.error
    return summarise(source, segmenter, stats)


def stream(
    source: Source,
    segmenter: Segmenter,
    *,
    policy: Policy = "auto",
    temporal: TemporalOptions = UNCHANGED,
) -> Iterator[Pair]:
    """Iterate (frame, segmentation); capture and inference run ahead in their threads.

    Files give every frame, in order; live sources the newest. An error of the source or of the
    network is raised here. Closing the generator stops and joins the threads, not the source.
    """
    check_unread(source)
    newest = keeps_newest(policy, source.info.live)
    channel = Channel(source, source.info.name, newest, False, temporal, Stats(source.clock))
    with Engine([channel], segmenter) as engine:
        for results in engine.poll(TICK_SECONDS):
            for result in results:
                result.segmentation.picture = result.frame.picture
                yield result.frame, result.segmentation
                engine.done(result)
    if channel.error is not None:
        raise channel.error


def check_unread(source: Source) -> None:
    """Raise UsageError for a source that gives no more frames."""
    if source.spent:
        found = "a run has ended it, or it was closed"
        raise UsageError(f"cannot read {source.info.name} again", found=found, do="Open it again")


def summarise(source: Source, segmenter: Segmenter, stats: Stats) -> Report:
    """The report of a run, also of one that failed: `stats` is what it filled so far."""
    info = segmenter.info
    return Report(
        fps=round(stats.fps, 3),
        frames=stats.shown,
        produced=stats.produced,
        dropped=stats.dropped,
        dropped_by=dict(stats.dropped_by),
        outages=source.outages,
        backend=info.name,
        device=info.device,
        precision=info.precision,
        provider=info.provider,
        imgsz=segmenter.input_size,
        model=segmenter.spec.name,
        source=source.info.name,
        seconds=round(stats.seconds, 3),
        age_ms=stats.age.milliseconds(),
        stages_ms={name: d.milliseconds() for name, d in stats.stages.items() if d.count},
        notes=[*source.warnings, *info.notes],
        hung=list(stats.hung),
        propagated=stats.propagated,
        keyframes=dict(stats.keyframes),
        network_fps=round(stats.network_fps, 3),
        idle=stats.idle,
        cpu_share=round(stats.cpu_share, 4),
        cores=usable_cores(),
        inputs={f"{h}x{w}": count for (h, w), count in stats.inputs.items()},
        steps=stats.steps,
        refine=segmenter.refine,
    )
