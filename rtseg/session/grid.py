"""One picture of all sources, and what takes it: windows, and films at a steady rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil
from typing import NamedTuple, Protocol

import numpy as np

from rtseg.contracts import Effect, Rendered, Sink
from rtseg.draw import banner, letterbox, panel, resized
from rtseg.errors import counted
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation
from rtseg.session.grid_controls import Hands
from rtseg.session.loop import PACE_SECONDS, TICK_SECONDS
from rtseg.session.many import Crowd, Feed, Look, add_up
from rtseg.stats import Clock, Stats

Size = tuple[int, int]
"""(height, width) in pixels."""

GAP = 4
"""Pixels between cells; even, as every measure here, since H.264 halves colours."""

SMALLEST = 32


class Layout(NamedTuple):
    """A grid in pixels.

    Attributes:
        size: (height, width) of the whole picture.
        cell: (height, width) of each cell.
        corners: (top, left) of the cells, one for each source.
    """

    size: Size
    cell: Size
    corners: tuple[tuple[int, int], ...]


def lay_out(sizes: Sequence[Size], bound: Size) -> Layout:
    """The grid for pictures of these sizes that shows them largest within `bound`.

    A cell has the mean shape of the pictures (geometric), and is no larger than the largest of
    them. Cells that are missing from the last row leave half their room on each side of it.

    Args:
        sizes: (height, width) of each source's picture, in square pixels.
        bound: (height, width) that the grid may have.
    """
    count = len(sizes)
    shape = float(np.exp(np.mean([np.log(width / height) for height, width in sizes])))
    largest = max(height * width for height, width in sizes)
    options = [(ceil(count / columns), columns) for columns in range(count, 0, -1)]
    # of those that are as large, the one with the fewest cells missing, then the widest
    rows, columns = max(options, key=lambda g: (_height(g, shape, bound), -g[0] * g[1], g[1]))
    height = min(_height((rows, columns), shape, bound), (largest / shape) ** 0.5)
    cell = _even(height), _even(height * shape)
    size = _span(rows, cell[0]), _span(columns, cell[1])
    places = (divmod(index, columns) for index in range(count))
    corners = (
        (row * (cell[0] + GAP), column * (cell[1] + GAP) + _indent(row, count, columns, cell[1]))
        for row, column in places
    )
    return Layout(size, cell, tuple(corners))


def fitted(size: Size, cell: Size, pixel_ratio: float = 1.0) -> Size:
    """(height, width) of a picture of `size` that fills a cell without being distorted.

    Args:
        pixel_ratio: width of a pixel of the picture over its height.
    """
    height, width = size[0], size[1] * pixel_ratio
    scale = min(cell[0] / height, cell[1] / width)
    return (
        min(cell[0], max(1, round(height * scale))),
        min(cell[1], max(1, round(width * scale))),
    )


def _height(grid: Size, shape: float, bound: Size) -> float:
    """How high the cells of a grid of (rows, columns) can be."""
    rows, columns = grid
    height = (bound[0] - GAP * (rows - 1)) / rows
    width = (bound[1] - GAP * (columns - 1)) / columns
    return round(min(height, width / shape), 6)


def _indent(row: int, count: int, columns: int, width: int) -> int:
    """Where the cells of a row begin: further in where it is not full."""
    missing = max(0, (row + 1) * columns - count)
    return missing * (width + GAP) // 2


def _span(count: int, side: int) -> int:
    return count * side + GAP * (count - 1)


def _even(side: float) -> int:
    return max(SMALLEST, int(side) // 2 * 2)


SILENT_SECONDS = 1.0
"""A live source that gives nothing for so long is said to give nothing."""

BLANK_GREY = 32


class Words(NamedTuple):
    """What is said of a source: a word in its HUD, a warning below, large letters over all."""

    state: str
    warning: str = ""
    large: str = ""


class Cell:
    """Draws one source at the size of a cell, its mask decoded at that very size.

    Args:
        effect: draws a look; without figures, which are the cell's own.
        hud: whether name, speed, age, drops and state are written over it.

    Attributes:
        hud: may be changed before `redraw`.
        picture: (h, w, 3) uint8 BGR, of the cell's size.
    """

    def __init__(self, feed: Feed, effect: Effect, size: Size, *, hud: bool) -> None:
        self._feed, self._effect, self._size, self.hud = feed, effect, size, hud
        self._drawn: Image | None = None
        self._came_at = feed.stats.clock.now()
        self._look: Look | None = None
        self._said: Words | None = None
        self.picture: Image = np.full((*size, 3), BLANK_GREY, np.uint8)

    def show(self, look: Look) -> None:
        """Draw a look."""
        self._look, self._came_at = look, self._feed.stats.clock.now()
        self._draw(look)
        self._finish(self._words())

    def redraw(self) -> None:
        """Draw the last look again, by what its effect and the HUD have become."""
        if self._look is not None:
            self._draw(self._look)
        self._finish(self._words())

    def _draw(self, look: Look) -> None:
        ratio = float(self._feed.source.info.sample_aspect_ratio)
        size = fitted(look.frame.size, self._size, ratio)
        frame = replace(look.frame, picture=resized(look.frame.image, size))
        picture = Rendered(frame, look.segmentation.at_size(size), self._effect).image
        self._drawn = letterbox(picture, self._size)

    def refresh(self) -> bool:
        """Draw again if there is something else to say; whether there was."""
        words = self._words()
        if words == self._said:
            return False
        self._finish(words)
        return True

    def _finish(self, words: Words) -> None:
        """Write figures and state over what was drawn."""
        self._said = words
        blank = np.full((*self._size, 3), BLANK_GREY, np.uint8)
        picture = blank if self._drawn is None else self._drawn
        self.picture = banner(picture, words.large) if words.large else picture.copy()
        if self.hud:
            name = f"{self._feed.name} · {words.state}"
            warning = [f"!{words.warning}"] if words.warning else []
            panel(self.picture, [name, self._figures(), *warning])

    def _figures(self) -> str:
        stats = self._feed.stats
        speed = f"{stats.fps_now:.1f}" if stats.fps_now else "-"
        age = f"{1e3 * stats.recent['age']:.0f} ms" if "age" in stats.recent else "-"
        return f"fps\t{speed}\tage\t{age}\tdropped\t{stats.dropped}"

    def _words(self) -> Words:
        feed, kind = self._feed, "live" if self._feed.source.info.live else "recording"
        if feed.error is not None:
            text = str(feed.error)
            return Words("lost", large=text if feed.name in text else f"{feed.name}: {text}")
        if feed.ended:
            return self._at_the_end()
        if feed.source.notice:
            return Words("waiting", large=feed.source.notice)
        if self._drawn is None:
            return Words("waiting", large="waiting for the first frame")
        waited = feed.stats.clock.now() - self._came_at
        late = feed.source.info.live and waited > SILENT_SECONDS
        rests = self._look is not None and self._look.segmentation.carried is not None
        state = f"{kind}, network rests" if rests else kind
        return Words(state, warning=f"no frame for {int(waited)} s" if late else "")

    def _at_the_end(self) -> Words:
        """A single picture stays as it is; of anything else one must see that it stands."""
        if self._feed.source.info.frame_count == 1:
            return Words("picture")
        return Words("ended", large=f"ended after {counted(self._feed.stats.shown, 'frame')}")


BETWEEN_GREY = 24
"""Between the cells, so that they are told apart where all is black."""

PATIENCE_SECONDS = 0.04
"""So long a film by the clock may take at a time to repeat pictures that were due meanwhile."""

SLACK_SECONDS = 1e-3
"""Times of recordings are as exact as that: a picture that is due then is not written twice."""


class Grid:
    """The picture of all sources, kept up to date cell by cell.

    Args:
        effects: what draws each source; see `Cell`.
        labels: of the network.
        hud: whether each cell has its figures.

    Attributes:
        image: (H, W, 3) uint8 BGR, changed in place.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        effects: Sequence[Effect],
        layout: Layout,
        labels: LabelSet,
        *,
        hud: bool,
    ) -> None:
        self.image: Image = np.full((*layout.size, 3), BETWEEN_GREY, np.uint8)
        self._layout = layout
        self._cells = [
            Cell(feed, effect, layout.cell, hud=hud)
            for feed, effect in zip(feeds, effects, strict=True)
        ]
        self._nothing = Segmentation(
            np.zeros((len(labels), 1, 1), np.float32), labels, layout.size, selected=frozenset()
        )
        self.refresh()

    def redraw(self, *, hud: bool) -> None:
        """Draw all cells again, by what their effects have become."""
        for index, cell in enumerate(self._cells):
            cell.hud = hud
            cell.redraw()
            self._put(index)

    def show(self, look: Look) -> None:
        """Draw a look into its source's cell."""
        self._cells[look.source].show(look)
        self._put(look.source)

    def refresh(self, but: Collection[int] = ()) -> bool:
        """Draw cells again that have something else to say; whether there were such.

        Args:
            but: sources that are left as they are.
        """
        cells = ((index, cell) for index, cell in enumerate(self._cells) if index not in but)
        changed = [index for index, cell in cells if cell.refresh()]
        for index in changed:
            self._put(index)
        return bool(changed)

    def rendered(self, index: int, pts: float, captured_at: float) -> Rendered:
        """The picture as it is now, for sinks; it has no classes of its own."""
        frame = Frame(self.image.copy(), index, pts, captured_at)
        return Rendered(frame, self._nothing, lambda frame, segmentation: frame.image)

    def _put(self, index: int) -> None:
        (top, left), (height, width) = self._layout.corners[index], self._layout.cell
        self.image[top : top + height, left : left + width] = self._cells[index].picture


class Film:
    """Writes the grid at a steady rate, whatever the rates of its sources.

    Args:
        grid: what is written.
        sinks: what it is written to.
        rate: pictures per second.
        clock: by which the film goes; what cannot be written in time is left out then, so that
            nobody waits for it ever longer. None for one that goes by its own time: it is whole.
        wanted: whether anybody takes its pictures at the moment.

    Attributes:
        left_out: pictures that were; those before them are seen for so much longer.
    """

    def __init__(
        self,
        grid: Grid,
        sinks: Sequence[Sink],
        rate: Fraction,
        clock: Clock | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.left_out = 0
        self._wanted = wanted
        self._grid, self._sinks, self._rate, self._clock = grid, sinks, rate, clock
        self._count = 0

    def until(self, seconds: float, now: float) -> None:
        """Write the grid as it is for all pictures that are due before `seconds` of the film.

        Args:
            now: monotonic seconds, as frames are stamped with.

        Raises:
            SinkError: they cannot be written.
        """
        end = ceil((seconds - SLACK_SECONDS) * self._rate)
        for index in range(self._count, end if self._sinks and self._wanted() else 0):
            if index < end - 1 and self._is_late(now):
                self.left_out += 1
                continue
            rendered = self._grid.rendered(index, float(index / self._rate), now)
            for sink in self._sinks:
                sink.write(rendered)
        self._count = max(self._count, end)

    def encoded(self) -> Iterator[float]:
        """Seconds that its pictures took in threads of the sinks, since this was last asked."""
        return (seconds for sink in self._sinks for seconds in sink.encoded())

    def _is_late(self, since: float) -> bool:
        return self._clock is not None and self._clock.now() - since > PATIENCE_SECONDS


USUAL_RATE = 25


class Order(Protocol):
    """Which looks are shown now, and the film's time."""

    def due(self, looks: Iterable[Look]) -> Iterator[tuple[Look, float]]:
        """Those to be shown now, each with the seconds of the film at which it begins."""

    def seconds(self) -> float:
        """The film's time by now."""

    def is_past(self, source: int) -> bool:
        """Whether the film is beyond the last look of a source that has ended."""


class AsTheyCome:
    """By the clock: each look at once; the film begins with the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero: float | None = None

    def due(self, looks: Iterable[Look]) -> Iterator[tuple[Look, float]]:
        """All of them."""
        for look in looks:
            if self._zero is None:
                self._zero = self._clock.now()
            yield look, self.seconds()

    def seconds(self) -> float:
        """Since the first look."""
        return 0.0 if self._zero is None else self._clock.now() - self._zero

    def is_past(self, source: int) -> bool:
        """Always: it was shown when it came."""
        return True


class ByTheirTimes:
    """Recordings beside each other, by their own times, however quick the network is on each.

    A look waits, and so does its source, until no other can have an earlier one.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._waiting: dict[int, Look] = {}
        self._now = 0.0
        self._ends = [0.0] * len(feeds)

    def due(self, looks: Iterable[Look]) -> Iterator[tuple[Look, float]]:
        """Those that no other source can come before."""
        self._waiting |= {look.source: look for look in looks}
        while self._waiting and self._all_are_here():
            first = min(self._waiting.values(), key=lambda look: (look.frame.pts, look.source))
            del self._waiting[first.source]
            rate = self._feeds[first.source].source.info.frame_rate or USUAL_RATE
            self._now = first.frame.pts
            self._ends[first.source] = self._now + float(1 / rate)
            yield first, self._now

    def seconds(self) -> float:
        """The end of the last look shown, once nothing is to come; until then it stands still."""
        return max(self._ends) if all(feed.ended for feed in self._feeds) else self._now

    def is_past(self, source: int) -> bool:
        """Once a later look is shown: its last one has its time too."""
        return self.seconds() >= self._ends[source]

    def _all_are_here(self) -> bool:
        return all(feed.ended or i in self._waiting for i, feed in enumerate(self._feeds))


STEP_SECONDS = 1.0
"""A source that gives no frame for so long is not waited for when all show one more."""


@dataclass
class Outlet:
    """Where one source's own frames go, at full size."""

    effect: Effect
    sinks: Sequence[Sink] = ()


@dataclass
class GridLoop:
    """Takes looks to the grid and to the sinks as they come, in the thread that calls `drain`.

    Attributes:
        outlets: of each source.
        grid: the picture of all; None where nobody looks at it.
        screens: shown the grid whenever it has changed.
        films: written the grid at a steady rate.
        hands: what a person does to all cells.
        totals: of all sources: what was shown when, and how old it was.
        stop: asked at least every 50 ms whether to end.
        on_tick: called as often.
        on_end: told of a source that ended or was lost.
    """

    crowd: Crowd
    outlets: Sequence[Outlet]
    order: Order
    grid: Grid | None
    screens: Sequence[Sink]
    films: Sequence[Film]
    hands: Hands | None
    totals: Stats
    stop: Callable[[], bool] = lambda: False
    on_tick: Callable[[], None] = lambda: None
    on_end: Callable[[Feed], None] = lambda feed: None
    _told: set[int] = field(default_factory=set, init=False)
    _turns: int = field(default=0, init=False)
    _stepped: set[int] = field(default_factory=set, init=False)
    _step_until: float = field(default=0.0, init=False)

    def drain(self) -> None:
        """Until all sources have ended, or a person has had enough.

        Raises:
            RtsegError: of the network or a sink; what is wrong with a source, its feed says.
        """
        self.totals.start()
        for looks in self.crowd.poll(TICK_SECONDS):
            self.turn(looks)
            if self._rests(looks):
                self._rest()
            if self.over:
                return
        self.turn([])

    def _rests(self, looks: list[Look]) -> bool:
        """Whether a person wants nothing more for now; a step is over once every source has shown
        a frame, or has had the time to."""
        if self.hands is None or not self.hands.state.paused:
            return False
        if self.hands.state.steps:
            now = self.totals.clock.now()
            self._step_until = self._step_until or now + STEP_SECONDS
            self._stepped |= {look.source for look in looks}
            going = {index for index, feed in enumerate(self.crowd.feeds) if not feed.ended}
            if going - self._stepped and now < self._step_until:
                return False
            self.hands.state = self.hands.state.stepped()
        self._stepped.clear()
        self._step_until = 0.0
        return self.hands.state.rests

    def _rest(self) -> None:
        """Turn with nothing while all is paused."""
        clock, hands = self.totals.clock, self.hands
        assert hands is not None
        since = clock.now()
        self.crowd.rest()
        while hands.state.rests and not self.over:
            self.turn([])
            clock.sleep(PACE_SECONDS)
        self.crowd.go_on()
        for stats in (self.totals, *(feed.stats for feed in self.crowd.feeds)):
            stats.waited(since)

    @property
    def over(self) -> bool:
        """Whether to end before the sources do."""
        own = [sink for outlet in self.outlets for sink in outlet.sinks]
        return self.stop() or not all(sink.alive for sink in (*self.screens, *own))

    def turn(self, looks: list[Look]) -> None:
        """Show what is due, keep the film going, and let a person see that all is alive."""
        shown = list(self._shown(looks))
        self._tell_endings()
        self._roll(self.order.seconds())
        self._screen(shown)
        for look in shown:
            idle = look.segmentation.carried is not None
            for stats in (self.crowd.feeds[look.source].stats, self.totals):
                stats.show(look.frame.captured_at, idle=idle)
        add_up(self.totals, self.crowd.feeds)
        if self.hands is not None:
            self.hands.turn()
        self.on_tick()

    def _shown(self, looks: list[Look]) -> Iterator[Look]:
        due = list(self.order.due(looks))
        for look, _ in due:
            self.crowd.back(look)  # all of them before the first is drawn: the network goes on
        for look, seconds in due:
            self._roll(seconds)
            self._take(look)
            yield look

    def _take(self, look: Look) -> None:
        """One look to the sinks of its source, and into the grid."""
        feed, outlet = self.crowd.feeds[look.source], self.outlets[look.source]
        rendered = Rendered(look.frame, look.segmentation, outlet.effect, feed.name)
        with feed.stats.stage("draw"):
            if any(sink.wants_image for sink in outlet.sinks):
                _ = rendered.picture
            if self.grid is not None:
                self.grid.show(look)
        with feed.stats.stage("write"):
            for sink in outlet.sinks:
                sink.write(rendered)
        for sink in outlet.sinks:
            feed.stats.add_each("encode", sink.encoded())

    def _roll(self, seconds: float) -> None:
        for film in self.films:
            with self.totals.stage("write"):
                film.until(seconds, self.totals.clock.now())
            self.totals.add_each("encode", film.encoded())

    def _screen(self, shown: list[Look]) -> None:
        """Show the grid if it has changed; let windows live in any case."""
        if self.grid is None:
            return
        ended = (index for index, feed in enumerate(self.crowd.feeds) if feed.ended)
        to_come = [index for index in ended if not self.order.is_past(index)]
        changed = self.grid.refresh(to_come) or bool(shown)
        if self.hands is not None and self.hands.stale:
            self.hands.stale, changed = False, True
            self.grid.redraw(hud=self.hands.state.hud)
        if not changed:
            for sink in self.screens:
                sink.idle(None)
            return
        if not self.screens:
            return
        self._turns += 1
        rendered = self.grid.rendered(self._turns, self.totals.seconds, self.totals.clock.now())
        with self.totals.stage("write"):
            for sink in self.screens:
                sink.write(rendered)

    def _tell_endings(self) -> None:
        for index, feed in enumerate(self.crowd.feeds):
            if feed.ended and index not in self._told:
                self._told.add(index)
                self.on_end(feed)
