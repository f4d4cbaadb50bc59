"""Optical flow, cuts, carried scores, and the choice of keyframes."""

from __future__ import annotations

import numpy as np
import pytest
from test_temporal_smooth import wall

from rtseg.frame import Frame
from rtseg.sources.synthetic import Scene
from rtseg.temporal import keyframes
from rtseg.temporal.keyframes import KEY_SECONDS, Keyframes, Span, carry, interpolate
from rtseg.temporal.motion import Match, Motion, is_cut, small_grey


def shifted(image: np.ndarray, x: int, y: int) -> np.ndarray:
    return np.roll(image, (y, x), (0, 1))


def still(grey: np.ndarray) -> Match:
    return Match(grey, grey, np.zeros((*grey.shape, 2), np.float32))


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (1280, 720), (33, 49), (40, 4000)])
def test_the_small_picture_has_the_shape_of_the_large(size: tuple[int, int]) -> None:
    grey = small_grey(np.zeros((*size, 3), np.uint8))
    assert grey.ndim == 2
    assert min(grey.shape) >= 48
    if max(size) / min(size) < 3:
        assert grey.shape[1] / grey.shape[0] == pytest.approx(size[1] / size[0], rel=0.02)
        assert grey.size == pytest.approx(320 * 180, rel=0.02)
    Motion(grey).follow(grey)


def test_motion_says_where_a_pixel_was() -> None:
    first = small_grey(wall())
    motion = Motion(first)
    for step in range(1, 6):
        match = motion.follow(shifted(first, 4 * step, -2 * step))
    middle = match.field[60:120, 80:240].reshape(-1, 2)
    assert np.median(middle, axis=0) == pytest.approx([-20, 10], abs=0.5)
    assert match.lost < 0.3
    assert motion.follow(small_grey(255 - wall(5))).lost > 0.5


def test_another_exposure_is_no_misfit() -> None:
    grey = small_grey(wall())
    motion = Motion(grey)
    assert motion.follow(np.clip(grey.astype(int) + 12, 0, 255).astype(np.uint8)).lost < 0.02
    assert np.median(motion.match.misfit()) < 2


def test_a_cut_is_another_scene_and_not_motion_or_noise() -> None:
    first = small_grey(wall())
    noise = np.random.default_rng(0).integers(-6, 7, first.shape)
    assert not is_cut(first, first)
    assert not is_cut(first, shifted(first, 40, 20))
    assert not is_cut(first, np.clip(first + noise, 0, 255).astype(np.uint8))
    assert is_cut(first, np.full_like(first, 10))
    assert is_cut(first, first[:, :-1])


def test_carried_scores_come_from_where_the_flow_says() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 9, 16)).astype(np.float32)
    field = np.zeros((180, 320, 2), np.float32)
    assert (carry(scores, field) == scores).all()
    field[..., 0], field[..., 1] = 20, -40  # pixels: one cell right, two cells up
    carried = carry(scores, field)
    assert carried[:, 2:, :-1] == pytest.approx(scores[:, :-2, 1:], abs=1e-5)
    assert carried[:, :2, -1] == pytest.approx(scores[:, :1, -1].repeat(2, 1), abs=1e-5)


def test_between_two_keyframes_the_nearer_counts_more_and_the_one_that_fits() -> None:
    grey = small_grey(wall())
    before, after = (np.full((1, 9, 16), value, np.float32) for value in (0, 1))
    assert interpolate(before, after, still(grey), still(grey), 0.25) == pytest.approx(0.25)
    hidden = grey.copy()
    hidden[:, :160] = 255 - grey[:, :160]
    first = Match(grey, hidden, np.zeros((*grey.shape, 2), np.float32))
    mixed = interpolate(before, after, first, still(grey), 0.25)
    assert mixed[:, :, :6].min() > 0.9
    assert mixed[:, :, 10:] == pytest.approx(0.25, abs=0.01)


def spans_of(frames: list[Frame], every: int | None = None) -> list[Span]:
    finder = Keyframes(every)
    found = [span for frame in frames if (span := finder.add(frame))]
    last = finder.flush()
    return [*found, last] if last else found


def clip(count: int, rate: float = 30, seed: int = 0, first: int = 0) -> list[Frame]:
    scene = Scene(320, 180, seed)
    return [
        Frame(scene.image_of(first + i), first + i, (first + i) / rate, 0.0) for i in range(count)
    ]


def test_keyframes_come_every_so_often_and_the_last_frame_is_one() -> None:
    spans = spans_of(clip(25), every=10)
    assert [span.key.index for span in spans] == [0, 10, 20, 24]
    assert [span.cause for span in spans] == ["first", "age", "age", "end"]
    assert [span.before for span in spans] == [0, 0, 10, 20]
    assert [len(span.steps) for span in spans] == [0, 9, 9, 3]


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_of_themselves_they_go_by_the_time_of_the_recording(rate: float) -> None:
    spans = spans_of(clip(100, rate))
    aged = [span.key.index for span in spans if span.cause == "age"]
    assert aged[0] == KEY_SECONDS * rate


def test_a_cut_and_a_picture_that_is_not_found_again_are_keyframes() -> None:
    dark = [Frame(np.full((180, 320, 3), 5, np.uint8), i, i / 30, 0.0) for i in range(8, 12)]
    assert [(s.key.index, s.cause) for s in spans_of([*clip(8), *dark], 30)] == [
        (0, "first"),
        (8, "cut"),
        (11, "end"),
    ]
    scene = clip(16)
    turned = [Frame(255 - frame.image, 8 + frame.index, 0.3, 0.0) for frame in scene[8:]]
    assert [span.cause for span in spans_of([*scene[:8], *turned])] == ["first", "cut", "end"]
    rush = [Frame(shifted(wall(), 12 * i, 0), i, i / 30, 0.0) for i in range(29)]
    assert {span.cause for span in spans_of(rush, 30)} == {"first", "motion", "end"}


def test_few_large_pictures_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyframes, "SPAN_BYTES", 5 * 320 * 180 * 3)
    spans = spans_of(clip(13), every=10)
    assert [(span.key.index, span.cause) for span in spans] == [
        (0, "first"),
        (6, "memory"),
        (12, "memory"),
    ]


def test_a_single_frame_is_a_keyframe_and_no_frame_none() -> None:
    assert [span.cause for span in spans_of(clip(1))] == ["first"]
    assert spans_of([]) == []
