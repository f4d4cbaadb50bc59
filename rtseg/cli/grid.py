"""The verb `run` with several sources: open everything, run the loop, say what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from rtseg.cli import grid_report as grid_says
from rtseg.cli.options import Flags, temporal_of
from rtseg.cli.plan import GridPlan
from rtseg.cli.process import Stop
from rtseg.cli.report import RunProgress, teller, write_json
from rtseg.cli.run import attend, check_rate, effect_of, hold, load_segmenter, open_output, share
from rtseg.contracts import Sink, Source, SourceInfo
from rtseg.effects import VIEWS, open_effect
from rtseg.errors import SourceError
from rtseg.frame import Frame
from rtseg.segmenter import Segmenter
from rtseg.session.desk import HINT, HINT_SECONDS
from rtseg.session.grid import (
    AsTheyCome,
    ByTheirTimes,
    Film,
    Grid,
    GridLoop,
    Layout,
    Order,
    Outlet,
    Size,
    lay_out,
)
from rtseg.session.grid_controls import GridGlass, Hands
from rtseg.session.many import Crowd, Feed, Unopened, common_shape, open_all
from rtseg.session.pipeline import keeps_newest
from rtseg.session.recording import Aside, Keeping, Recorder
from rtseg.session.state import Notices
from rtseg.sinks import SinkOptions
from rtseg.sinks.display import held
from rtseg.sinks.window import WindowEvents, WindowSink
from rtseg.sources import open_source
from rtseg.sources.options import public_name
from rtseg.sources.wrappers import Replay
from rtseg.stats import Stats
from rtseg.text import distinct
from rtseg.threads import usable_cores

FILM_SIZE = (1080, 1920)
"""(height, width) within which a written grid lies; a window's lies within the screen."""

SCREEN_SHARE = 0.9

HIGHEST_RATE = Fraction(30)
"""Of a grid that is written by the clock; one of recordings alone has the highest of theirs."""


class Together(Source):
    """What several sources are together, for those who ask about one; it gives no frames."""

    def __init__(self, info: SourceInfo) -> None:
        super().__init__()
        self.info = info

    def _read(self) -> Frame | None:
        return None


@dataclass
class Opened:
    """All that a run of several sources has opened, and closes when its `with` is left."""

    feeds: list[Feed]
    together: Together
    segmenter: Segmenter
    outlets: list[Outlet] = field(default_factory=list)
    films: list[Sink] = field(default_factory=list)
    screens: list[Sink] = field(default_factory=list)
    shared: list[Sink] = field(default_factory=list)
    recorder: Recorder | None = None
    totals: Stats = field(default_factory=Stats)

    @property
    def sinks(self) -> list[Sink]:
        """All, as the report names them."""
        own = [s for outlet in self.outlets for s in outlet.sinks if s not in self.shared]
        recorder = [self.recorder] if self.recorder is not None else []
        return [*own, *self.shared, *self.films, *recorder]


def open_sources(plan: GridPlan, flags: Flags) -> list[Source]:
    """Every source that can be opened, recordings that are only watched replayed by the clock.

    Raises:
        SourceError: none can be.
    """
    opened = open_all(
        [
            (_called(one.source), partial(open_source, one.source, one.source_options))
            for one in plan.plans
        ]
    )
    lost = [source for source in opened if isinstance(source, Unopened)]
    if len(lost) == len(opened):
        for source in lost[1:]:
            grid_says.failure(source.info.name, source.error)
        raise lost[0].error
    by_the_clock = plan.watched if flags.run.policy == "auto" else flags.run.policy == "newest"
    return [_replayed(source) if by_the_clock else source for source in opened]


def _called(target: str) -> str:
    """What a source is called that could not be opened."""
    return f"camera {target}" if target.isdecimal() else public_name(target)


def _replayed(source: Source) -> Source:
    keeps = _is_still(source.info) or source.info.name == "standard input"
    return source if keeps else Replay(source)


def _is_still(info: SourceInfo) -> bool:
    """Whether it has no speed of its own: what is live has the world's, one picture has none."""
    return info.live or info.frame_count == 1


def _is_live(source: Source) -> bool:
    """Whether the world goes on in it; one that could not be opened holds nobody up."""
    return source.info.live and not isinstance(source, Unopened)


def together(sources: Sequence[Source]) -> Together:
    """The shape of frames that suits all that are open."""
    infos = [source.info for source in sources if not isinstance(source, Unopened)]
    width, height = common_shape([(info.width, info.height) for info in infos])
    return Together(SourceInfo(f"{len(sources)} sources", width, height, live=True))


def feeds_of(sources: Sequence[Source], flags: Flags, plan: GridPlan) -> list[Feed]:
    """Recordings wait for their time where they lie beside something live, or are watched."""
    names = distinct(source.info.name for source in sources)
    live = any(_is_live(source) for source in sources)
    return [
        Feed(
            source,
            name,
            newest=keeps_newest(flags.run.policy, source.info.live),
            paced=not _is_still(source.info) and (live or plan.watched),
            temporal=temporal_of(flags, source.info.live, watched=plan.window),
            stats=Stats(source.clock),
        )
        for source, name in zip(sources, names, strict=True)
    ]


def layout_of(opened: Opened, plan: GridPlan) -> Layout:
    """Cells in the shape of the sources' pictures, as large as the screen or the file allows."""
    bound: Size = FILM_SIZE
    if plan.window and not plan.films:
        with held() as screen:
            if screen is not None:
                bound = int(SCREEN_SHARE * screen.height), int(SCREEN_SHARE * screen.width)
    pictures = VIEWS[plan.common.view.view].widths
    unknown = opened.together.info
    infos = [
        unknown if isinstance(feed.source, Unopened) else feed.source.info for feed in opened.feeds
    ]
    sizes = [
        (info.height, max(1, round(info.width * pictures * info.sample_aspect_ratio)))
        for info in infos
    ]
    return lay_out(sizes, bound)


def rate_of(feeds: Sequence[Feed], plan: GridPlan) -> Fraction:
    """Of the film: the highest of the sources', but by the clock no more than 30."""
    infos = [feed.source.info for feed in feeds if not isinstance(feed.source, Unopened)]
    rates = [info.frame_rate or Fraction(25) for info in infos]
    recordings = isinstance(order_of(feeds, plan), ByTheirTimes)
    return max(rates) if recordings else min(HIGHEST_RATE, max(rates))


def order_of(feeds: Sequence[Feed], plan: GridPlan) -> Order:
    """Recordings that are written go by their own times, whatever it takes; the rest by ours."""
    live = any(_is_live(feed.source) for feed in feeds)
    if plan.films and not plan.watched and not live:
        return ByTheirTimes(feeds)
    return AsTheyCome(feeds[0].stats.clock)


def whole_of(opened: Opened, layout: Layout, rate: Fraction) -> Together:
    """The grid as a source, for what is made of it."""
    height, width = layout.size
    return Together(SourceInfo(opened.together.info.name, width, height, rate))


def films_of(opened: Opened, grid: Grid | None, rate: Fraction, order: Order) -> list[Film]:
    """What writes the grid into its outputs, and into recordings while there is one."""
    if grid is None:
        return []
    clock = None if isinstance(order, ByTheirTimes) else opened.totals.clock
    films = [Film(grid, opened.films, rate, clock)] if opened.films else []
    if (recorder := opened.recorder) is not None:
        films.append(Film(grid, [recorder], rate, clock, lambda: recorder.recording))
    return films


def open_sinks(
    opened: Opened, flags: Flags, plan: GridPlan, layout: Layout, rate: Fraction, stack: ExitStack
) -> None:
    """What takes each source's frames, and what takes the grid."""
    segmenter = opened.segmenter
    whole = whole_of(opened, layout, rate)
    if plan.json is not None:
        target = f"json:{plan.json}"
        opened.shared.append(stack.enter_context(open_output(target, flags, whole, segmenter)))
    for target in plan.films:
        opened.films.append(stack.enter_context(open_output(target, flags, whole, segmenter)))
    if plan.window:
        window = open_output("window:", flags, whole, segmenter)
        opened.screens.append(stack.enter_context(window))
    for feed, one in zip(opened.feeds, plan.plans, strict=True):
        own = [] if isinstance(feed.source, Unopened) else one.outputs
        sinks = [
            stack.enter_context(open_output(target, flags, feed.source, segmenter))
            for target in own
        ]
        effect = effect_of(one, feed.source, segmenter, feed.stats)
        opened.outlets.append(Outlet(effect, [*sinks, *opened.shared]))


def hands_of(
    opened: Opened, flags: Flags, plan: GridPlan, whole: Together, stack: ExitStack
) -> Hands:
    """The keys of the window, if there is one, and what they keep of the grid."""
    view = replace(plan.common.view, hud=False)
    window = opened.screens[0] if opened.screens else None
    if not isinstance(window, WindowSink):
        return Hands(view, hud=plan.hud, segmenter=opened.segmenter)
    seen = opened.segmenter
    classes = [seen.labels.names[n] for n in sorted(seen.labels.sought(seen.selected))]
    folder, aside = Path(flags.run.screenshots).expanduser(), Aside()
    notices = Notices(whole.clock, teller(quiet=flags.run.quiet))
    opened.recorder = Recorder(whole, seen.labels, folder, SinkOptions(), aside=aside)
    stack.enter_context(opened.recorder)
    hands = Hands(
        view,
        hud=plan.hud,
        classes=classes,
        segmenter=seen,
        window=window,
        keeping=Keeping(opened.recorder, aside, notices, folder),
        tell=lambda error: notices.warn(str(error)),
    )
    glass = GridGlass(hands, notices)
    window.events = WindowEvents(key=hands.press, glass=glass.write, stale=glass.stale)
    notices.say(HINT, HINT_SECONDS)
    return hands


def grid_of(opened: Opened, layout: Layout, hands: Hands) -> Grid:
    """The grid, each source drawn by an effect of its own, without the figures of one source."""
    labels = opened.segmenter.labels
    effects = [hands.effect(partial(open_effect, stats=feed.stats)) for feed in opened.feeds]
    for effect in effects:
        effect.open(labels)
    return Grid(opened.feeds, effects, layout, labels, hud=hands.state.hud)


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
        lanes = None if flags.network.threads else min(len(sources), usable_cores())
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
        progress = RunProgress(opened.together, opened.totals, quiet=flags.run.quiet)
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
