"""The loop of several sources: their looks go to the grid, and to the sinks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rtseg.contracts import Effect, Rendered, Sink
from rtseg.many.feed import Feed, add_up
from rtseg.many.order import Order
from rtseg.session.grid import Film, Grid
from rtseg.session.grid_controls import Hands
from rtseg.session.loop import PACE_SECONDS, TICK_SECONDS
from rtseg.session.many import Crowd, Look
from rtseg.stats import Stats

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
