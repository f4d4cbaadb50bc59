"""The loop: a source, a segmenter, an effect and sinks, and how one frame goes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rtseg.contracts import Effect, Sink, Source
from rtseg.errors import UsageError
from rtseg.frame import Frame
from rtseg.segmenter import Pair, Segmenter
from rtseg.session.loop import Control, Flows, Loop
from rtseg.session.propagation import inferring, warm_up
from rtseg.stats import Pace, Report, Stats
from rtseg.temporal import TemporalOptions
from rtseg.threads import Flow, usable_cores

Policy = Literal["auto", "newest", "all"]

MANY_CORES = 4
"""With so many, one that draws takes little from a network that runs on all of them."""


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
    source: Source,
    segmenter: Segmenter,
    stats: Stats,
    policy: str,
    temporal: TemporalOptions,
    *,
    in_step: bool = False,
) -> Iterator[Flows]:
    """Capture and inference, each in its thread, for as long as the `with` lasts.

    Args:
        in_step: whether the network waits for the reader to say `go_on`.
    """
    latest = keeps_newest(policy, source.info.live)
    warm_up(temporal)  # before a frame is taken, which would wait for it
    frames = Flow(timed(source, stats), latest=latest, name="capture", interrupt=source.interrupt)
    with (
        frames,
        inferring(frames, segmenter, stats, temporal, latest=latest, in_step=in_step) as pairs,
    ):
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
    control: Control | None = None,
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
        control: what a person at a window decides meanwhile, as to pause.

    Returns:
        What was measured.

    Raises:
        RtsegError: of the source, the backend or a sink; frames before it were delivered.
    """
    stats = stats or Stats(source.clock)
    pace = Pace(stats.clock) if paced and not source.info.live else None
    loop: Loop | None = None

    def over() -> bool:
        return stop() or not all(sink.alive for sink in sinks)

    warm_up(temporal)  # before the time counts
    stats.start()
    in_step = keeps_newest(policy, source.info.live) and crowded(segmenter)
    try:
        with flowing(source, segmenter, stats, policy, temporal, in_step=in_step) as flows:
            loop = Loop(
                flows, source, effect, sinks, stats, pace, over, on_tick, control or Control()
            )
            loop.drain()
    finally:
        if loop is not None:
            _settle(loop, stats)
    return summarise(source, segmenter, stats)


def crowded(segmenter: Segmenter) -> bool:
    """Whether the network needs every core, and drawing beside it would slow down both.

    On two cores drawing takes half of what the network has. One after the other they give as many
    frames, and each is younger: neither stage is stretched by the other.
    """
    return segmenter.info.device == "cpu" and usable_cores() < MANY_CORES


def timed(source: Source, stats: Stats) -> Iterator[Frame]:
    """The source's frames; each read is timed, and gaps in a live source's numbers counted."""
    expected = None
    since = stats.clock.now()
    for frame in source:
        stats.add("capture", stats.clock.now() - since)
        if source.info.live and expected is not None:
            stats.missed += max(0, frame.index - expected)
        expected = frame.index + 1
        stats.capped = source.capped
        yield frame
        since = stats.clock.now()
    stats.capped = source.capped


def _settle(loop: Loop, stats: Stats) -> None:
    """Count what was still on its way when the run stopped, and name threads that did not."""
    loop.count()
    stats.hung += [flow.name for flow in loop.flows if flow.hung]
    stats.settle()


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
        idle=stats.idle,
        cpu_share=round(stats.cpu_share, 4),
        cores=usable_cores(),
        inputs={f"{h}x{w}": count for (h, w), count in stats.inputs.items()},
        steps=stats.steps,
        refine=segmenter.refine,
    )
