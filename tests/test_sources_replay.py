"""A recording replayed as a camera: frames come by the clock, and late ones are lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtseg.contracts import Source
from rtseg.frame import Frame
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.synthetic import SyntheticSource
from rtseg.sources.wrappers import Replay
from rtseg.stats import ManualClock

CLIP = "test://?size=96x64&fps=10&frames=20"


def replayed(clock: ManualClock, **options) -> Source:
    return open_source(CLIP, SourceOptions(live=True, **options), clock=clock)


def test_a_replay_is_a_live_source_of_the_same_pictures() -> None:
    with open_source(CLIP) as plain, replayed(ManualClock()) as source:
        assert source.info.live
        assert source.info.frame_count is None
        for expected, frame in zip(plain, source, strict=True):
            assert (frame.index, frame.pts) == (expected.index, expected.pts)
            assert (frame.image == expected.image).all()


def test_frames_come_when_they_are_due_and_are_stamped_so() -> None:
    clock = ManualClock(100.0)
    for frame in replayed(clock):
        assert clock.now() == pytest.approx(100.0 + frame.pts)
        assert frame.captured_at == pytest.approx(100.0 + frame.pts)


def test_a_reader_who_is_late_by_less_than_a_frame_loses_none() -> None:
    clock, seen = ManualClock(), []
    for frame in replayed(clock):
        assert frame.captured_at == pytest.approx(frame.pts)
        seen.append(frame.index)
        clock.sleep(0.15 if frame.index == 4 else 0.0)
    assert seen == list(range(20))


def test_a_frame_is_not_lost_while_it_is_still_to_be_shown() -> None:
    class Slides(SyntheticSource):
        def _read(self) -> Frame | None:
            frame = super()._read()
            return frame and replace(frame, pts=5 * frame.pts, lasts=0.5)

    clock, seen = ManualClock(), []
    with Replay(Slides(CLIP, SourceOptions(), clock)) as source:
        for frame in source:
            seen.append(frame.index)
            clock.sleep(0.95 if frame.index == 4 else 0.0)
    assert seen == list(range(20))


def test_frames_that_nobody_took_in_time_are_lost_and_leave_a_gap() -> None:
    clock, seen = ManualClock(), []
    for frame in replayed(clock):
        seen.append(frame.index)
        clock.sleep(0.55 if frame.index == 4 else 0.0)
    assert seen == [*range(5), *range(9, 20)]


def test_a_replay_that_is_held_loses_nothing_and_stamps_what_follows_later() -> None:
    clock, seen = ManualClock(), []
    source = replayed(clock, mirror=True)
    for frame in source:
        late = 2.0 * (frame.index > 4)
        assert frame.captured_at == pytest.approx(frame.pts + late)
        seen.append(frame.index)
        if frame.index == 4:
            source.hold(True)
            clock.sleep(2.0)
            source.hold(False)
    assert seen == list(range(20))


def test_a_replay_of_a_loop_or_a_part_keeps_what_was_asked() -> None:
    looped = replayed(ManualClock(), loop=True, max_frames=45)
    assert [frame.index for frame in looped] == list(range(45))
    part = replayed(ManualClock(), start=0.5, end=1.2)
    assert [round(frame.pts, 6) for frame in part] == [round(i / 10, 6) for i in range(7)]


@pytest.mark.parametrize("options", [{"every": 2}, {"every": 2, "start": 0.5}, {"fps_cap": 5}])
def test_frames_that_were_not_wanted_leave_no_gap(options: dict) -> None:
    indices = [frame.index for frame in replayed(ManualClock(), **options)]
    assert len(indices) == 8 if "start" in options else 10
    assert indices == list(range(indices[0], indices[0] + len(indices)))


def test_a_replay_of_capped_frames_has_no_gaps_but_those_lost() -> None:
    """As in a grid, where it is replayed that is already all that was asked for."""
    clock, seen = ManualClock(), []
    capped = open_source(CLIP, SourceOptions(fps_cap=5), clock=clock)
    for frame in Replay(capped):
        seen.append((frame.index, round(frame.pts, 3)))
        clock.sleep(0.5 if frame.index == 4 else 0.0)
    assert seen == [(n, round(0.2 * n, 3)) for n in (0, 1, 2, 3, 4, 6, 7, 8, 9)]


def test_what_is_live_already_stays_as_it_is() -> None:
    source = open_source("test://?size=96x64&live=1", SourceOptions(live=True))
    assert type(source).__name__ == "SyntheticSource"
    source.close()


def test_an_interrupted_wait_yields_nothing_more() -> None:
    class Impatient(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time > 0.5:
                source.interrupt()

    source = replayed(Impatient())
    assert 4 <= len(list(source)) <= 6
