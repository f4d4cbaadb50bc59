"""One picture of all sources, and what takes it: windows, and films at a steady rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from math import ceil

import numpy as np

from rtseg.clock import Clock
from rtseg.contracts import Effect, Rendered, Sink
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.many.cell import Cell
from rtseg.many.feed import Feed
from rtseg.many.layout import Layout
from rtseg.segmentation import Segmentation
from rtseg.session.many import Look

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
