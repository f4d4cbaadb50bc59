"""The grid: one image of several sources, for windows, and for videos at a steady rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import NamedTuple, Protocol

import numpy as np

from rtseg.contracts import Effect, Rendered, Sink, Source
from rtseg.draw import banner, letterbox, panel, resized
from rtseg.frame import Frame, Image, Segmentation
from rtseg.labels import LabelSet
from rtseg.options import Size
from rtseg.session.engine import Channel, Result
from rtseg.session.loop import Compositor
from rtseg.session.pointer import Point
from rtseg.session.sources import Unopened, any_live, common_info
from rtseg.session.state import Hud
from rtseg.sinks.display import display_connection
from rtseg.sinks.window import SCREEN_SHARE
from rtseg.stats import Clock, Stats
from rtseg.text import counted

FILM_SIZE = (1080, 1920)
"""(height, width) within which a written grid lies; a window's lies within the screen."""

HIGHEST_RATE = Fraction(30)
"""Of a grid that is written by the clock; a grid of recordings has the highest of their rates."""

GAP = 4
"""Pixels between cells; even, like every measure here, since H.264 halves the chroma planes."""

SMALLEST = 32
"""Pixels of the smallest side of a cell."""

GAP_GREY, BLANK_GREY = 24, 32
"""Grey values between cells, and of cells without an image: both differ from black."""

SILENT_SECONDS = 1.0
"""A live source without a frame for that long gets a warning."""

PATIENCE_SECONDS = 0.04
"""Longest time a film by the clock may take at once to write the images that are due."""

SLACK_SECONDS = 1e-3
"""Precision of recorded times: an image due then is not written twice."""

DEFAULT_RATE = 25
"""Frames per second assumed of sources that do not tell theirs."""


class Layout(NamedTuple):
    """A grid in pixels.

    Attributes:
        size: (height, width) of the whole image.
        cell: (height, width) of each cell.
        corners: (top, left) of the cells, one for each source.
    """

    size: Size
    cell: Size
    corners: tuple[tuple[int, int], ...]


def lay_out(sizes: Sequence[Size], bound: Size) -> Layout:
    """The grid that shows images of these sizes largest within `bound`.

    A cell has the geometric mean of their shapes, and is no larger than the largest of them. A last
    row that is not full is centred.

    Args:
        sizes: (height, width) of each source's image, in square pixels.
        bound: (height, width) that the grid may have.
    """
    count = len(sizes)
    shape = float(np.exp(np.mean([np.log(width / height) for height, width in sizes])))
    largest = max(height * width for height, width in sizes)
    options = [(ceil(count / columns), columns) for columns in range(count, 0, -1)]
    # of those with cells as large, the one that lacks the fewest cells, then the widest
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


def layout_of(sources: Sequence[Source], *, on_screen: bool, images: int = 1) -> Layout:
    """Cells in the shape of the sources' frames, as large as the screen or a file allows.

    Args:
        on_screen: whether the grid is only shown in a window.
        images: of a source side by side in its cell.
    """
    bound: Size = FILM_SIZE
    if on_screen:
        with display_connection() as screen:
            if screen is not None:
                bound = int(SCREEN_SHARE * screen.height), int(SCREEN_SHARE * screen.width)
    common = common_info(sources)
    infos = [common if isinstance(source, Unopened) else source.info for source in sources]
    sizes = [
        (info.height, max(1, round(info.width * images * info.sample_aspect_ratio)))
        for info in infos
    ]
    return lay_out(sizes, bound)


def fitted(size: Size, cell: Size, pixel_ratio: float = 1.0) -> Size:
    """(height, width) at which an image of `size` fills a cell undistorted.

    Args:
        pixel_ratio: width of a pixel of the image over its height.
    """
    height, width = size[0], size[1] * pixel_ratio
    scale = min(cell[0] / height, cell[1] / width)
    return (
        min(cell[0], max(1, round(height * scale))),
        min(cell[1], max(1, round(width * scale))),
    )


def _height(grid: Size, shape: float, bound: Size) -> float:
    """The largest height of cells in a grid of (rows, columns)."""
    rows, columns = grid
    height = (bound[0] - GAP * (rows - 1)) / rows
    width = (bound[1] - GAP * (columns - 1)) / columns
    return round(min(height, width / shape), 6)


def _indent(row: int, count: int, columns: int, width: int) -> int:
    """Left of the cells of a row, which is centred if it is not full."""
    missing = max(0, (row + 1) * columns - count)
    return missing * (width + GAP) // 2


def _span(count: int, side: int) -> int:
    return count * side + GAP * (count - 1)


def _even(side: float) -> int:
    return max(SMALLEST, int(side) // 2 * 2)


class CellState(NamedTuple):
    """The state of a source in words: in its HUD, as a warning below, in large letters over all."""

    state: str
    warning: str = ""
    large: str = ""


class Cell:
    """Draws one source at the size of a cell, its mask decoded at that very size.

    Args:
        effect: draws a frame, without figures, which are the cell's own.
        hud: figures over it; may be changed before `redraw`.

    Attributes:
        image: (h, w, 3) uint8 BGR, of the cell's size.
    """

    def __init__(self, channel: Channel, effect: Effect, size: Size, *, hud: Hud) -> None:
        self._channel, self._effect, self._size, self.hud = channel, effect, size, hud
        self._drawn: Image | None = None
        self._shown_at = channel.stats.clock.now()
        self._result: Result | None = None
        self._rendered: Rendered | None = None
        self._state: CellState | None = None
        self.image: Image = np.full((*size, 3), BLANK_GREY, np.uint8)

    def show(self, result: Result) -> None:
        """Draw a frame."""
        self._result, self._shown_at = result, self._channel.stats.clock.now()
        self._draw(result)
        self._write(self._current())

    def redraw(self) -> None:
        """Draw the last frame again, as its effect and the HUD have changed."""
        if self._result is not None:
            self._draw(self._result)
        self._write(self._current())

    def refresh(self) -> bool:
        """Write the state again if it has changed; returns whether it has."""
        state = self._current()
        if state == self._state:
            return False
        self._write(state)
        return True

    def locate(self, row: int, column: int) -> tuple[Rendered, Point] | None:
        """The frame at a pixel of the cell, and the point in its image; None beside it."""
        if self._rendered is None or self._channel.error is not None:
            return None
        height, width = self._rendered.image.shape[:2]
        scale = min(self._size[0] / height, self._size[1] / width)
        top, left = (self._size[0] - scale * height) / 2, (self._size[1] - scale * width) / 2
        point = (column + 0.5 - left) / (scale * width), (row + 0.5 - top) / (scale * height)
        return (self._rendered, point) if all(0 <= share < 1 for share in point) else None

    def _draw(self, result: Result) -> None:
        ratio = float(self._channel.source.info.sample_aspect_ratio)
        size = fitted(result.frame.size, self._size, ratio)
        frame = replace(result.frame, picture=resized(result.frame.image, size))
        self._rendered = Rendered(frame, result.segmentation.at_size(size), self._effect)
        self._drawn = letterbox(self._rendered.image, self._size)

    def _write(self, state: CellState) -> None:
        """Write figures and state over what was drawn."""
        self._state = state
        blank = np.full((*self._size, 3), BLANK_GREY, np.uint8)
        image = blank if self._drawn is None else self._drawn
        self.image = banner(image, state.large) if state.large else image.copy()
        if self.hud == "none":
            return
        warning = [f"!{state.warning}"] if state.warning else []
        if self.hud == "line":
            lines = [f"{self._channel.name}   {self._rate()} fps"]
        else:
            lines = [f"{self._channel.name} · {state.state}", self._figures()]
        panel(self.image, [*lines, *warning])

    def _rate(self) -> str:
        stats = self._channel.stats
        return f"{stats.fps_now:.1f}" if stats.fps_now else "-"

    def _figures(self) -> str:
        stats = self._channel.stats
        age = f"{1e3 * stats.recent['age']:.0f} ms" if "age" in stats.recent else "-"
        return f"fps\t{self._rate()}\tage\t{age}\tdropped\t{stats.dropped}"

    def _current(self) -> CellState:
        channel, kind = self._channel, "live" if self._channel.source.info.live else "recording"
        if channel.error is not None:
            text, name = str(channel.error), channel.name
            return CellState("lost", large=text if name in text else f"{name}: {text}")
        if channel.ended:
            return self._at_the_end()
        if channel.source.notice:
            return CellState("waiting", large=channel.source.notice)
        if self._drawn is None:
            return CellState("waiting", large="waiting for the first frame")
        now = channel.stats.clock.now()
        if channel.paused:
            self._shown_at = now  # a pause is not the source's silence
        waited = now - self._shown_at
        late = channel.source.info.live and waited > max(SILENT_SECONDS, 1.5 * self._lasts())
        carried = self._result.segmentation.carried if self._result is not None else None
        if carried is not None:
            kind += ", model idle" if carried.idle else ", propagated"
        return CellState(kind, warning=f"no frame for {int(waited)} s" if late else "")

    def _lasts(self) -> float:
        """Seconds for which the image should be shown, as far as its source tells."""
        lasts = self._result.frame.lasts if self._result is not None else 0.0
        return lasts or 1 / float(self._channel.source.info.frame_rate or DEFAULT_RATE)

    def _at_the_end(self) -> CellState:
        """A single picture stays as it is; anything else must be seen to have ended."""
        if self._channel.source.info.frame_count == 1:
            return CellState("picture")
        shown = counted(self._channel.stats.shown, "frame")
        return CellState("ended", large=f"ended after {shown}")


class Grid:
    """The image of all sources, updated cell by cell.

    Args:
        effects: draw each source; see `Cell`.
        labels: of the model.
        hud: figures over each cell.

    Attributes:
        image: (H, W, 3) uint8 BGR, changed in place.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        effects: Sequence[Effect],
        layout: Layout,
        labels: LabelSet,
        *,
        hud: Hud,
    ) -> None:
        self.image: Image = np.full((*layout.size, 3), GAP_GREY, np.uint8)
        self._channels, self._layout = channels, layout
        self._cells = [
            Cell(channel, effect, layout.cell, hud=hud)
            for channel, effect in zip(channels, effects, strict=True)
        ]
        self._nothing = Segmentation(
            np.zeros((len(labels), 1, 1), np.float32), labels, layout.size, selected=frozenset()
        )
        self.refresh()

    def redraw(self, *, hud: Hud) -> None:
        """Draw all cells again, as their effects have changed."""
        for index, cell in enumerate(self._cells):
            cell.hud = hud
            cell.redraw()
            self._put(index)

    def show(self, result: Result) -> None:
        """Draw a frame into its source's cell."""
        self._cells[result.source].show(result)
        self._put(result.source)

    def refresh(self, but: Collection[int] = ()) -> bool:
        """Draw cells again whose state has changed; returns whether there were any.

        Args:
            but: sources to leave as they are.
        """
        cells = ((index, cell) for index, cell in enumerate(self._cells) if index not in but)
        changed = [index for index, cell in cells if cell.refresh()]
        for index in changed:
            self._put(index)
        return bool(changed)

    def ended(self) -> list[int]:
        """Numbers of the sources that have ended."""
        return [number for number, channel in enumerate(self._channels) if channel.ended]

    def locate(self, at: Point) -> tuple[Rendered, Point] | None:
        """The frame at a point of the grid, and the point in its image; None between cells."""
        (height, width), (cell_height, cell_width) = self._layout.size, self._layout.cell
        column, row = int(at[0] * width), int(at[1] * height)
        for cell, (top, left) in zip(self._cells, self._layout.corners, strict=True):
            if 0 <= row - top < cell_height and 0 <= column - left < cell_width:
                return cell.locate(row - top, column - left)
        return None

    def rendered(self, index: int, pts: float, captured_at: float) -> Rendered:
        """The image as it is now, for sinks; it has no classes of its own."""
        frame = Frame(self.image.copy(), index, pts, captured_at)
        return Rendered(frame, self._nothing, lambda frame, segmentation: frame.image)

    def _put(self, index: int) -> None:
        (top, left), (height, width) = self._layout.corners[index], self._layout.cell
        self.image[top : top + height, left : left + width] = self._cells[index].image


class Film:
    """Writes the grid at a steady rate, whatever the rates of its sources.

    Args:
        rate: images per second.
        clock: the film's time; images that cannot be written in time are then left out, so that
            nobody waits ever longer. None for a film with a time of its own, which is complete.
        wanted: whether its images are taken at the moment.

    Attributes:
        left_out: number of images left out; those before them are shown for longer.
        sinks: what it writes to.
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
        self._grid, self.sinks, self._rate, self._clock = grid, sinks, rate, clock
        self._count = 0

    def until(self, seconds: float, now: float) -> int:
        """Write the grid as it is for all images that are due before `seconds` of the film.

        Args:
            now: monotonic seconds, as frames are stamped with.

        Returns:
            How many were written.

        Raises:
            SinkError: they cannot be written.
        """
        written = 0
        end = ceil((seconds - SLACK_SECONDS) * self._rate)
        for index in range(self._count, end if self.sinks and self._wanted() else 0):
            if index < end - 1 and self._is_late(now):
                self.left_out += 1
                continue
            rendered = self._grid.rendered(index, float(index / self._rate), now)
            for sink in self.sinks:
                sink.write(rendered)
            written += 1
        self._count = max(self._count, end)
        return written

    def encoded(self) -> Iterator[float]:
        """Seconds that its images took in threads of the sinks, since the last call."""
        return (seconds for sink in self.sinks for seconds in sink.encoded())

    def _is_late(self, since: float) -> bool:
        return self._clock is not None and self._clock.now() - since > PATIENCE_SECONDS


class Order(Protocol):
    """Which results are shown when, and the time of the film."""

    def due(self, results: Iterable[Result]) -> Iterator[tuple[Result, float]]:
        """Results to be shown now, each with its time in the film, in seconds."""

    def seconds(self) -> float:
        """The present time of the film."""

    def is_past(self, source: int) -> bool:
        """Whether the film is past the last frame of a source that has ended."""


class ByArrival:
    """By the clock: each result at once; the film starts with the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero: float | None = None

    def due(self, results: Iterable[Result]) -> Iterator[tuple[Result, float]]:
        """All of them."""
        for result in results:
            if self._zero is None:
                self._zero = self._clock.now()
            yield result, self.seconds()

    def seconds(self) -> float:
        """Time since the first result."""
        return 0.0 if self._zero is None else self._clock.now() - self._zero

    def is_past(self, source: int) -> bool:
        """Always: its last frame was shown when it came."""
        return True


class ByTimestamp:
    """Recordings side by side by their own times, however fast the network is on each.

    A result waits, and so does its source, until no other source can have an earlier one.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self._waiting: dict[int, Result] = {}
        self._now = 0.0
        self._ends = [0.0] * len(channels)

    def due(self, results: Iterable[Result]) -> Iterator[tuple[Result, float]]:
        """Those that no other source can precede."""
        self._waiting |= {result.source: result for result in results}
        while self._waiting and self._complete():
            first = min(self._waiting.values(), key=lambda each: (each.frame.pts, each.source))
            del self._waiting[first.source]
            rate = self._channels[first.source].source.info.frame_rate or DEFAULT_RATE
            self._now = first.frame.pts
            self._ends[first.source] = self._now + (first.frame.lasts or float(1 / rate))
            yield first, self._now

    def seconds(self) -> float:
        """The end of the last frame, once nothing is to come; until then its time."""
        return max(self._ends) if all(each.ended for each in self._channels) else self._now

    def is_past(self, source: int) -> bool:
        """Once a later frame is shown: its last one has its time too."""
        return self.seconds() >= self._ends[source]

    def _complete(self) -> bool:
        return all(each.ended or n in self._waiting for n, each in enumerate(self._channels))


def order_of(channels: Sequence[Channel], *, written: bool) -> Order:
    """Recordings that are written go by their own times, whatever it takes; the rest by arrival.

    Args:
        written: whether films are written, and not only for a virtual camera.
    """
    if written and not any_live([channel.source for channel in channels]):
        return ByTimestamp(channels)
    return ByArrival(channels[0].stats.clock)


def rate_of(sources: Sequence[Source], order: Order) -> Fraction:
    """Images per second of a film: the highest of the sources', but by the clock 30 at most."""
    infos = [source.info for source in sources if not isinstance(source, Unopened)]
    rate = max(info.frame_rate or Fraction(DEFAULT_RATE) for info in infos)
    return rate if isinstance(order, ByTimestamp) else min(HIGHEST_RATE, rate)


class GridCompositor(Compositor):
    """Draws every source into its cell, and gives the grid to windows and films.

    Args:
        order: when results are shown.
        screens: shown the grid whenever it changes.
        films: given the grid at a steady rate.
        appearance: how cells are drawn: what their effects draw by, and whether they have a HUD.
        totals: of all sources.
    """

    draws = True

    def __init__(
        self,
        grid: Grid,
        order: Order,
        screens: Sequence[Sink],
        films: Sequence[Film],
        appearance: Callable[[], tuple[object, Hud]],
        totals: Stats,
    ) -> None:
        self._grid, self._order, self._screens, self._films = grid, order, screens, films
        self.sinks = [sink for film in films for sink in film.sinks]
        self._appearance, self._totals = appearance, totals
        self._drawn = appearance()
        self._count = 0

    @property
    def waits(self) -> bool:
        """Whether results wait for those of other sources before they are shown."""
        return isinstance(self._order, ByTimestamp)

    @property
    def alive(self) -> bool:  # type: ignore[override]  # read-only
        """False once a person has closed a window."""
        return all(sink.alive for sink in self._screens)

    def due(self, results: Sequence[Result]) -> list[tuple[Result, float]]:
        """Results to be shown now, each with its time in the films."""
        return list(self._order.due(results))

    def advance(self, seconds: float | None = None) -> None:
        """Write the films up to a time; up to the present for None.

        Raises:
            SinkError: they cannot be written.
        """
        until = self._order.seconds() if seconds is None else seconds
        for film in self._films:
            since = self._totals.clock.now()
            if film.until(until, since):
                self._totals.add("write", self._totals.clock.now() - since)
            self._totals.add_encoded(film.encoded())

    def show(self, result: Result) -> None:
        """Draw one frame into its cell."""
        self._grid.show(result)

    def present(self, *, changed: bool) -> None:
        """Show the grid if it has changed; otherwise let the windows live.

        Raises:
            SinkError: a window failed.
        """
        waiting = [n for n in self._grid.ended() if not self._order.is_past(n)]
        changed = self._grid.refresh(waiting) or changed
        if (appearance := self._appearance()) != self._drawn:
            self._drawn, changed = appearance, True
            self._grid.redraw(hud=appearance[1])
        if not changed:
            for sink in self._screens:
                sink.idle(None)
        elif self._screens:
            self._count += 1
            now = self._totals.clock.now()
            rendered = self._grid.rendered(self._count, self._totals.seconds, now)
            with self._totals.stage("write"):
                for sink in self._screens:
                    sink.write(rendered)
