"""Pacing: a file is seen at its own speed, on a clock that nobody has to wait for."""

from __future__ import annotations

import pytest
from test_pipeline import Echo, Listing, Numbered, plain

from rtseg.contracts import Rendered
from rtseg.frame import Frame
from rtseg.segmenter import Segmenter
from rtseg.session.loop import run
from rtseg.stats import LATE_SECONDS, ManualClock, Pace, Stats


class Times(Listing):
    """When each frame was shown; showing one takes `cost` seconds."""

    def __init__(self, clock: ManualClock, cost: float = 0.0) -> None:
        super().__init__()
        self.clock, self.cost, self.at = clock, cost, []

    def write(self, rendered: Rendered) -> None:
        super().write(rendered)
        self.at.append(self.clock.now())
        self.clock.sleep(self.cost)

    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.at, self.at[1:], strict=False)]


def test_frames_are_due_at_their_own_times() -> None:
    clock = ManualClock(100.0)
    pace = Pace(clock)
    assert pace.seconds_left(7.0) == 0
    assert pace.seconds_left(7.5) == pytest.approx(0.5)
    clock.sleep(0.5 + LATE_SECONDS * 0.9)
    assert pace.seconds_left(7.5) == 0
    assert pace.seconds_left(8.0) == pytest.approx(0.5 - LATE_SECONDS * 0.9), (
        "a little is made good"
    )


def test_what_is_late_puts_off_what_follows() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    pace.seconds_left(0.0)
    clock.sleep(10.0)
    assert pace.seconds_left(0.1) == 0
    assert pace.seconds_left(0.2) == pytest.approx(0.1), "no rush"


@pytest.mark.parametrize("count", [1, 2, 90])
def test_a_file_plays_at_its_own_speed(count: int) -> None:
    clock = ManualClock()
    sink = Times(clock, cost=0.004)
    report = run(Numbered(count), Segmenter(Echo()), plain, [sink], stats=Stats(clock), paced=True)
    assert [at - sink.at[0] for at in sink.at] == pytest.approx([i / 30 for i in range(count)])
    assert clock.now() - sink.at[-1] == pytest.approx(1 / 30), "the last one is seen as well"
    assert (report.frames, report.dropped) == (count, 0)
    assert report.stages_ms["write"]["max"] == pytest.approx(4)
    assert report.stages_ms["wait"]["max"] < 1000 / 30 + 0.01


def test_what_shows_too_slowly_is_never_hurried() -> None:
    class Stumbling(Times):
        def write(self, rendered: Rendered) -> None:
            self.cost = 0.5 if rendered.frame.index == 5 else 0.01
            super().write(rendered)

    clock = ManualClock()
    sink = Stumbling(clock)
    run(Numbered(11), Segmenter(Echo()), plain, [sink], stats=Stats(clock), paced=True)
    assert sink.gaps() == pytest.approx([1 / 30] * 5 + [0.5] + [1 / 30] * 4)


def test_variable_times_are_kept() -> None:
    class Pause(Numbered):
        def _read(self) -> Frame | None:
            frame = super()._read()
            return frame and Frame(frame.image, frame.index, frame.index**2 / 10, 0.0)

    clock = ManualClock()
    sink = Times(clock)
    run(Pause(4), Segmenter(Echo()), plain, [sink], stats=Stats(clock), paced=True)
    assert sink.gaps() == pytest.approx([0.1, 0.3, 0.5])


def test_nobody_waits_for_live_sources_or_files_to_write() -> None:
    for source, paced in ((Numbered(20, live=True), True), (Numbered(20), False)):
        clock = ManualClock()
        report = run(
            source, Segmenter(Echo()), plain, [Listing()],
            policy="all", stats=Stats(clock), paced=paced,
        )  # fmt: skip
        assert report.frames == 20
        assert clock.now() == 0
        assert "wait" not in report.stages_ms


@pytest.mark.parametrize("who", ["window", "signal"])
def test_a_long_wait_ends_when_somebody_quits(who: str) -> None:
    class Slide(Numbered):
        def _read(self) -> Frame | None:
            frame = super()._read()
            return frame and Frame(frame.image, frame.index, frame.index * 1e6, 0.0)

    class Closing(Listing):
        @property
        def alive(self) -> bool:
            return who != "window" or len(self.notices) < 3

    sink = Closing()
    report = run(
        Slide(9), Segmenter(Echo()), plain, [sink], stats=Stats(ManualClock()), paced=True,
        stop=lambda: who == "signal" and len(sink.notices) >= 3,
    )  # fmt: skip
    assert [index for index, _ in sink.seen] == [0]
    assert sink.notices == [None] * 3
    assert report.frames == 1
    assert report.frames + report.dropped == report.produced


def test_the_age_leaves_out_what_was_waited_on_purpose() -> None:
    clock = ManualClock(10.0)
    stats = Stats(clock)
    stats.start()
    captured_at = clock.now()
    since = clock.now()
    clock.sleep(1.0)
    stats.add_wait(since)
    clock.sleep(0.02)
    stats.show(captured_at)
    assert stats.recent["age"] == pytest.approx(0.02)
    stats.show(captured_at + 0.75)
    assert stats.recent["age"] == pytest.approx(0.02), "only what of the wait came after it"
    assert stats.stages["wait"].max == pytest.approx(1.0)
