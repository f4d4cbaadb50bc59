"""The verb `run`: open everything in order, run the loop, say what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rtseg.backends import open_backend
from rtseg.backends.base import fit_size
from rtseg.backends.ladder import AdaptiveBackend, open_adaptive
from rtseg.backends.options import NetworkOptions
from rtseg.cli import report as says
from rtseg.cli.options import Flags, temporal_of
from rtseg.cli.plan import Plan
from rtseg.cli.process import Stop
from rtseg.cli.report import DownloadProgress, RunProgress, Seen, say, teller, write_metrics
from rtseg.contracts import Backend, Effect, Sink, Source
from rtseg.effects import open_effect
from rtseg.errors import UsageError
from rtseg.labels import LabelSet
from rtseg.labels import palette as colours_of
from rtseg.nets import default_model, find_model, shipped
from rtseg.nets.weights import weights_path
from rtseg.segmenter import Segmenter
from rtseg.session.desk import Desk, open_desk
from rtseg.session.fastest import open_measured
from rtseg.session.loop import PACE_SECONDS
from rtseg.session.pipeline import keeps_newest, run, summarise
from rtseg.sinks import SinkOptions, find_kind, open_sink
from rtseg.sources import open_source
from rtseg.stats import Stats
from rtseg.threads import usable_cores
from rtseg.zoo import MODELS, Model

Size = tuple[int, int]
"""(height, width) in pixels."""


def open_for_run(
    flags: Flags,
    network: NetworkOptions,
    source: Source,
    model: Model,
    input_size: Size,
    *,
    sources: int = 1,
    **changes: Any,
) -> Backend:
    """Load the network as the flags say; at several input sizes if it is to keep a frame rate.

    Args:
        sources: how many share it.
        changes: of `BackendOptions`, over those of the network.

    Raises:
        UsageError: a frame rate is to be kept where every frame is.
        RtsegError: as `open_backend`.
    """
    rate = flags.run.target_fps
    check_rate(flags, source)
    options = network.running(**changes)
    first = _open_named_or_fastest(flags, network, source, model, input_size, options)
    if rate is None:
        return first
    same = {**options, "precision": first.info.precision}

    def opened(size: Size) -> Backend:
        return open_backend(first.info.name, model, input_size=size, **same)

    return open_adaptive(first, opened, rate * sources)


def check_rate(flags: Flags, source: Source) -> None:
    """Raise UsageError if a frame rate is to be kept of a source whose every frame is."""
    rate = flags.run.target_fps
    if rate is not None and not keeps_newest(flags.run.policy, source.info.live):
        raise UsageError(
            f"--target-fps {rate:g} for {source.info.name}",
            found="it is not live: every frame is kept, however long it takes",
            do="Add --live to replay a recording as a camera, or leave it out",
        )


def attend(backend: Backend, stats: Stats, sources: Sequence[Stats] = ()) -> None:
    """Let a backend that follows the speed of a run know its figures, and each source's."""
    if isinstance(backend, AdaptiveBackend):
        backend.attend(stats, sources)


def share(backend: Backend, flags: Flags, sources: int) -> None:
    """Let a backend that keeps a frame rate know that so many sources share it from now on."""
    if isinstance(backend, AdaptiveBackend) and flags.run.target_fps and sources:
        backend.keep(flags.run.target_fps * sources)


def _open_named_or_fastest(
    flags: Flags,
    network: NetworkOptions,
    source: Source,
    model: Model,
    input_size: Size,
    options: dict[str, Any],
) -> Backend:
    """One picture is not worth a measurement: there the usual backend is taken."""
    name = network.backend
    if name != "auto" or (source.info.frame_count == 1 and not flags.run.remeasure):
        return open_backend(name, model, input_size=input_size, **options)

    def on_measure(candidates: str) -> None:
        if not flags.run.quiet:
            say("auto", f"measuring {candidates}: once for this network and size on this machine")

    return open_measured(
        model,
        input_size=input_size,
        remeasure=flags.run.remeasure,
        on_measure=on_measure,
        **options,
    )


Load = Callable[[Flags, Plan], Segmenter]


def desk_for(
    flags: Flags, plan: Plan, source: Source, segmenter: Segmenter, stats: Stats, load: Load
) -> Desk:
    """The controls of a run with a window.

    Args:
        load: loads the network of such flags.
    """

    def load_named(name: str) -> Segmenter:
        loaded = load(*_flags_for(name, flags, plan, segmenter))
        known = [
            c
            for c in plan.network.classes
            if str(c).casefold() in map(str.casefold, loaded.labels.names)
        ]
        loaded.selected = loaded.labels.select(known) if known else None
        attend(loaded.backend, stats)
        return loaded

    return open_desk(
        replace(plan.view, hud=bool(flags.view.hud)),
        source,
        segmenter,
        stats,
        names=network_names(flags),
        load=load_named,
        hud=plan.view.hud and (source.info.frame_count != 1 or bool(flags.view.hud)),
        folder=Path(flags.run.screenshots).expanduser(),
        options=SinkOptions(audio=flags.sink.audio),
        same_labels=any(find_kind(target)[0].fixed_labels for target in plan.outputs),
        tell=teller(quiet=flags.run.quiet),
    )


def network_names(flags: Flags) -> tuple[str, ...]:
    """What `m` goes through: the run's own, and those named, or whose weights are here."""
    here = [
        name
        for name, spec in MODELS.items()
        if spec.weights is not None and weights_path(spec.weights).is_file()
    ]
    first = flags.network.model or default_model()
    return tuple(dict.fromkeys((first, *(flags.run.models or (*shipped(), *here)))))


def _flags_for(name: str, flags: Flags, plan: Plan, running: Segmenter) -> tuple[Flags, Plan]:
    """The flags with which another network is loaded: what was said of the first is not its own."""
    network = plan.network
    if name != (network.model or default_model()):
        network = network.of_another(name)
    backend = _backend_for(name, network, running.info.name)
    network = replace(network, backend=backend, classes=())
    quiet = replace(flags.run, quiet=True, remeasure=False)
    return replace(flags, run=quiet), replace(plan, network=network)


def _backend_for(name: str, network: NetworkOptions, running: str) -> str:
    """The backend that runs already, where it can: beside a run none can be measured."""
    if name.partition("?")[0] == "stub":
        return "stub"
    if network.backend != "auto":
        return network.backend
    return "onnx" if running == "stub" or name.endswith(".onnx") else running


def run_plan(flags: Flags, plan: Plan, stop: Stop) -> int:
    """Do what the command line asked; returns 0, or the code of the signal that ended it.

    Raises:
        RtsegError: whatever failed first; what was written until then is finished.
    """
    with ExitStack() as stack:
        with _timed("source", flags):
            source = stop.attend(lambda: open_source(plan.source, plan.source_options))
        stack.enter_context(source)
        with _timed("network", flags):
            segmenter = stop.attend(lambda: load_segmenter(flags, plan, source, stop))
        stack.enter_context(segmenter)
        stop.check()
        run_opened(flags, plan, source, segmenter, stop)
    return stop.exit_code


@contextmanager
def _timed(what: str, flags: Flags) -> Iterator[None]:
    """Say with --verbose how long opening took."""
    since = time.perf_counter()
    yield
    if flags.run.verbose:
        says.say("opened", f"the {what} in {time.perf_counter() - since:.2f} s")


def load_segmenter(
    flags: Flags,
    plan: Plan,
    source: Source,
    stop: Stop,
    *,
    lanes: int | None = None,
    sources: int = 1,
) -> Segmenter:
    """The network that the flags name, loaded and warm, fitted to the source's frames.

    Args:
        lanes: frames to work on at once; None is what suits the source.
        sources: how many share it.
    """
    network = plan.network
    model = find_model(
        network.model or default_model(),
        weights=network.weights,
        input_flags=network.foreign,
        progress=DownloadProgress(stop, quiet=flags.run.quiet),
    )
    labels = _labels(model.spec.labels, network.palette)
    selected = labels.select(network.classes) if network.classes else None
    backend = open_for_run(
        flags,
        network,
        source,
        model,
        input_size=network.imgsz or fit_size(model.spec, source.info.width, source.info.height),
        lanes=lanes or _lanes(flags, plan, source),
        beside=flags.source.decoder != "opencv",
        sources=sources,
    )
    return Segmenter(backend, labels=labels, selected=selected, refine=network.refine)


def _lanes(flags: Flags, plan: Plan, source: Source) -> int:
    """A frame per core where all lie ready and nobody watches; else one, and it sooner."""
    single = plan.paced or flags.temporal.propagate or flags.temporal.idle
    single = single or source.info.frame_count == 1
    newest = keeps_newest(flags.run.policy, source.info.live)
    if newest or single or plan.network.threads is not None:
        return 1
    return usable_cores()


def run_opened(flags: Flags, plan: Plan, source: Source, segmenter: Segmenter, stop: Stop) -> None:
    """Open the sinks, run the loop, close them, and report, after an error too."""
    stats = Stats(source.clock)
    attend(segmenter.backend, stats)
    load = partial(load_segmenter, source=source, stop=stop)
    desk = desk_for(flags, plan, source, segmenter, stats, load) if plan.window else None
    segmenter = desk.segmenter if desk else segmenter
    effect = desk.effect if desk else effect_of(plan, source, segmenter, stats)
    seen = Seen(segmenter.labels, segmenter.selected)
    sinks: list[Sink] = []
    with _reporting(flags, source, segmenter, stats, seen, sinks), ExitStack() as stack:
        for target in plan.outputs:
            sinks.append(stack.enter_context(open_output(target, flags, source, segmenter)))
        if desk is not None:
            sinks.append(stack.enter_context(desk.at(sinks[-1])))
        says.start(flags, plan, source, segmenter)
        progress = stack.enter_context(RunProgress(source, stats, quiet=flags.run.quiet))
        turn = desk.turning(progress.tick) if desk else progress.tick
        try:
            run(
                source,
                segmenter,
                effect,
                [*sinks, seen],
                stats=stats,
                policy=flags.run.policy,
                temporal=temporal_of(flags, source.info.live, watched=plan.window),
                paced=plan.paced,
                stop=stop,
                on_tick=turn,
                control=desk.controls if desk else None,
            )
            if plan.window and source.info.frame_count == 1:
                hold(sinks, source, stop, turn)
        finally:
            left_behind = desk is not None and not desk.controls.close()
            stop.hung = bool(stats.hung) or left_behind


def hold(
    sinks: Sequence[Sink],
    source: Source,
    stop: Stop,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Keep the window of a single picture open until a person closes it."""
    while not stop() and all(sink.alive for sink in sinks):
        for sink in sinks:
            sink.idle(None)
        on_tick()
        source.clock.sleep(PACE_SECONDS)


@contextmanager
def _reporting(
    flags: Flags,
    source: Source,
    segmenter: Segmenter,
    stats: Stats,
    seen: Seen,
    sinks: Sequence[Sink],
) -> Iterator[None]:
    """Say and write the figures once the sinks are closed; of a run that failed too."""
    try:
        yield
    finally:
        if stats.produced:
            report = summarise(source, segmenter, stats)
            says.report(flags, report, sinks, seen, source)
            if flags.run.metrics:
                write_metrics(flags.run.metrics, report)


def _labels(labels: LabelSet, palette: str | None) -> LabelSet:
    """The network's labels, in the colours of `--palette`."""
    if palette is None:
        return labels
    return labels.recoloured(colours_of(palette, len(labels)))


def open_output(target: str, flags: Flags, source: Source, segmenter: Segmenter) -> Sink:
    """One of the outputs that the flags name, as they say."""
    title = f"rtseg - {source.info.name}"
    options = replace(flags.sink, title=title, pix_fmt=flags.source.pix_fmt)
    return open_sink(target, source.info, segmenter.labels, options)


def effect_of(plan: Plan, source: Source, segmenter: Segmenter, stats: Stats) -> Effect:
    """What draws the frames of a run without a window."""
    return open_effect(
        plan.view,
        segmenter.labels,
        stats=stats,
        source=source,
        backend=segmenter.info,
        model=segmenter.spec.name,
        imgsz=segmenter.input_size,
    )
