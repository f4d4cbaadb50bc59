"""The verb `run` with several sources: open everything, run the loop, say what happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from rtseg.cli import grid_report as grid_says
from rtseg.cli.backend import attend, check_rate, share
from rtseg.cli.grid_open import (
    Opened,
    feeds_of,
    films_of,
    layout_of,
    open_sinks,
    open_sources,
    order_of,
    rate_of,
    together,
    whole_of,
)
from rtseg.cli.grid_plan import GridPlan
from rtseg.cli.grid_window import grid_of, hands_of
from rtseg.cli.metrics import write_json
from rtseg.cli.options import Flags
from rtseg.cli.process import Stop
from rtseg.cli.progress import open_progress
from rtseg.cli.run import hold, load_segmenter
from rtseg.errors import SourceError
from rtseg.many.feed import Feed
from rtseg.many.loop import GridLoop
from rtseg.many.order import ByTheirTimes
from rtseg.session.many import Crowd
from rtseg.threads import usable_cores


def run_grid(flags: Flags, plan: GridPlan, stop: Stop) -> int:
    """Do what the command line asked.

    Returns:
        0; the code of the signal that ended it; else 3 if a source was lost, or never opened.

    Raises:
        RtsegError: of the network or an output; what was written until then is finished.
        SourceError: no source can be opened.
    """
    with ExitStack() as stack:
        sources = stop.attend(lambda: open_sources(plan, flags))
        for source in sources:
            stack.enter_context(source)
        moving = [source for source in sources if source.info.frame_count != 1] or sources
        for source in moving:
            check_rate(flags, source)
        whole = together(sources)
        lanes = None if flags.model.threads else min(len(sources), usable_cores())
        load = partial(
            load_segmenter, flags, plan.common, whole, stop, lanes=lanes, sources=len(moving)
        )
        segmenter = stack.enter_context(stop.attend(load))
        stop.check()
        opened = Opened(feeds_of(sources, flags, plan), whole, segmenter)
        attend(segmenter.backend, opened.totals, [feed.stats for feed in opened.feeds])
        _run(opened, flags, plan, stop)
    lost = any(feed.error is not None for feed in opened.feeds)
    return stop.exit_code or (SourceError.exit_code if lost else 0)


def _run(opened: Opened, flags: Flags, plan: GridPlan, stop: Stop) -> None:
    """Open the sinks, run the loop, close them, and report, after an error too."""
    for folder in plan.folders:
        folder.mkdir(exist_ok=True)
    with _reporting(opened, flags, stop), ExitStack() as stack:
        layout = layout_of(opened, plan)
        rate = rate_of(opened.feeds, plan)
        open_sinks(opened, flags, plan, layout, rate, stack)
        hands = hands_of(opened, flags, plan, whole_of(opened, layout, rate), stack)
        grid = grid_of(opened, layout, hands) if plan.window or plan.films else None
        order = order_of(opened.feeds, plan)
        films = films_of(opened, grid, rate, order)
        grid_says.start(flags, plan, opened.feeds, opened.segmenter)
        progress = open_progress(opened.together, opened.totals, quiet=flags.run.quiet)
        stack.enter_context(progress)
        held = isinstance(order, ByTheirTimes)
        crowd = stack.enter_context(Crowd(opened.feeds, opened.segmenter, held=held))
        loop = GridLoop(
            crowd,
            opened.outlets,
            order,
            grid,
            opened.screens,
            films,
            hands,
            opened.totals,
            stop,
            progress.tick,
            partial(_ended, opened, flags),
        )
        loop.drain()
        for film in films:
            grid_says.left_out(film)
        if opened.screens and all(feed.source.info.frame_count == 1 for feed in opened.feeds):
            hold(opened.screens, opened.together, stop, partial(loop.turn, []))


def _ended(opened: Opened, flags: Flags, feed: Feed) -> None:
    """Say that a source has ended or was lost; what it had of the frame rate is for the others."""
    grid_says.ending(feed)
    going = [f for f in opened.feeds if not f.ended and f.source.info.frame_count != 1]
    share(opened.segmenter.backend, flags, len(going))


@contextmanager
def _reporting(opened: Opened, flags: Flags, stop: Stop) -> Iterator[None]:
    """Say and write the figures once the sinks are closed; of a run that failed too."""
    try:
        yield
    finally:
        stop.hung = any(feed.stats.hung for feed in opened.feeds)
        if opened.feeds and opened.outlets:
            figures = grid_says.figures(opened.feeds, opened.segmenter, opened.totals)
            grid_says.report(flags, figures, opened.feeds, opened.sinks)
            if flags.run.metrics:
                write_json(flags.run.metrics, figures)
