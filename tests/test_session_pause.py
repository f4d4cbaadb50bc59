"""Several sources, paused: recordings stand still, cameras go on unseen, and numbers stay true."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from test_session_engine import KINDS, Echo, Numbered

from rtseg.cli.run import _replayed
from rtseg.contracts import Rendered, Sink
from rtseg.effects import ViewOptions
from rtseg.errors import SourceError
from rtseg.segmenter import Segmenter
from rtseg.session.controls import Controls, open_controls
from rtseg.session.engine import Channel, Engine
from rtseg.session.grid import ByArrival, ByTimestamp, Grid, GridCompositor, Order, lay_out
from rtseg.session.loop import Loop, Outlet
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions


class Kept(Sink):
    """Takes the frames of one source; tells each to `then`."""

    def __init__(self, then: Callable[[int], None] = lambda index: None) -> None:
        self.frames: list[tuple[int, float, float]] = []
        self.then = then

    def write(self, rendered: Rendered) -> None:
        frame = rendered.frame
        self.frames.append((frame.index, frame.pts, frame.captured_at))
        self.then(frame.index)

    @property
    def indices(self) -> list[int]:
        return [index for index, _, _ in self.frames]


class Person(Sink):
    """At the screen: `turns` are what is pressed, each so many seconds after the last."""

    def __init__(self, controls: Controls, turns: list[tuple[float, str]], stats: Stats) -> None:
        self.controls, self.turns, self.stats = controls, turns, stats
        self.at = 0.0
        self.pressed: list[float] = []
        self.closed = False

    @property
    def alive(self) -> bool:
        return not self.closed

    def write(self, rendered: Rendered) -> None:
        self.idle(None)

    def idle(self, notice: str | None) -> None:
        now = self.stats.clock.now()
        self.at = self.at or now
        while self.turns and now - self.at >= self.turns[0][0]:
            seconds, key = self.turns.pop(0)
            self.at += seconds
            self.pressed.append(now)
            if key == "q":
                self.closed = True
            else:
                self.controls.press(key)


def watched(
    channels: list[Channel],
    turns: list[tuple[float, str]],
    order: Order | None = None,
    kind: Callable[[], Echo] = Echo,
) -> tuple[list[Kept], Person, Stats]:
    """Run until all have ended, or "q" was pressed."""
    totals = Stats(channels[0].source.clock)
    segmenter = Segmenter(kind())
    controls = open_controls(ViewOptions(), channels, segmenter, channels[0].source.info)
    person, kept = Person(controls, turns, totals), [Kept() for _ in channels]
    outlets = [Outlet(lambda frame, _: frame.image, [sink]) for sink in kept]
    layout = lay_out([(32, 48)] * len(channels), (200, 200))
    effects = [outlet.effect for outlet in outlets]
    grid = Grid(channels, effects, layout, segmenter.labels, hud="none")
    with Engine(channels, segmenter, held=order is not None) as engine:
        order = order or ByArrival(totals.clock)
        compositor = GridCompositor(grid, order, [person], [], lambda: (None, "none"), totals)
        Loop(engine, outlets, compositor, totals, controls, on_tick=controls.turn).run()
    return kept, person, totals


def whole(channels: list[Channel]) -> None:
    """Every frame that came was shown, or has a cause."""
    for channel in channels:
        assert channel.stats.shown + channel.stats.dropped == channel.stats.produced


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_cameras_go_on_unseen_and_give_their_newest_after_it(kind) -> None:
    def waits(channel: int) -> Numbered:
        source = Numbered(channel, 10**6, live=True)
        source.before = lambda index: source.clock.sleep(0.01)
        return source

    channels = [Channel(waits(n), f"camera {n}") for n in (0, 1)]
    turns = [(0.3, " "), (0.6, " "), (0.3, "q")]
    kept, person, totals = watched(channels, turns, kind=kind)
    paused, on, _ = person.pressed
    for sink, channel in zip(kept, channels, strict=True):
        before = [frame for frame in sink.frames if frame[2] <= paused]
        after = [frame for frame in sink.frames if frame[2] > paused]
        assert len(before) > 5
        assert len(after) > 5
        # nothing of the pause is shown once it goes on, but for what came in its last moment
        assert min(at for _, _, at in after) > on - 0.1
        assert after[0][0] - before[-1][0] > 25
        assert channel.stats.dropped_by["pause"] > 25
        assert channel.stats.age.milliseconds()["p99"] < 300
    whole(channels)
    assert totals.stages["wait"].count == 1


@pytest.mark.parametrize("propagate", [False, True])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_camera_that_is_lost_during_a_pause_is_noticed_during_it(lost, propagate) -> None:
    """Where no camera is left, the run ends."""

    def camera(number: int) -> Channel:
        source = Numbered(number, 10**6, live=True)
        temporal = TemporalOptions(propagate=propagate)
        channel = Channel(source, f"camera {number}", temporal=temporal)

        def before(index: int) -> None:
            source.clock.sleep(0.01)
            if channel.paused and number < lost:
                raise SourceError(f"camera {number} was lost")

        source.before = before
        return channel

    channels = [camera(0), camera(1)]
    kept, person, _ = watched(channels, [(0.3, " "), (0.4, "q")])
    assert len(person.pressed) == (1 if lost == 2 else 2)
    for number, (sink, channel) in enumerate(zip(kept, channels, strict=True)):
        error = f"camera {number} was lost" if number < lost else "None"
        assert (str(channel.error), channel.ended) == (error, number < lost)
        assert max(at for _, _, at in sink.frames) < person.pressed[0] + 0.1
    whole(channels)


def test_recordings_that_are_watched_go_on_where_they_stood() -> None:
    sources = [_replayed(Numbered(n, 24, fps=30)) for n in (0, 1)]
    channels = [Channel(source, f"clip {n}") for n, source in enumerate(sources)]
    kept, person, _ = watched(channels, [(0.3, " "), (0.8, " ")])
    assert len(person.pressed) == 2
    for sink, channel in zip(kept, channels, strict=True):
        gaps = [b - a for a, b in zip(sink.indices, sink.indices[1:], strict=False)]
        assert max(gaps) <= 6  # 24 frames of its own time went by
        assert sink.indices[-1] == 23
        assert "pause" not in channel.stats.dropped_by
    whole(channels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_where_every_frame_is_kept_a_pause_loses_none(kind) -> None:
    channels = [Channel(Numbered(n, 400), f"clip {n}", newest=False) for n in (0, 1)]
    turns = [(0.05, " "), (0.2, "."), (0.1, "."), (0.1, " "), (0.02, " "), (0.1, " ")]
    kept, person, _ = watched(channels, turns, ByTimestamp(channels), kind)
    assert len(person.pressed) == 6
    assert [sink.indices for sink in kept] == [list(range(400))] * 2
    whole(channels)
    assert all(channel.stats.dropped == 0 for channel in channels)


@pytest.mark.slow
@pytest.mark.alone
def test_a_step_shows_one_frame_more_of_each_that_has_one() -> None:
    """The third one gives nothing more: it is waited for no longer than a moment."""

    def camera(n: int, silent_after: int = 10**6) -> Channel:
        source = Numbered(n, 10**6, live=True)
        source.before = lambda index: source.wait(0.01 if index < silent_after else 3600.0)
        return Channel(source, f"camera {n}")

    channels = [camera(0), camera(1), camera(2, silent_after=3)]
    shown: list[list[int]] = []
    turns = [(0.4, " "), (0.3, "."), (1.5, "."), (1.5, "q")]
    kept, person, _ = watched(channels, turns)
    paused, first, second, end = person.pressed
    for sink in kept[:2]:
        after = [at for _, _, at in sink.frames if at > paused + 0.1]
        shown.append(
            [sum(a < at <= b for at in after) for a, b in ((first, second), (second, end))]
        )
        assert sum(paused + 0.1 < at < first - 0.1 for at in after) == 0
        # those that a silent one is waited for may show more than one, but stand still after it
        assert not any(first + 1.3 < at < second - 0.1 for at in after)
    assert all(count >= 1 for counts in shown for count in counts)
    assert kept[2].indices == [0, 1, 2]
    whole(channels)


@pytest.mark.slow
def test_a_step_waits_for_a_turn_of_each_on_a_slow_network() -> None:
    class Slow(Echo):
        def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            time.sleep(0.4)
            return super().__call__(batch)

    def camera(n: int) -> Channel:
        source = Numbered(n, 10**6, live=True)
        source.before = lambda index: source.wait(0.01)
        return Channel(source, f"camera {n}")

    turns = [(1.5, " "), (1.0, "."), (2.0, "q")]
    kept, person, _ = watched([camera(0), camera(1)], turns, kind=Slow)
    for sink in kept:
        assert any(shown > person.pressed[1] - 0.5 for _, _, shown in sink.frames)
