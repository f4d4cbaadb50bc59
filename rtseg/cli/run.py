"""The verb `run`: open everything in order, run the loop, say what happened."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from rtseg.backends import fit_size, open_backend
from rtseg.cli import says
from rtseg.cli.download import DownloadProgress
from rtseg.cli.metrics import write_metrics
from rtseg.cli.options import Flags
from rtseg.cli.plan import Plan
from rtseg.cli.progress import open_progress
from rtseg.cli.seen import Seen
from rtseg.cli.signals import Stop
from rtseg.contracts import Effect, Sink, Source
from rtseg.effects import open_effect
from rtseg.flow import usable_cores
from rtseg.labels import LabelSet
from rtseg.nets import default_model, find_model
from rtseg.palettes import palette as colours_of
from rtseg.pipeline import TICK_SECONDS, keeps_newest, run, summarise
from rtseg.segmenter import Segmenter
from rtseg.sinks import SinkOptions, open_sink
from rtseg.sources import open_source
from rtseg.stats import Stats


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


def load_segmenter(flags: Flags, plan: Plan, source: Source, stop: Stop) -> Segmenter:
    """The network that the flags name, loaded and warm, fitted to the source's frames."""
    model = find_model(
        flags.model.model or default_model(),
        weights=flags.model.weights,
        input_flags=plan.input_flags,
        progress=DownloadProgress(stop, quiet=flags.run.quiet),
    )
    labels = _labels(model.spec.labels, flags.view.palette)
    selected = labels.select(plan.classes) if plan.classes else None
    backend = open_backend(
        flags.model.backend,
        model,
        input_size=plan.imgsz or fit_size(model.spec, source.info.width, source.info.height),
        device=flags.model.device,
        precision=plan.precision,
        threads=flags.model.threads,
        lanes=_lanes(flags, plan, source),
        strict=flags.model.strict_device,
    )
    return Segmenter(backend, labels=labels, selected=selected)


def _lanes(flags: Flags, plan: Plan, source: Source) -> int:
    """A frame per core where all lie ready and nobody watches; else one, and it sooner."""
    single = plan.paced or plan.temporal.propagate or source.info.frame_count == 1
    newest = keeps_newest(flags.run.policy, source.info.live)
    if newest or single or flags.model.threads is not None:
        return 1
    return usable_cores()


def run_opened(flags: Flags, plan: Plan, source: Source, segmenter: Segmenter, stop: Stop) -> None:
    """Open the sinks, run the loop, close them, and report, after an error too."""
    stats = Stats(source.clock)
    effect = _effect(plan, bool(flags.view.hud), source, segmenter, stats)
    seen = Seen(segmenter.labels, segmenter.selected)
    sinks: list[Sink] = []
    with _reporting(flags, source, segmenter, stats, seen, sinks), ExitStack() as stack:
        for target in plan.outputs:
            sinks.append(stack.enter_context(_open_sink(target, flags, source, segmenter)))
        says.start(flags, plan, source, segmenter)
        progress = stack.enter_context(open_progress(source, stats, quiet=flags.run.quiet))
        try:
            run(
                source,
                segmenter,
                effect,
                [*sinks, seen],
                stats=stats,
                policy=flags.run.policy,
                temporal=plan.temporal,
                paced=plan.paced,
                stop=stop,
                on_tick=progress.tick,
            )
            if plan.window and source.info.frame_count == 1:
                hold(sinks, source, stop)
        finally:
            stop.hung = bool(stats.hung)


def hold(sinks: Sequence[Sink], source: Source, stop: Stop) -> None:
    """Keep the window of a single picture open until a person closes it."""
    while not stop() and all(sink.alive for sink in sinks):
        for sink in sinks:
            sink.idle(None)
        source.clock.sleep(TICK_SECONDS)


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


def _open_sink(target: str, flags: Flags, source: Source, segmenter: Segmenter) -> Sink:
    output = flags.output
    options = SinkOptions(
        overwrite=output.overwrite,
        codec=output.codec,
        crf=output.crf,
        audio=output.audio,
        rle=output.rle,
        title=f"rtseg - {source.info.name}",
        pix_fmt=flags.source.pix_fmt,
    )
    return open_sink(target, source.info, segmenter.labels, options)


def _effect(
    plan: Plan, asked_for_hud: bool, source: Source, segmenter: Segmenter, stats: Stats
) -> Effect:
    view = plan.view
    if source.info.frame_count == 1 and not asked_for_hud:
        view = replace(view, hud=False)  # one picture has no speed, and the figures hide a face
    return open_effect(
        view,
        segmenter.labels,
        stats=stats,
        source=source,
        backend=segmenter.info,
        model=segmenter.spec.name,
        imgsz=segmenter.input_size,
    )
