"""Opening what a run of several sources needs: them, their outputs, the picture of all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from rtseg.cli import grid_report as grid_says
from rtseg.cli.grid_plan import GridPlan
from rtseg.cli.options import Flags
from rtseg.cli.run import effect_of, open_output
from rtseg.cli.temporal import temporal_of
from rtseg.contracts import Sink, Source, SourceInfo
from rtseg.frame import Frame
from rtseg.many.feed import Feed, Unopened
from rtseg.many.layout import Layout, Size, lay_out
from rtseg.many.loop import Outlet
from rtseg.many.names import distinct
from rtseg.many.opening import open_all
from rtseg.many.order import AsTheyCome, ByTheirTimes, Order
from rtseg.segmenter import Segmenter
from rtseg.session.grid import Film, Grid
from rtseg.session.many import common_shape
from rtseg.session.pipeline import keeps_newest
from rtseg.session.recording import Recorder
from rtseg.sinks.display import held
from rtseg.sources import open_source
from rtseg.sources.options import public_name
from rtseg.sources.replay import Replay
from rtseg.stats import Stats

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
            temporal=temporal_of(flags.run, source.info.live, watched=plan.window),
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
    pictures = 2 if plan.common.view.view == "side" else 1
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
