"""Parts and turns of any source: what they yield, and what they say of themselves."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeDevice, Plugged
from hypothesis import given, settings
from hypothesis import strategies as st

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.wrappers import Capped, Every, Limit, Loop, Rotated, count_between, select, span
from rtseg.stats import ManualClock

SMALL = "test://?size=96x64&fps=10&frames=20"


class Listed(Source):
    """Frames at the given times, each for `lasts` seconds; fails at the end when told to."""

    def __init__(
        self, times: list[float], *, fails: bool = False, live: bool = False, lasts: float = 0.0
    ) -> None:
        super().__init__(ManualClock())
        self.info = SourceInfo("a list", 4, 2, frame_count=len(times), live=live)
        self.released = 0
        self.warning = ""
        self._times, self._fails, self._index, self._lasts = times, fails, 0, lasts

    def _read(self) -> Frame | None:
        if self._index == len(self._times):
            if self._fails:
                raise SourceError("the list was lost")
            self.warnings += [self.warning] if self.warning else []
            return None
        index, self._index = self._index, self._index + 1
        image = np.zeros((2, 4, 3), np.uint8)
        return Frame(image, index, self._times[index], 5.0, lasts=self._lasts)

    def _release(self) -> None:
        self.released += 1


def taken(source: Source) -> list[tuple[int, float]]:
    return [(frame.index, round(frame.pts, 6)) for frame in source]


def test_nothing_asked_is_the_source_itself() -> None:
    source = Listed([0.0])
    assert span(source, None, None) is source
    assert span(source, 0.0, None) is source


def test_a_span_of_the_synthetic_source() -> None:
    with open_source(SMALL, SourceOptions(start=0.5, end=1.2)) as source:
        assert source.info.frame_count == 7
        assert source.info.media_start == pytest.approx(0.5)
        assert taken(source) == [(i, round((i - 5) / 10, 6)) for i in range(5, 12)]


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0.002, 1.0), max_size=30),
    start=st.floats(0, 5),
    length=st.floats(0.01, 5),
)
def test_a_span_is_what_a_filter_gives(gaps: list[float], start: float, length: float) -> None:
    times = [0.0, *np.cumsum(gaps).tolist()]
    slack, end = 5e-4, start + length
    inside = [i for i, t in enumerate(times) if start - slack <= t < end - slack]
    if start and not any(t >= start - slack for t in times):
        with pytest.raises(UsageError, match="its last frame is at"):
            span(Listed(times), start, end)
        return
    if not inside:
        with pytest.raises(UsageError, match="no frame in this time"):
            taken(span(Listed(times), start, end))
        return
    got = taken(span(Listed(times), start, end))
    assert [index for index, _ in got] == inside
    if start:
        first = next(t for t in times if t >= start - slack)
        assert [pts for _, pts in got] == pytest.approx(
            [times[i] - first for i in inside], abs=1e-5
        )
    info = SourceInfo("x", 1, 1)
    assert count_between(info, times, start, end) == len(inside)


@settings(deadline=None)
@given(rate=st.sampled_from([10, 24, 25, Fraction(30000, 1001), 50]), count=st.integers(1, 200),
       start=st.floats(0, 8), length=st.floats(0.01, 8))  # fmt: skip
def test_counts_by_rate_equal_counts_by_times(
    rate: Fraction, count: int, start: float, length: float
) -> None:
    info = SourceInfo("x", 1, 1, Fraction(rate), count)
    times = [float(i / Fraction(rate)) for i in range(count)]
    for end in (start + length, float("inf")):
        assert count_between(info, (), start, end) == count_between(info, times, start, end)


def test_a_span_of_a_live_source_starts_when_it_is_read() -> None:
    source = span(Listed([0.0, 1.0, 2.0, 3.0], live=True), 1.5, 2.5)
    frames = list(source)
    assert [(f.index, f.pts, f.captured_at) for f in frames] == [(2, 0.0, 5.0)]


def test_a_start_beyond_the_end_closes_the_source() -> None:
    source = Listed([0.0, 1.0])
    with pytest.raises(UsageError, match=r"a list from 3 s: its last frame is at 1\.000 s"):
        span(source, 3.0, None)
    assert source.released == 1


def test_every_keeps_the_numbers_of_a_file() -> None:
    with open_source(SMALL, SourceOptions(every=3)) as source:
        assert (source.info.frame_count, source.info.frame_rate) == (7, Fraction(10, 3))
        assert [f.index for f in source] == [0, 3, 6, 9, 12, 15, 18]


def test_every_counts_anew_for_live_sources() -> None:
    source = Every(Listed([0.0, 0.1, 0.2, 0.3, 0.4], live=True), 2)
    assert [f.index for f in source] == [0, 1, 2]


def durations(source: Source) -> list[float]:
    return [round(frame.lasts, 6) for frame in source]


def test_a_frame_lasts_until_the_next_that_is_kept_or_the_end() -> None:
    times = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert durations(Every(Listed(times, lasts=0.1), 3)) == [0.5, 0.3, 0.2]
    assert durations(Every(Listed(times, lasts=0.1), 20)) == [1.0]
    assert durations(Capped(Listed(times, lasts=0.1), 1.0)) == [0.8, 0.2]
    assert durations(Every(Listed(times), 3)) == [0.0, 0.0, 0.0], "a pipe's are not known"
    file = Listed(times)
    file.info = replace(file.info, media=Path("a.flv"), frame_rate=Fraction(10))
    assert durations(Every(file, 3)) == [0.5, 0.3, 0.2]


def test_numbers_go_on_in_each_round_of_a_part() -> None:
    part = SourceOptions(start=0.3, loop=True, max_frames=8)
    with open_source("test://?size=64x48&frames=6&fps=10", part) as source:
        assert [frame.index for frame in source] == [3, 4, 5, 6, 7, 8, 9, 10]


def test_a_pause_is_cut_off_where_the_part_ends_and_no_image_of_a_steady_rate() -> None:
    def last(lasts: float, end: float) -> float:
        source = Listed([0.0, 1.0], lasts=lasts)
        source.info = replace(source.info, frame_rate=Fraction(10))
        return durations(span(source, None, end))[-1]

    assert last(8.0, 2.5) == 1.5
    assert last(8.0, 20.0) == 8.0
    assert last(0.1, 1.05) == last(8.0, 1.05) == 0.1


def test_a_live_frame_does_not_wait_for_the_next_that_is_kept() -> None:
    source = iter(Every(Listed([0.0, 0.1], live=True, lasts=0.1, fails=True), 2))
    assert next(source).index == 0


def test_a_source_that_fails_among_frames_left_out_fails_behind_the_one_before() -> None:
    source = iter(Every(Listed([0.0, 0.1, 0.2, 0.3], lasts=0.1, fails=True), 3))
    assert [next(source).index, next(source).index] == [0, 3]
    with pytest.raises(SourceError, match="the list was lost"):
        next(source)


def test_max_frames() -> None:
    with open_source(SMALL, SourceOptions(max_frames=4)) as source:
        assert source.info.frame_count == 4
        assert [f.index for f in source] == [0, 1, 2, 3]
        assert list(source) == []
    with open_source(SMALL, SourceOptions(max_frames=400)) as source:
        assert source.info.frame_count == 20
        assert len(list(source)) == 20


@pytest.mark.parametrize("live", [False, True])
def test_a_single_frame_is_known_to_be_one(live: bool) -> None:
    source = Listed([0.0, 1.0], live=live)
    source.info = replace(source.info, frame_count=None)
    assert (Limit(source, 1).info.frame_count, Limit(source, 2).info.frame_count) == (1, None)


def test_max_frames_does_not_read_the_frame_after() -> None:
    assert len(list(Limit(Listed([0.0, 1.0], fails=True), 2))) == 2


def test_every_comes_before_max_frames() -> None:
    with open_source(SMALL, SourceOptions(every=5, max_frames=2, start=0.2)) as source:
        assert source.info.frame_count == 2
        assert [f.index for f in source] == [2, 7]


def test_loop_goes_on_with_numbers_and_times() -> None:
    with open_source(SMALL, SourceOptions(loop=True, max_frames=45)) as source:
        assert source.info.frame_count is None
        assert taken(source) == [(i, i / 10) for i in range(45)]


def test_loop_of_a_part_repeats_the_part() -> None:
    options = SourceOptions(loop=True, start=0.5, end=0.8, max_frames=7)
    with open_source(SMALL, options) as source:
        frames = list(source)
    assert [f.pts for f in frames] == pytest.approx([i / 10 for i in range(7)])
    indices = [f.index for f in frames]
    assert indices == sorted(set(indices))


def test_loop_closes_each_round_and_keeps_each_warning_once() -> None:
    rounds = [Listed([0.0, 0.5]) for _ in range(4)]
    for source, warning in zip(rounds, ["cut off", "damaged", "cut off", ""], strict=True):
        source.warning = warning
    waiting = iter(rounds[1:])
    looped = Loop(rounds[0], lambda: next(waiting))
    frames = iter(looped)
    assert [next(frames).index for _ in range(7)] == list(range(7))
    assert [source.released for source in rounds] == [1, 1, 1, 0]
    looped.close()
    assert rounds[3].released == 1
    assert looped.warnings == ["cut off", "damaged"]


def test_loop_of_nothing_ends() -> None:
    assert list(Loop(Listed([]), lambda: Listed([]))) == []


def test_loop_of_a_live_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice([Plugged()])
    monkeypatch.setattr(cv2, "VideoCapture", device)
    with pytest.raises(UsageError, match="cannot loop camera 0"):
        open_source(0, SourceOptions(loop=True))
    assert not device.opened
    live = Listed([0.0], live=True)
    with pytest.raises(UsageError, match="cannot loop a list"):
        select(live, lambda: live, SourceOptions(loop=True))
    assert live.released == 1


def test_a_looped_file_has_no_sound(tmp_path: Path) -> None:
    inner = Listed([0.0])
    inner.info = replace(inner.info, media=tmp_path)
    assert Loop(inner, lambda: inner).info.media is None


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turns(degrees: int, mirror: bool) -> None:
    with open_source(SMALL) as plain:
        original = next(iter(plain)).image
    with open_source(SMALL, SourceOptions(rotate=degrees, mirror=mirror)) as source:
        frame = next(iter(source))
        size = (source.info.height, source.info.width)
    expected = np.rot90(original, -degrees // 90)
    assert np.array_equal(frame.image, expected[:, ::-1] if mirror else expected)
    assert frame.size == size
    assert not frame.image.flags.writeable
    assert (frame.index, frame.pts) == (0, 0.0)


def test_a_quarter_turn_inverts_the_pixel_aspect() -> None:
    inner = Listed([0.0])
    inner.info = replace(inner.info, sample_aspect_ratio=Fraction(16, 11))
    assert Rotated(inner, 90, False).info.sample_aspect_ratio == Fraction(11, 16)
    assert Rotated(inner, 180, False).info.sample_aspect_ratio == Fraction(16, 11)


def test_what_happens_inside_is_told_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice([Plugged(frames=3), Plugged(size=(320, 240))])
    monkeypatch.setattr(cv2, "VideoCapture", device)
    options = SourceOptions(rotate=90, mirror=True, every=2, max_frames=9, end=99)
    told: list[str | None] = []

    class Watching(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            told.append(source.notice)

    source = open_source(0, options, clock=Watching())
    frames = iter(source)
    assert next(frames).size == (640, 480)
    assert next(frames).size == (320, 240)
    assert source.outages == 1
    assert (source.info.width, source.info.height) == (240, 320)
    assert told[0] == "reconnecting to camera 0 (try 1)"
    assert source.notice is None
    source.close()
    source.close()
    assert device.released == 2


def test_interrupt_reaches_a_wait_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeDevice([Plugged(frames=1)]))

    class Impatient(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            assert self.time < 200, "still waiting after it was interrupted"
            if self.time > 20:
                source.interrupt()

    source = open_source(0, SourceOptions(rotate=90, every=2), clock=Impatient())
    assert list(source) == []
    source.close()


def test_an_error_inside_is_raised_outside() -> None:
    got = []
    with pytest.raises(SourceError, match="it fails at frame 4"):
        got.extend(f.index for f in open_source("test://?size=96x64&fail=4",
                                                SourceOptions(every=2, rotate=180)))  # fmt: skip
    assert got == [0, 2]


@pytest.mark.parametrize(
    "bad",
    [
        {"rotate": 45},
        {"every": 0},
        {"max_frames": 0},
        {"start": -1.0},
        {"start": 2.0, "end": 1.0},
        {"end": 0.0},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"timeout": 0.0},
        {"width": 0},
        {"height": -5},
        {"size": (0, 10)},
        {"fourcc": "MJPEG"},
        {"start": float("inf")},
    ],
)
def test_options_that_make_no_sense(bad: dict[str, object]) -> None:
    name = list(bad)[-1]
    with pytest.raises(UsageError, match=name.replace("_", "-")):
        SourceOptions(**bad)
