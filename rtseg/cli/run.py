"""The verb `run`: open sources, model and outputs, run the session, and report."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any

import cv2

from rtseg.addresses import public_name
from rtseg.backends import open_backend
from rtseg.backends.averaged import Averaged
from rtseg.backends.base import fit_size
from rtseg.backends.fitted import FittedBackend, fitted
from rtseg.backends.ladder import AdaptiveBackend, open_adaptive
from rtseg.backends.options import NetworkOptions
from rtseg.cli import report
from rtseg.cli.options import Flags, temporal_of
from rtseg.cli.plan import GridPlan, Plan
from rtseg.cli.process import Stop
from rtseg.cli.report import DownloadProgress, RunProgress, Seen, say, write_json
from rtseg.contracts import Backend, Effect, Sink, Source, SourceInfo
from rtseg.effects import VIEWS, open_effect
from rtseg.errors import SourceError, UsageError
from rtseg.labels import LabelSet
from rtseg.labels import palette as colours_of
from rtseg.nets import default_model, find_model, shipped
from rtseg.nets.weights import weights_path
from rtseg.options import Size, keeps_newest
from rtseg.segmenter import Segmenter
from rtseg.session.controls import Controls, open_controls
from rtseg.session.engine import Channel, Engine
from rtseg.session.fastest import open_measured
from rtseg.session.grid import (
    ByTimestamp,
    Film,
    Grid,
    GridCompositor,
    Layout,
    Order,
    layout_of,
    order_of,
    rate_of,
)
from rtseg.session.inference import crowded
from rtseg.session.loop import Compositor, Control, Loop, Outlet, offer_planes, summarise
from rtseg.session.overlay import Overlay
from rtseg.session.sources import Unopened, any_live, common_info, has_own_speed, open_all
from rtseg.session.state import Hud
from rtseg.sinks import SinkOptions, find_kind, open_sink
from rtseg.sinks.window import WindowSink
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.wrappers import Replay
from rtseg.stats import Pace, Stats
from rtseg.system import usable_cores
from rtseg.text import distinct, user_path
from rtseg.zoo import MODELS, Model


@dataclass
class Session:
    """Everything that a run has opened.

    Attributes:
        flags, plan: what was asked for; of several sources what they share.
        grid: what was asked for beside it, if there is a grid.
        channels: one for each source.
        info: of what is shown and recorded: the source, or the grid.
        segmenter: of all sources, with the model that ran first.
        totals: figures of all sources together.
        controls: of the window, if there is one.
        outlets: where each source's frames go at full size.
        sinks: all of them, as the report names them.
        web: where the web page is, and open to whom.
    """

    flags: Flags
    plan: Plan
    grid: GridPlan | None
    channels: list[Channel]
    info: SourceInfo
    segmenter: Segmenter
    totals: Stats
    stop: Stop
    controls: Controls | None = None
    outlets: list[Outlet] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    web: list[tuple[str, str]] = field(default_factory=list)
    compositor: Compositor = field(default_factory=Compositor)

    @property
    def running(self) -> Segmenter:
        """The segmenter with the model that runs now: `m` may have replaced the first."""
        return self.segmenter if self.controls is None else self.controls.segmenter

    @property
    def seen(self) -> Seen | None:
        """Notes which classes were seen, of one source."""
        found = [s for outlet in self.outlets for s in outlet.sinks if isinstance(s, Seen)]
        return found[0] if found else None


def run_plan(
    flags: Flags,
    plan: Plan | GridPlan,
    stop: Stop,
    *,
    load: Callable[..., AbstractContextManager[Segmenter]] | None = None,
    progress: Callable[..., AbstractContextManager[Any]] = RunProgress,
) -> int:
    """Do what the command line asked for.

    Args:
        load: takes the place of `load_segmenter`.
        progress: takes the place of `RunProgress`.

    Returns:
        0; the code of the signal that ended it; else 3 if one of several sources was lost.

    Raises:
        RtsegError: whatever failed first; what was written until then is finished.
    """
    grid = plan if isinstance(plan, GridPlan) else None
    common = plan.common if isinstance(plan, GridPlan) else plan
    with ExitStack() as stack:
        with _timed("source", flags):
            sources = stop.attend(lambda: open_sources(flags, common, grid))
        for source in sources:
            stack.enter_context(source)
        moving = [source for source in sources if source.info.frame_count != 1] or sources
        for source in moving:
            check_rate(flags, source.info)
        info = _model_info(sources, grid)
        with _timed("model", flags):
            several = grid is not None
            plans = [common] if grid is None else grid.plans
            recordings = [(one.source, one.source_options) for one in plans]
            loaded = stop.attend(
                lambda: (load or load_segmenter)(
                    flags,
                    common,
                    info,
                    stop,
                    lanes=_shared_lanes(flags, len(sources)) if several else None,
                    sources=len(moving),
                    frame_sizes=_frame_sizes(sources),
                    recordings=recordings,
                )
            )
        segmenter = stack.enter_context(loaded)
        stop.check()
        channels = channels_of(sources, flags, common, grid)
        totals = Stats(channels[0].stats.clock) if several else channels[0].stats
        session = Session(flags, common, grid, channels, info, segmenter, totals, stop)
        _follow_rate(session)
        if crowded(segmenter):
            # waking OpenCV's threads for each resize made the p95 of "preprocess" 3.8, not 0.6 ms
            cv2.setNumThreads(1)
        _run(session, progress)
    lost = any(channel.error is not None for channel in channels)
    return stop.exit_code or (SourceError.exit_code if lost else 0)


def _model_info(sources: Sequence[Source], grid: GridPlan | None) -> SourceInfo:
    """The frames that the model is opened for first: those of the first source."""
    if grid is None:
        return sources[0].info
    height, width = _frame_sizes(sources)[0]
    return replace(common_info(sources), width=width, height=height)


def _frame_sizes(sources: Sequence[Source]) -> list[Size]:
    """(height, width) of the frames of those that could be opened."""
    infos = [source.info for source in sources if not isinstance(source, Unopened)]
    return [(info.height, info.width) for info in infos]


@contextmanager
def _timed(what: str, flags: Flags) -> Iterator[None]:
    """Print with --verbose how long opening took."""
    since = time.perf_counter()
    yield
    if flags.run.verbose:
        say("opened", f"the {what} in {time.perf_counter() - since:.2f} s")


def open_sources(flags: Flags, plan: Plan, grid: GridPlan | None) -> list[Source]:
    """Every source that can be opened; of several, recordings that are only watched play live.

    Raises:
        SourceError: none can be opened.
    """
    if grid is None:
        return [open_source(plan.source, plan.source_options)]
    opened = open_all(
        [
            (_title(one.source), partial(open_source, one.source, one.source_options))
            for one in grid.plans
        ]
    )
    lost = [source for source in opened if isinstance(source, Unopened)]
    if len(lost) == len(opened):
        for source in lost[1:]:
            report.source_lost(source.info.name, source.error)
        raise lost[0].error
    by_the_clock = grid.watched if flags.run.policy == "auto" else flags.run.policy == "newest"
    return [_replayed(source) if by_the_clock else source for source in opened]


def _title(target: str) -> str:
    """The name of a source that could not be opened."""
    return f"camera {target}" if target.isdecimal() else public_name(target)


def _replayed(source: Source) -> Source:
    replayed = has_own_speed(source.info) and source.info.name != "standard input"
    return Replay(source) if replayed else source


def channels_of(
    sources: Sequence[Source], flags: Flags, plan: Plan, grid: GridPlan | None
) -> list[Channel]:
    """A channel for each source.

    In a grid recordings wait for their time if they are beside something live, or only watched.
    """
    names = distinct(source.info.name for source in sources)
    live = any_live(sources)
    window = plan.window if grid is None else grid.window
    paced = grid is not None and (live or grid.watched)
    return [
        Channel(
            source,
            name,
            newest=keeps_newest(flags.run.policy, source.info.live),
            paced=paced and has_own_speed(source.info),
            temporal=temporal_of(flags, source.info.live, watched=window),
            stats=Stats(source.clock),
        )
        for source, name in zip(sources, names, strict=True)
    ]


def _run(session: Session, show_progress: Callable[..., AbstractContextManager[Any]]) -> None:
    """Open the sinks, run the loop, close them, and report, after an error too."""
    flags, plan, grid, stop = session.flags, session.plan, session.grid, session.stop
    for folder in grid.folders if grid is not None else ():
        folder.mkdir(exist_ok=True)
    with _reporting(session), ExitStack() as stack:
        if grid is None:
            _open_single(session, stack)
        else:
            _open_grid(session, grid, stack)
        _report_start(session)
        single = session.channels[0].source if grid is None else None
        progress = stack.enter_context(
            show_progress(
                session.info,
                session.totals,
                notice=lambda: single.notice if single is not None else None,
                quiet=flags.run.quiet,
            )
        )
        # what libraries made, the collector would walk in the middle of a run
        gc.freeze()
        stack.callback(gc.unfreeze)
        held = isinstance(session.compositor, GridCompositor) and session.compositor.waits
        controls = session.controls
        paced = grid is None and plan.paced and not session.info.live
        try:
            engine = Engine(session.channels, session.running, shared=grid is not None, held=held)
            loop = Loop(
                stack.enter_context(engine),
                session.outlets,
                session.compositor,
                session.totals,
                controls if controls is not None else Control(),
                Pace(session.totals.clock) if paced else None,
                stop,
                _ticking(controls, progress),
                partial(_ended, session),
            )
            loop.run()
            if grid is None and session.channels[0].error is not None:
                raise session.channels[0].error
            stills = all(channel.source.info.frame_count == 1 for channel in session.channels)
            if controls is not None and stills:
                loop.hold()
        finally:
            abandoned = controls is not None and not controls.close()
            stop.hung = abandoned or stop.hung


def _ticking(controls: Controls | None, progress: RunProgress) -> Callable[[], None]:
    """What happens at least every 50 ms: the controls' turn, and progress unless it is paused."""

    def tick() -> None:
        if controls is not None:
            controls.turn()
        if controls is None or not controls.state.paused:
            progress.tick()

    return tick


def _open_single(session: Session, stack: ExitStack) -> None:
    """The outputs of one source, its window last."""
    flags, plan, channel = session.flags, session.plan, session.channels[0]
    effect: Effect
    if plan.window:
        still = session.info.frame_count == 1
        hud: Hud = "line" if plan.view.hud and (not still or flags.view.hud) else "none"
        view = replace(plan.view, hud=bool(flags.view.hud))
        session.controls = _controls(session, view, plan.outputs, hud)
        effect = session.controls.effects[0]
    else:
        effect = effect_of(plan, channel, session.segmenter)
    for target in plan.outputs:
        sink = open_output(target, flags, session.info, session.segmenter.labels)
        session.sinks.append(stack.enter_context(sink))
    sinks = session.sinks
    if flags.run.web is not None:
        from rtseg.serve.watch import WatchSink  # of the extra rtseg[serve]

        page = WatchSink(flags.run.web)
        sinks.insert(0, stack.enter_context(page))
        session.web = page.lines
    if session.controls is not None:
        window, recorder = session.sinks[-1], session.controls.captures.recorder
        assert isinstance(window, WindowSink)
        Overlay(session.controls, channel).attach(window)
        sinks.append(stack.enter_context(recorder))
    seen = Seen(session.segmenter.labels, session.segmenter.selected)
    outlet = Outlet(effect, [*sinks, seen])
    offer_planes(channel.source, session.running, outlet, channel.temporal)
    session.outlets = [outlet]


def _open_grid(session: Session, grid: GridPlan, stack: ExitStack) -> None:
    """The outputs of each source, and what takes the grid."""
    sources = [channel.source for channel in session.channels]
    images = VIEWS[session.plan.view.view].widths
    layout = layout_of(sources, on_screen=grid.window and not grid.films, images=images)
    order = order_of(session.channels, written=bool(grid.films) and not grid.watched)
    rate = rate_of(sources, order)
    height, width = layout.size
    session.info = info = SourceInfo(session.info.name, width, height, rate)
    labels = session.segmenter.labels

    def opened(target: str, info: SourceInfo) -> Sink:
        return stack.enter_context(open_output(target, session.flags, info, labels))

    shared = [opened(f"json:{grid.json}", info)] if grid.json is not None else []
    films = [opened(target, info) for target in grid.films]
    screens = [opened("window:", info)] if grid.window else []
    for channel, one in zip(session.channels, grid.plans, strict=True):
        targets = () if isinstance(channel.source, Unopened) else one.outputs
        own = [opened(target, channel.source.info) for target in targets]
        effect = effect_of(one, channel, session.segmenter)
        session.outlets.append(Outlet(effect, [*own, *shared]))
        session.sinks += own
    session.sinks += [*shared, *films]
    if screens or films:
        _compose(session, grid, layout, order, rate, screens, films, stack)


def _compose(
    session: Session,
    grid: GridPlan,
    layout: Layout,
    order: Order,
    rate: Fraction,
    screens: Sequence[Sink],
    films: Sequence[Sink],
    stack: ExitStack,
) -> None:
    """The grid, for windows and films."""
    hud: Hud = "line" if grid.hud else "none"
    view = replace(session.plan.view, hud=False)
    controls = _controls(session, view, session.plan.outputs, hud)
    image = Grid(
        session.channels, controls.effects, layout, session.segmenter.labels, hud=controls.state.hud
    )
    clock = None if isinstance(order, ByTimestamp) else session.totals.clock
    session.films = [Film(image, films, rate, clock)] if films else []
    if screens:
        window, recorder = screens[0], controls.captures.recorder
        assert isinstance(window, WindowSink)
        controls.locate = image.locate
        Overlay(controls, None).attach(window)
        session.controls = controls
        session.sinks.append(stack.enter_context(recorder))
        recording = Film(image, [recorder], rate, clock, lambda: recorder.recording)
        session.films.append(recording)
    session.compositor = GridCompositor(
        image,
        order,
        screens,
        session.films,
        lambda: (controls.look(), controls.state.hud),
        session.totals,
    )


def _controls(session: Session, view: Any, targets: Sequence[str], hud: Hud) -> Controls:
    """The controls of the run, and the models to choose from."""
    flags, plan = session.flags, session.plan

    def load(name: str) -> Segmenter:
        other, other_plan = _flags_for(name, flags, plan, session.segmenter)
        lanes = _shared_lanes(flags, len(session.channels)) if session.grid is not None else None
        sharing = max(1, len(_going(session)))
        loaded = load_segmenter(
            other,
            other_plan,
            model_info,
            session.stop,
            lanes=lanes,
            sources=sharing,
            frame_sizes=_frame_sizes(sources),
        )
        there = {name.casefold() for name in loaded.labels.names}
        known = [name for name in plan.network.classes if str(name).casefold() in there]
        loaded.selected = loaded.labels.select(known) if known else None
        _follow_rate(session, loaded)
        return loaded

    sources = [channel.source for channel in session.channels]
    model_info = _model_info(sources, session.grid)
    return open_controls(
        view,
        session.channels,
        session.segmenter,
        session.info,
        names=model_names(flags),
        load=load,
        hud=hud,
        folder=user_path(flags.run.screenshots),
        options=SinkOptions(audio=flags.sink.audio),
        same_labels=any(find_kind(target)[0].fixed_labels for target in targets)
        or (session.grid is not None and session.grid.json is not None),
        log=report.teller(quiet=flags.run.quiet),
    )


def _report_start(session: Session) -> None:
    flags, channels = session.flags, session.channels
    if session.grid is None:
        report.start(flags, session.plan, channels[0].source, session.segmenter)
    else:
        report.start_grid(flags, session.grid, channels, session.segmenter)
    if session.web:
        report.say_where(session.web, quiet=flags.run.quiet)


def _ended(session: Session, channel: Channel) -> None:
    """Report a source that was lost, and leave its share of the frame rate to the others."""
    if session.grid is None:
        return
    report.source_ended(channel)
    backend, rate = session.running.backend, session.flags.run.target_fps
    if isinstance(backend, AdaptiveBackend) and rate and (going := _going(session)):
        backend.keep(rate * len(going))


def _going(session: Session) -> list[Channel]:
    """The sources that share the frame rate: those that have not ended, but for single pictures."""
    return [
        each for each in session.channels if not each.ended and each.source.info.frame_count != 1
    ]


def _follow_rate(session: Session, segmenter: Segmenter | None = None) -> None:
    """Let a backend of several input sizes count them, and one that keeps a frame rate read the
    figures of the run, and of each source."""
    backend = (segmenter or session.segmenter).backend
    if isinstance(backend, FittedBackend):
        backend.attend(session.totals, [each.stats for each in session.channels])
    elif isinstance(backend, AdaptiveBackend):
        several = session.grid is not None
        backend.attend(session.totals, [each.stats for each in session.channels if several])


@contextmanager
def _reporting(session: Session) -> Iterator[None]:
    """Print and write the figures once the sinks are closed, also of a run that failed."""
    flags, channels = session.flags, session.channels
    try:
        yield
    finally:
        hung = any(channel.stats.hung for channel in channels)
        session.stop.hung = session.stop.hung or hung
        for film in session.films if not flags.run.quiet else ():
            report.images_left_out(film)
        if session.grid is not None and session.outlets:
            figures = report.grid_figures(channels, session.running, session.totals)
            report.report_grid(flags, figures, channels, session.sinks)
            if flags.run.metrics:
                write_json(flags.run.metrics, figures)
        elif session.grid is None and session.totals.produced and session.seen is not None:
            summary = summarise(channels[0].source, session.running, session.totals)
            report.report(flags, summary, session.sinks, session.seen, channels[0].source)
            if flags.run.metrics:
                write_json(flags.run.metrics, asdict(summary))


def load_segmenter(
    flags: Flags,
    plan: Plan,
    info: SourceInfo,
    stop: Stop,
    *,
    lanes: int | None = None,
    sources: int = 1,
    frame_sizes: Sequence[Size] = (),
    recordings: Sequence[tuple[str, SourceOptions]] = (),
) -> Segmenter:
    """The network that the flags name, loaded and warm, fitted to the frames.

    Args:
        lanes: frames to work on at once; None is what suits the source.
        sources: how many share it.
        frame_sizes: (height, width) of their frames.
        recordings: the sources as `open_source` takes them, to compare masks on.
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
    height, width = network.window or (info.height, info.width)
    backend = open_for_run(
        flags,
        network,
        info,
        model,
        input_size=network.imgsz or fit_size(model.spec, width, height),
        lanes=lanes or _lanes(flags, plan, info),
        beside=flags.source.decoder.startswith("nvdec"),
        sources=sources,
        recordings=recordings,
    )
    if isinstance(backend, FittedBackend | AdaptiveBackend):
        backend.prepare(frame_sizes)
    return Segmenter(backend, labels=labels, selected=selected, refine=network.refine)


def _lanes(flags: Flags, plan: Plan, info: SourceInfo) -> int:
    """A frame per core where all lie ready and nobody watches; else one, and it sooner."""
    single = plan.paced or flags.temporal.propagate or flags.temporal.idle
    single = single or info.frame_count == 1
    newest = keeps_newest(flags.run.policy, info.live)
    if newest or single or plan.network.threads is not None:
        return 1
    return usable_cores()


def _shared_lanes(flags: Flags, sources: int) -> int | None:
    """Frames of several sources that the network works on at once."""
    return None if flags.network.threads else min(sources, usable_cores())


def open_for_run(
    flags: Flags,
    network: NetworkOptions,
    info: SourceInfo,
    model: Model,
    input_size: Size,
    *,
    sources: int,
    recordings: Sequence[tuple[str, SourceOptions]],
    **changes: Any,
) -> Backend:
    """Load the network as the flags say; at several input sizes if it is to keep a frame rate.

    Args:
        sources: how many share it.
        recordings: the sources, to compare masks on.
        changes: of `BackendOptions`, over those of the network.

    Raises:
        UsageError: a frame rate is to be kept where every frame is.
        RtsegError: as `open_backend`.
    """
    rate = flags.run.target_fps
    check_rate(flags, info)
    options = network.running(**changes)
    first = _open_named_or_fastest(flags, network, info, model, input_size, options, recordings)
    if network.averaging:
        fitting = fitted(first, model, size=network.imgsz, **options)
        return Averaged(fitting, **network.averaging)
    if rate is None:
        return first if network.imgsz else fitted(first, model, **options)
    same = {**options, "precision": first.info.precision}

    def opened(size: Size) -> Backend:
        return open_backend(first.info.name, model, input_size=size, **same)

    return open_adaptive(first, opened, rate * sources, network.imgsz)


def check_rate(flags: Flags, info: SourceInfo) -> None:
    """Raise UsageError if a frame rate is to be kept of a source whose every frame is."""
    rate = flags.run.target_fps
    if rate is not None and flags.network.averaging:
        name = "--tta" if flags.network.tta else "--window"
        raise UsageError(f"{name} with --target-fps", do="Use only one of them")
    if rate is not None and not keeps_newest(flags.run.policy, info.live):
        raise UsageError(
            f"--target-fps {rate:g} for {info.name}",
            found="it is not live, so every frame is kept",
            do="Add --live to replay it like a camera, or remove --target-fps",
        )


def _open_named_or_fastest(
    flags: Flags,
    network: NetworkOptions,
    info: SourceInfo,
    model: Model,
    input_size: Size,
    options: dict[str, Any],
    recordings: Sequence[tuple[str, SourceOptions]],
) -> Backend:
    """One picture is not worth a measurement: there the usual backend is taken."""
    name = network.backend
    if name != "auto" or (info.frame_count == 1 and not flags.run.remeasure):
        return open_backend(name, model, input_size=input_size, **options)

    def on_measure(candidates: str) -> None:
        if not flags.run.quiet:
            say("auto", f"measuring {candidates}, once per model and input size")

    return open_measured(
        model,
        input_size=input_size,
        remeasure=flags.run.remeasure,
        one_size=flags.run.target_fps is None,
        on_measure=on_measure,
        recordings=recordings,
        **options,
    )


def model_names(flags: Flags) -> tuple[str, ...]:
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
    if name.endswith(".xml"):
        return "openvino"
    return "onnx" if running == "stub" or name.endswith(".onnx") else running


def _labels(labels: LabelSet, palette: str | None) -> LabelSet:
    """The network's labels, in the colours of `--palette`."""
    if palette is None:
        return labels
    return labels.with_colours(colours_of(palette, len(labels), labels.names))


def open_output(target: str, flags: Flags, info: SourceInfo, labels: LabelSet) -> Sink:
    """One of the outputs that the flags name."""
    options = replace(flags.sink, title=f"rtseg - {info.name}", pix_fmt=flags.source.pix_fmt)
    return open_sink(target, info, labels, options)


def effect_of(plan: Plan, channel: Channel, segmenter: Segmenter) -> Effect:
    """What draws the frames of a run without a window."""
    return open_effect(
        plan.view,
        segmenter.labels,
        stats=channel.stats,
        source=channel.source,
        backend=segmenter.info,
        model=segmenter.spec.name,
        imgsz=segmenter.input_size,
    )
