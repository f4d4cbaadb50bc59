"""The loop: a source, a segmenter, an effect and sinks, and how one frame goes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from rtseg.clock import Pace
from rtseg.contracts import Effect, Rendered, Sink, Source
from rtseg.errors import UsageError
from rtseg.flow import Flow
from rtseg.frame import Frame
from rtseg.propagation import inferring
from rtseg.segmenter import Pair, Segmenter
from rtseg.stats import Report, Stats
from rtseg.temporal import TemporalOptions

Policy = Literal["auto", "newest", "all"]

TICK_SECONDS = 0.05
"""How long the main thread waits for a frame before it turns once with nothing."""

PACE_SECONDS = 0.01
"""As long, while a frame waits for its time: keys are heard, and it is not late by more."""


class Flows(NamedTuple):
    """The two threads of a run: frames as they are captured, and pairs as they are segmented."""

    frames: Flow[Frame]
    pairs: Flow[Pair]


def keeps_newest(policy: str, live: bool) -> bool:
    """Whether unread frames make way for newer ones: for live sources, unless told otherwise.

    Raises:
        UsageError: there is no such policy.
    """
    if policy not in ("auto", "newest", "all"):
        raise UsageError(f"unknown policy {policy!r}", found="there are auto, newest, all")
    return live if policy == "auto" else policy == "newest"


@contextmanager
def flowing(
    source: Source, segmenter: Segmenter, stats: Stats, policy: str, temporal: TemporalOptions
) -> Iterator[Flows]:
    """Capture and inference, each in its thread, for as long as the `with` lasts."""
    latest = keeps_newest(policy, source.info.live)
    frames = Flow(_timed(source, stats), latest=latest, name="capture", interrupt=source.interrupt)
    with frames, inferring(frames, segmenter, stats, temporal, latest=latest) as pairs:
        yield Flows(frames, pairs)


def stream(
    source: Source,
    segmenter: Segmenter,
    *,
    policy: Policy = "auto",
    temporal: TemporalOptions = TemporalOptions(),  # noqa: B008 - frozen
) -> Iterator[Pair]:
    """Iterate (frame, segmentation) pairs; capture and inference run ahead in their threads.

    Files give every frame, in order; live sources the newest. An error of the source or of the
    network is raised here. Closing the generator stops and joins the threads, not the source.
    """
    with flowing(source, segmenter, Stats(source.clock), policy, temporal) as flows:
        yield from flows.pairs


def run(
    source: Source,
    segmenter: Segmenter,
    effect: Effect,
    sinks: Sequence[Sink],
    *,
    stats: Stats | None = None,
    policy: str = "auto",
    temporal: TemporalOptions = TemporalOptions(),  # noqa: B008 - frozen
    paced: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_tick: Callable[[], None] = lambda: None,
) -> Report:
    """Show or write every frame until the source ends, a sink is closed, or `stop` says so.

    The caller opens and closes the source, the segmenter and the sinks; what `run` starts, it
    has stopped when it returns or raises.

    Args:
        stats: filled while it runs, for whoever shows numbers live.
        policy: "auto" keeps the newest frame of live sources and every frame of others.
        temporal: smoothing over time, and the network on keyframes only; off by default.
        paced: every frame waits for its pts, so that a file is seen at its own speed, or slower
            if the network is. Live sources have the world's, and are never paced.
        stop: asked at least every 50 ms.
        on_tick: called as often, for progress displays.

    Returns:
        What was measured.

    Raises:
        RtsegError: of the source, the backend or a sink; frames before it were delivered.
    """
    stats = stats or Stats(source.clock)
    pace = Pace(stats.clock) if paced and not source.info.live else None
    flows: Flows | None = None

    def over() -> bool:
        return stop() or not all(sink.alive for sink in sinks)

    stats.start()
    try:
        with flowing(source, segmenter, stats, policy, temporal) as flows:
            _drain(flows, source, effect, sinks, stats, pace, over, on_tick)
    finally:
        if flows is not None:
            _settle(flows, stats)
    return summarise(source, segmenter, stats)


def _drain(
    flows: Flows,
    source: Source,
    effect: Effect,
    sinks: Sequence[Sink],
    stats: Stats,
    pace: Pace | None,
    over: Callable[[], bool],
    on_tick: Callable[[], None],
) -> None:
    """The main thread's part: draw, show, write, and listen."""
    ends = 0.0
    for pair in flows.pairs.poll(TICK_SECONDS):
        _count(flows, stats)
        if pair is None:
            _idle(sinks, source.notice)
        else:
            rendered = Rendered(*pair, effect)
            _draw(rendered, sinks, stats)
            if pace is not None:
                _wait(pace, rendered.frame.pts, sinks, stats, over, on_tick)
                if over():
                    return
                ends = rendered.frame.pts + 1 / float(source.info.frame_rate or 25)
            _write(rendered, sinks, stats)
        on_tick()
        if over():
            return
    if pace is not None and ends:
        _wait(pace, ends, sinks, stats, over, on_tick)  # the last frame has its time too


def _idle(sinks: Sequence[Sink], notice: str | None) -> None:
    for sink in sinks:
        sink.idle(notice)


def _wait(
    pace: Pace,
    pts: float,
    sinks: Sequence[Sink],
    stats: Stats,
    over: Callable[[], bool],
    on_tick: Callable[[], None],
) -> None:
    """Turn with nothing until `pts` is due, or the run is over."""
    since = stats.clock.now()
    while pace.left(pts) and not over():
        _idle(sinks, None)
        on_tick()
        stats.clock.sleep(min(pace.left(pts), PACE_SECONDS))
    stats.waited(since)


def _draw(rendered: Rendered, sinks: Sequence[Sink], stats: Stats) -> None:
    # first the picture: most views decode the mask in the pass that draws it, and nothing is left
    if any(sink.wants_image for sink in sinks):
        with stats.stage("draw"):
            _ = rendered.image
    with stats.stage("decode"):
        _ = rendered.segmentation.mask


def _write(rendered: Rendered, sinks: Sequence[Sink], stats: Stats) -> None:
    with stats.stage("write"):
        for sink in sinks:
            sink.write(rendered)
    stats.show(rendered.frame.captured_at, propagated=rendered.segmentation.carried is not None)


def _timed(source: Source, stats: Stats) -> Iterator[Frame]:
    """The source's frames; each read is timed, and gaps in a live source's numbers counted."""
    expected = None
    since = stats.clock.now()
    for frame in source:
        stats.add("capture", stats.clock.now() - since)
        if source.info.live and expected is not None:
            stats.missed += max(0, frame.index - expected)
        expected = frame.index + 1
        yield frame
        since = stats.clock.now()


def _count(flows: Flows, stats: Stats) -> None:
    stats.produced = flows.frames.produced + stats.missed
    drops = {
        "camera": stats.missed,
        "capture": flows.frames.replaced,
        "display": flows.pairs.replaced,
    }
    stats.dropped_by = {cause: count for cause, count in drops.items() if count}


def _settle(flows: Flows, stats: Stats) -> None:
    """Count what was still on its way when the run stopped, and name threads that did not."""
    _count(flows, stats)
    stats.hung += [flow.name for flow in flows if flow.hung]
    left = stats.produced - stats.shown - stats.dropped
    if left:
        stats.dropped_by["stop"] = left


def summarise(source: Source, segmenter: Segmenter, stats: Stats) -> Report:
    """The report of a run, also of one that raised: `stats` is what it filled so far."""
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
    )
