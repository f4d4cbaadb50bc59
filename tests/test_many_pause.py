"""Several sources, paused: recordings stand still, cameras go on unseen, and numbers stay true."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_many_crowd import KINDS, Echo, Numbered

from rtseg.contracts import Rendered, Sink
from rtseg.effects import ViewOptions
from rtseg.labels import VOC
from rtseg.segmenter import Segmenter
from rtseg.session.grid import AsTheyCome, ByTheirTimes, Grid, GridLoop, Order, Outlet, lay_out
from rtseg.session.grid_controls import Hands
from rtseg.session.many import Crowd, Feed
from rtseg.stats import Stats


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

    def __init__(self, hands: Hands, turns: list[tuple[float, str]], stats: Stats) -> None:
        self.hands, self.turns, self.stats = hands, turns, stats
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
                self.hands.press(key)


def watched(
    feeds: list[Feed],
    turns: list[tuple[float, str]],
    order: Order | None = None,
    kind: Callable[[], Echo] = Echo,
) -> tuple[list[Kept], Person, Stats]:
    """Run until all have ended, or "q" was pressed."""
    totals = Stats(feeds[0].source.clock)
    hands = Hands(ViewOptions(), hud=False)
    person, kept = Person(hands, turns, totals), [Kept() for _ in feeds]
    outlets = [Outlet(lambda frame, _: frame.image, [sink]) for sink in kept]
    layout = lay_out([(32, 48)] * len(feeds), (200, 200))
    grid = Grid(feeds, [outlet.effect for outlet in outlets], layout, VOC, hud=False)
    with Crowd(feeds, Segmenter(kind()), held=order is not None) as crowd:
        order = order or AsTheyCome(totals.clock)
        GridLoop(crowd, outlets, order, grid, [person], [], hands, totals).drain()
    return kept, person, totals


def whole(feeds: list[Feed]) -> None:
    """Every frame that came was shown, or has a cause."""
    for feed in feeds:
        assert feed.stats.shown + feed.stats.dropped == feed.stats.produced


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_go_on_unseen_and_give_their_newest_after_it(kind) -> None:
    def waits(feed: int) -> Numbered:
        source = Numbered(feed, 10**6, live=True)
        source.before = lambda index: source.clock.sleep(0.01)
        return source

    feeds = [Feed(waits(n), f"camera {n}") for n in (0, 1)]
    turns = [(0.3, " "), (0.6, " "), (0.3, "q")]
    kept, person, totals = watched(feeds, turns, kind=kind)
    paused, on, _ = person.pressed
    for sink, feed in zip(kept, feeds, strict=True):
        before = [frame for frame in sink.frames if frame[2] <= paused]
        after = [frame for frame in sink.frames if frame[2] > paused]
        assert len(before) > 5
        assert len(after) > 5
        # nothing of the pause is shown once it goes on, but for what came in its last moment
        assert min(at for _, _, at in after) > on - 0.1
        assert after[0][0] - before[-1][0] > 25
        assert feed.stats.dropped_by["pause"] > 25
        assert feed.stats.age.milliseconds()["p99"] < 300
    whole(feeds)
    assert totals.stages["wait"].count == 1


def test_a_recording_that_is_watched_goes_on_where_it_stood() -> None:
    feeds = [Feed(Numbered(n, 45, fps=30), f"clip {n}", paced=True) for n in (0, 1)]
    kept, person, _ = watched(feeds, [(0.5, " "), (1.0, " ")])
    assert len(person.pressed) == 2
    for sink, feed in zip(kept, feeds, strict=True):
        assert sink.indices == sorted(sink.indices)
        gaps = [b - a for a, b in zip(sink.indices, sink.indices[1:], strict=False)]
        assert max(gaps) <= 5  # a second of its own time is 30 frames
        assert sink.indices[-1] >= 43
        assert feed.stats.dropped_by.get("pause", 0) <= 4
    whole(feeds)


@pytest.mark.parametrize("kind", KINDS)
def test_where_every_frame_is_kept_a_pause_loses_none(kind) -> None:
    feeds = [Feed(Numbered(n, 400), f"clip {n}", newest=False) for n in (0, 1)]
    turns = [(0.05, " "), (0.2, "."), (0.1, "."), (0.1, " "), (0.02, " "), (0.1, " ")]
    kept, person, _ = watched(feeds, turns, ByTheirTimes(feeds), kind)
    assert len(person.pressed) == 6
    assert [sink.indices for sink in kept] == [list(range(400))] * 2
    whole(feeds)
    assert all(feed.stats.dropped == 0 for feed in feeds)


@pytest.mark.slow
def test_a_step_shows_one_frame_more_of_each_that_has_one() -> None:
    """The third one gives nothing more: it is waited for no longer than a moment."""

    def camera(n: int, silent_after: int = 10**6) -> Feed:
        source = Numbered(n, 10**6, live=True)
        source.before = lambda index: source.wait(0.01 if index < silent_after else 3600.0)
        return Feed(source, f"camera {n}")

    feeds = [camera(0), camera(1), camera(2, silent_after=3)]
    shown: list[list[int]] = []
    turns = [(0.4, " "), (0.3, "."), (1.5, "."), (1.5, "q")]
    kept, person, _ = watched(feeds, turns)
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
    whole(feeds)
