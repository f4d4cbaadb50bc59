"""The synthetic source: its number in the pixels, its masks, its pace, its faults."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtseg.errors import SourceError, UsageError
from rtseg.labels import SHAPE_COLOURS, SHAPE_LABELS
from rtseg.sources import open_source
from rtseg.sources.synthetic import (
    MAX_NUMBER,
    Scene,
    SyntheticSource,
    encode_number,
    parse_pattern,
    read_number,
    strip_height,
)
from rtseg.stats import ManualClock


def opened(query: str, clock: ManualClock | None = None) -> SyntheticSource:
    source = open_source(f"test://?{query}", clock=clock)
    assert isinstance(source, SyntheticSource)
    return source


def test_defaults_and_info() -> None:
    info = open_source("test://").info
    assert (info.width, info.height, info.frame_rate, info.frame_count) == (1280, 720, 30, 300)
    assert not info.live
    info = opened("size=640x360&fps=30000/1001&live=1").info
    assert (info.width, info.height, info.frame_rate) == (640, 360, Fraction(30000, 1001))
    assert (info.frame_count, info.live) == (None, True)


@pytest.mark.parametrize("target", ["test://", "test:", "test:///", "test://?"])
def test_short_addresses(target: str) -> None:
    assert open_source(target).info.frame_count == 300


def test_numbers_times_and_masks_of_every_frame() -> None:
    source = opened("size=320x180&fps=24&frames=40")
    frames = list(source)
    assert [f.index for f in frames] == list(range(40)) == [read_number(f.image) for f in frames]
    assert [f.pts for f in frames] == pytest.approx([i / 24 for i in range(40)])
    assert not np.array_equal(frames[0].image, frames[39].image)


@pytest.mark.parametrize("size", [(48, 32), (97, 61), (640, 360), (360, 640)])
def test_a_mask_is_exactly_the_pixels_of_each_colour(size: tuple[int, int]) -> None:
    scene = Scene(*size, seed=3)
    for index in (0, 17, 555):
        image, mask = scene.image_of(index), scene.mask_of(index)
        assert mask.shape == image.shape[:2]
        for label, colour in SHAPE_COLOURS.items():
            assert np.array_equal((image == colour).all(2), mask == label)
            assert (mask == label).any()
        rest = image[mask == SHAPE_LABELS.background].astype(int)
        assert (rest.max(1) == rest.min(1)).all()  # grey: no colour-matcher mistakes it


def test_the_same_seed_gives_the_same_scene() -> None:
    assert np.array_equal(Scene(96, 64, 5).image_of(9), Scene(96, 64, 5).image_of(9))
    assert not np.array_equal(Scene(96, 64, 5).mask_of(9), Scene(96, 64, 6).mask_of(9))


@given(
    number=st.integers(0, MAX_NUMBER),
    width=st.integers(48, 400),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_a_number_survives_blending_with_any_colour(
    number: int, width: int, colour: tuple[int, int, int]
) -> None:
    image = np.full((40, width, 3), 90, np.uint8)
    encode_number(image, number)
    assert read_number(image) == number
    blended = cv2.addWeighted(image, 0.6, np.full_like(image, colour), 0.4, 0)
    assert read_number(blended) == number


def test_a_number_survives_being_resized() -> None:
    image = Scene(1280, 720).image_of(98765)
    for width in (640, 853, 320):
        small = cv2.resize(image, (width, width * 9 // 16), interpolation=cv2.INTER_AREA)
        assert read_number(small) == 98765


@pytest.mark.parametrize(("size", "crf"), [("640x360", "23"), ("320x180", "30"), ("192x108", "28")])
def test_numbers_survive_h264(tmp_path: Path, size: str, crf: str) -> None:
    path = tmp_path / "numbers.mp4"
    source = opened(f"size={size}&frames=30")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": crf})
        stream.width, stream.height = source.info.width, source.info.height
        stream.pix_fmt = "yuv420p"
        for frame in source:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="bgr24")))
        container.mux(stream.encode())
    with open_source(path) as video:
        assert [read_number(f.image) for f in video] == list(range(30))


@pytest.mark.parametrize("number", [0, 1, 77, 4234, MAX_NUMBER])
def test_any_one_damaged_block_is_noticed(number: int) -> None:
    for block in range(24):
        image = np.full((40, 480, 3), 77, np.uint8)
        encode_number(image, number)
        image[:20, block * 20 : block * 20 + 20] ^= 255
        with pytest.raises(ValueError, match="no frame number"):
            read_number(image)


@pytest.mark.parametrize("grey", [0, 100, 255])
def test_a_picture_without_a_number_is_refused(grey: int) -> None:
    with pytest.raises(ValueError, match="no frame number"):
        read_number(np.full((40, 480, 3), grey, np.uint8))


def test_the_number_stays_in_its_strip() -> None:
    image = np.full((60, 240, 3), 77, np.uint8)
    encode_number(image, 5)
    assert (image[strip_height(240) :] == 77).all()


def test_jitter_moves_times_but_never_backwards() -> None:
    source = opened("size=64x48&fps=100&frames=200&jitter=50&seed=4")
    times = [frame.pts for frame in source]
    assert times[0] == 0.0
    assert all(later >= earlier for earlier, later in pairwise(times))
    off = [time - i / 100 for i, time in enumerate(times)]
    assert max(off) > 0.02
    assert max(off) <= 0.05
    again = opened("size=64x48&fps=100&frames=200&jitter=50&seed=4")
    assert [frame.pts for frame in again] == times
    other = opened("size=64x48&fps=100&frames=200&jitter=50&seed=5")
    assert [frame.pts for frame in other] != times


def test_live_keeps_the_pace_of_the_clock() -> None:
    clock = ManualClock(50.0)
    frames = iter(opened("size=64x48&fps=50&live=1", clock))
    got = [next(frames) for _ in range(6)]
    assert [f.index for f in got] == list(range(6))
    assert clock.time == pytest.approx(50.1)
    assert [f.captured_at for f in got] == pytest.approx([50 + i / 50 for i in range(6)])


def test_live_skips_what_a_slow_reader_missed() -> None:
    clock = ManualClock()
    frames = iter(opened("size=64x48&fps=50&live=1", clock))
    next(frames)
    clock.sleep(0.21)  # ten frames have gone by
    late = next(frames)
    assert (late.index, read_number(late.image), late.pts) == (10, 10, pytest.approx(0.2))
    assert late.captured_at == pytest.approx(0.2)
    assert next(frames).index == 11
    assert clock.time == pytest.approx(0.22)


def test_live_ends_at_its_count_of_the_world_s_frames() -> None:
    clock = ManualClock()
    indices = []
    for frame in opened("size=64x48&fps=50&live=1&frames=20", clock):
        indices.append(frame.index)
        clock.sleep(0.1)
    assert indices[-1] < 20
    assert len(indices) < 20


def test_fail_raises_after_the_frames_before_it() -> None:
    got = []
    with pytest.raises(SourceError, match="it fails at frame 3"):
        got.extend(frame.index for frame in opened("size=64x48&fail=3"))
    assert got == [0, 1, 2]


def test_hang_is_deaf_to_interrupt() -> None:
    class Impatient(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            source.interrupt()

    clock = Impatient()
    source = opened("size=64x48&hang=2", clock)
    frames = iter(source)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(SourceError, match="it hung"):
        next(frames)
    assert clock.time >= 3600


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("colour=red", "unknown setting 'colour'.*there are size, fps, frames"),
        ("size=12", "WIDTHxHEIGHT"),
        ("size=8x8", "sizes are 48x32 to"),
        ("size=999999x720", "to 32768x32768"),
        ("fps=0", "above 0"),
        ("fps=1/0", "fps=1/0"),
        ("fps=fast", "fps=fast"),
        ("frames=0", "1 or more"),
        ("frames=-3", "whole number"),
        ("jitter=-1", "0 to 60000"),
        ("jitter=nan", "0 to 60000"),
        ("live=yes", "0 or 1"),
        ("hang=", "whole number"),
    ],
)
def test_bad_settings_are_named(query: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_pattern(f"test://?{query}")


def test_settings_outside_a_query_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Write test://\?size="):
        open_source("test://1280x720")
