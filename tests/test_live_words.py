"""What is written over the window: captions in plain words, notices, labels; and when it is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_controls import Studio, one_frame, studio

from rtseg.contracts import Source, SourceInfo
from rtseg.session import overlay
from rtseg.session.engine import Channel
from rtseg.session.overlay import Captions, Overlay, write_label
from rtseg.session.pointer import PointedClass, pixel_at
from rtseg.session.state import NOTICE_SECONDS
from rtseg.stats import ManualClock, Stats


class Camera(Source):
    def __init__(self, live: bool = True) -> None:
        super().__init__(ManualClock())
        self.info = SourceInfo("camera", 64, 48, live=live)

    def _read(self) -> None:
        return None


def running(**recent: float) -> Stats:
    stats = Stats(ManualClock(10.0))
    stats.recent.update(recent)
    return stats


def test_a_late_picture_names_what_it_waited_for() -> None:
    lines = Captions(Camera(), running(age=0.3, infer=0.18, draw=0.02)).lines()
    assert lines == ["late by 300 ms: the model takes 180 ms"]
    lines = Captions(Camera(), running(age=0.3, infer=0.03, draw=0.12)).lines()
    assert lines == ["late by 300 ms: drawing takes 120 ms"]


def test_what_is_in_time_needs_no_words_and_a_file_has_no_age() -> None:
    assert Captions(Camera(), running(age=0.05, infer=0.03)).lines() == []
    assert Captions(Camera(live=False), running(age=3.0, infer=0.3)).lines() == []


def test_drops_are_told_while_they_happen_with_their_reason() -> None:
    stats = running(age=0.05)
    captions = Captions(Camera(), stats)
    assert captions.lines() == []
    stats.dropped_by = {"capture": 100, "camera": 3}
    stats.clock.time += 2.5  # type: ignore[attr-defined]
    (line,) = captions.lines()
    assert line.startswith("40 frames per second dropped: the model manages")
    stats.clock.time += 20.0  # type: ignore[attr-defined]
    stats.dropped_by = {"capture": 100, "camera": 103}
    assert captions.lines() == ["5 frames per second dropped: the camera skips them"], "f was off"
    stats.clock.time += 2.5  # type: ignore[attr-defined]
    assert captions.lines() == [], "they have stopped"
    stats.dropped_by = {"capture": 100, "camera": 13, "pause": 500}
    stats.clock.time += 2.5  # type: ignore[attr-defined]
    assert captions.lines() == [], "a person who paused knows"


def test_drops_by_a_slow_model_are_explained_beside_more_that_were_asked_for() -> None:
    stats = running(age=0.05, infer=0.1)
    captions = Captions(Camera(), stats)
    assert captions.lines() == []
    stats.dropped_by = {"cap": 90, "capture": 45}
    stats.clock.time += 2.5  # type: ignore[attr-defined]
    (line,) = captions.lines()
    assert line.startswith("18 frames per second dropped: the model manages")


def test_a_model_that_no_frame_waits_for_is_not_to_blame() -> None:
    stats = running(age=0.3, infer=2.0, carry=0.12, draw=0.03)
    stats.keyframes = {"free": 4}
    assert Captions(Camera(), stats).lines() == [
        "late by 300 ms: propagating the mask takes 120 ms"
    ]


def test_drops_that_a_slow_view_causes_are_not_blamed_on_the_model() -> None:
    stats = running(age=0.05, infer=0.001, draw=0.12)
    captions = Captions(Camera(), stats)
    assert captions.lines() == []
    stats.dropped_by = {"capture": 45}
    stats.clock.time += 2.5  # type: ignore[attr-defined]
    assert captions.lines() == ["18 frames per second dropped: drawing takes 120 ms"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def made(tmp_path: Path, clock: ManualClock) -> Studio:
    return one_frame(tmp_path, clock)


def covered(made: Studio) -> Overlay:
    return Overlay(made.desk, Channel(made.source, stats=made.stats))


def written(over: Overlay, made: Studio) -> np.ndarray:
    """(H, W) bool: what lies over the picture."""
    rendered = replace(made.wall.shown[-1])
    image = rendered.image.copy()
    over.write(image, rendered)
    return (image != rendered.image).any(2)


def test_nothing_to_say_leaves_the_picture_alone(made: Studio) -> None:
    assert not written(covered(made), made).any()


def test_words_are_stale_when_they_change_and_when_their_time_is_over(
    made: Studio, clock: ManualClock
) -> None:
    over, controls = covered(made), made.desk
    written(over, made)
    assert over.stale() == ""
    for key in ("x", "h", "f", " "):
        controls.press(key)
        assert over.stale() == "overlay", key
        assert written(over, made).any()
        assert over.stale() == "", key
    clock.time += NOTICE_SECONDS + 0.1
    assert over.stale() == "overlay", "a notice is over"


def test_a_choice_makes_the_picture_stale_until_it_is_drawn(made: Studio) -> None:
    over, controls = covered(made), made.desk
    for key in ("\t", "+", "l", "1", "b"):
        controls.press(key)
        assert over.stale() == "image", key
        written(over, made)
        assert over.stale() == "", key


def test_paused_recording_and_solo_are_said_for_as_long_as_they_last(made: Studio) -> None:
    controls = made.desk
    assert overlay.status(controls) == []
    for key in (" ", "r", "1"):
        controls.press(key)
    name = made.desk.segmenter.labels.names[1]
    paused, recording, only = overlay.status(controls)
    assert paused == overlay.PAUSED
    assert recording == "!recording 0:00"
    assert only == f"only {name}"


def test_the_pointer_is_labelled_beside_it_in_every_corner() -> None:
    for at in ((0.02, 0.02), (0.98, 0.02), (0.02, 0.98), (0.98, 0.98), (0.5, 0.5)):
        image = np.full((480, 640, 3), 128, np.uint8)
        write_label(image, at, PointedClass("person", 1, 0.97))
        rows, columns = np.nonzero((image != 128).any(2))
        assert rows.size, at
        assert np.hypot(rows - at[1] * 480, columns - at[0] * 640).min() < 25, at


def test_a_point_of_the_picture_is_a_pixel_of_the_frame() -> None:
    frame = (480, 640)
    assert pixel_at((0.5, 0.25), frame, frame) == (320, 120)
    assert pixel_at((0.25, 0.25), (480, 1280), frame) == (320, 120)
    assert pixel_at((0.75, 0.25), (480, 1280), frame) == (320, 120)
    assert pixel_at((0.999999, 0.999999), frame, frame) == (639, 479)


def test_the_first_words_name_the_help(tmp_path: Path) -> None:
    from rtseg.sinks.window import WindowEvents, WindowSink

    made = studio(tmp_path)
    window = WindowSink.__new__(WindowSink)  # no display is needed to be told of keys
    Overlay(made.desk, Channel(made.source)).attach(window)
    assert made.desk.notices.text == "h: keys"
    assert isinstance(window.events, WindowEvents)
    window.events.key("h")
    assert made.desk.state.help
