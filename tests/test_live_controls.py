"""The actions of a live run, called without a window."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
import pytest
from live_controls import LIVE, one_frame, stub, studio
from PIL import Image as PaletteImage

from rtseg import files
from rtseg.contracts import Rendered
from rtseg.effects import VIEWS, ViewOptions
from rtseg.errors import ModelError, UsageError
from rtseg.matte.refine import Refined
from rtseg.segmenter import Segmenter
from rtseg.session import recording as screenshot
from rtseg.session.controls import LiveEffect, alone, open_controls
from rtseg.session.engine import Channel
from rtseg.session.keys import KEYS
from rtseg.session.recording import MAX_PENDING, BackgroundWorker
from rtseg.session.state import NOTICE_SECONDS, Appearance
from rtseg.sinks.video import VideoSink
from rtseg.sources import open_source
from rtseg.stats import ManualClock

STEM = "rtseg-20260304-050607"


def test_tab_goes_through_every_view_and_comes_back(tmp_path: Path) -> None:
    controls = one_frame(tmp_path).desk
    seen = []
    for _ in VIEWS:
        controls.press("\t")
        seen.append(controls.state.view.view)
    assert sorted(seen) == sorted(VIEWS)
    assert seen[-1] == "overlay"


def test_c_puts_contours_on_and_goes_back_to_what_was_there(tmp_path: Path) -> None:
    controls = one_frame(tmp_path, view=ViewOptions("mask")).desk
    controls.press("c")
    assert controls.state.view.view == "contours"
    controls.press("c")
    assert controls.state.view.view == "mask"


def test_opacity_moves_in_steps_and_stays_within_its_range(tmp_path: Path) -> None:
    controls = one_frame(tmp_path).desk
    controls.press("+")
    assert controls.state.view.alpha == pytest.approx(0.5)
    for _ in range(20):
        controls.press("+")
    assert controls.state.view.alpha == 1.0
    for _ in range(20):
        controls.press("-")
    assert controls.state.view.alpha == 0.0


def test_legend_hud_help_and_full_screen_go_on_and_off(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    controls = made.desk
    for key, read in (
        ("l", lambda: controls.state.view.legend),
        ("h", lambda: controls.state.help),
        ("F11", lambda: made.wall.full),
    ):
        assert [read(), controls.press(key), read(), controls.press(key), read()] == [
            False, None, True, None, False,
        ], key  # fmt: skip


def test_f_goes_from_one_line_of_figures_to_all_to_none(tmp_path: Path) -> None:
    controls = one_frame(tmp_path, hud="line").desk
    seen = [controls.state.hud, *(controls.press("f") or controls.state.hud for _ in range(3))]
    assert seen == ["line", "all", "none", "line"]


def test_e_refines_edges_from_the_next_frame_on_and_in_what_is_saved(tmp_path: Path) -> None:
    made = studio(tmp_path)
    switch = made.desk.segmenter
    made.wall.script = {
        5: lambda desk: desk.press("e"),
        20: lambda desk: desk.press("e"),
    }
    made.run()
    kinds = [isinstance(rendered.segmentation, Refined) for rendered in made.wall.shown]
    assert not any(kinds[:5])
    assert any(kinds[5:20])
    assert not kinds[-1]
    assert not switch.refine
    assert [text for _, text in made.told] == []


def test_e_draws_a_picture_that_stands_anew(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    controls, (shown,) = made.desk, made.wall.shown
    effect = made.desk.effects[0]
    exact = effect(shown.frame, shown.segmentation)
    controls.press("e")
    assert controls.state.appearance.refine
    refined = effect(shown.frame, shown.segmentation)
    assert not np.array_equal(refined, exact)
    saved: list[Rendered] = []
    controls.captures.screenshot = lambda rendered, view: saved.append(rendered)
    controls.last = shown  # as the window gives it, when it draws anew
    controls.press("s")
    assert isinstance(saved[0].segmentation, Refined)
    assert np.array_equal(saved[0].image, refined)
    controls.press("e")
    controls.press("s")
    assert not isinstance(saved[1].segmentation, Refined)
    assert np.array_equal(effect(shown.frame, shown.segmentation), exact)


def test_a_run_that_refines_begins_so(tmp_path: Path) -> None:
    segmenter = stub()
    segmenter.refine = True
    source = open_source("test://?size=320x240&frames=1")
    desk = open_controls(ViewOptions(), [Channel(source)], segmenter, source.info, folder=tmp_path)
    assert desk.state.appearance.refine
    assert desk.segmenter.refine
    desk.press("e")
    assert not desk.segmenter.refine


def test_figures_that_were_asked_for_in_the_picture_are_switched_there(tmp_path: Path) -> None:
    controls = one_frame(tmp_path, view=ViewOptions(hud=True), hud="line").desk
    assert controls.state.hud == "none", "not twice"
    controls.press("f")
    assert not controls.state.view.hud
    assert controls.state.hud == "none"


def test_a_background_takes_the_overlays_colours_away_and_none_brings_them_back(
    tmp_path: Path,
) -> None:
    controls = one_frame(tmp_path).desk
    assert controls.state.view.view == "overlay"
    controls.next_background()
    assert controls.state.view.background != "none"
    assert controls.state.view.view == "cutout"
    while controls.state.view.background != "none":
        controls.next_background()
    assert controls.state.view.view == "overlay"


def test_a_view_that_was_chosen_stays_under_every_background(tmp_path: Path) -> None:
    controls = one_frame(tmp_path, view=ViewOptions("contours")).desk
    for _ in range(3):
        controls.next_background()
        assert controls.state.view.view == "contours"


def test_b_goes_through_the_backgrounds_and_the_one_that_was_asked_for(tmp_path: Path) -> None:
    controls = one_frame(tmp_path, view=ViewOptions(background="#123456")).desk
    seen = []
    for _ in range(4):
        controls.press("b")
        seen.append(controls.state.view.background)
    assert seen == ["none", "blur", "#00b140", "#123456"]


def test_every_choice_is_seen_in_the_next_picture(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    controls, last = made.desk, made.wall.shown[-1]
    before = last.image
    for key in ("+", "l", "1", "b", "c", "\t"):
        controls.press(key)
        now = replace(last).image
        assert not np.array_equal(now, before), key
        before = now


def test_the_numbers_show_one_class_alone(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    controls, rendered = made.desk, made.wall.shown[-1]
    names = rendered.segmentation.labels.names
    controls.press("2")
    assert controls.state.appearance.solo == names[2]
    drawn = alone(rendered.segmentation, names[2])
    assert set(np.unique(drawn.mask)) <= {0, 2}
    assert np.array_equal(drawn.mask == 2, rendered.segmentation.mask == 2)
    controls.press("2")
    assert controls.state.appearance.solo is None
    assert np.array_equal(replace(rendered).image, rendered.image)


def test_a_number_beyond_the_classes_is_told(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    made.desk.segmenter.target.selected = frozenset({0, 2})
    made.desk.press("1")
    assert made.desk.state.appearance.solo == made.desk.segmenter.labels.names[2]
    made.desk.press("5")
    assert "there is no class 5" in made.desk.notices.text


def test_an_unknown_key_names_the_help_and_changes_nothing(tmp_path: Path) -> None:
    controls = one_frame(tmp_path).desk
    before = controls.state
    for key in ("x", "other", "\x07"):
        controls.press(key)
        assert "press h for the keys" in controls.notices.text
    assert controls.state == before


def test_a_notice_vanishes(tmp_path: Path) -> None:
    clock = ManualClock()
    controls = one_frame(tmp_path, clock).desk
    controls.press("x")
    assert controls.notices.text
    clock.time += NOTICE_SECONDS + 0.1
    assert controls.notices.text == ""


def test_quit_ends_the_run(tmp_path: Path) -> None:
    made = studio(tmp_path, LIVE)
    made.wall.script = {3: lambda desk: desk.press("q")}
    assert made.run().frames == 3
    assert made.desk.ended


def test_a_screenshot_is_three_files_and_replaces_none(tmp_path: Path) -> None:
    made = one_frame(tmp_path / "shots")
    controls, rendered = made.desk, made.wall.shown[-1]
    controls.press("s")
    made.desk.captures.recorder.close()
    folder = tmp_path / "shots"
    names = {f"{STEM}.png", f"{STEM}-mask.png", f"{STEM}-overlay.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert np.array_equal(cv2.imread(str(folder / f"{STEM}.png")), rendered.frame.image)
    assert np.array_equal(cv2.imread(str(folder / f"{STEM}-overlay.png")), rendered.image)
    mask = PaletteImage.open(folder / f"{STEM}-mask.png")
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), rendered.segmentation.mask)
    assert f"wrote {folder}" in controls.notices.text
    assert [heading for heading, _ in made.told] == ["wrote"]
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    controls.press("\t")
    controls.press("s")
    made.desk.captures.recorder.close()
    assert len(list(folder.iterdir())) == 6
    assert all((folder / name).read_bytes() == content for name, content in kept.items())


def test_a_screenshot_that_cannot_be_written_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    made = one_frame(tmp_path / "no" / "such")
    made.desk.press("s")
    made.desk.captures.recorder.close()
    assert made.told[0][0] == "warning"
    assert "--screenshots" in made.told[0][1]
    assert made.desk.notices.text.startswith("!")


def test_pausing_a_file_loses_no_frame(tmp_path: Path) -> None:
    made = studio(tmp_path)
    idles: list[int] = []

    def wait(desk: object) -> None:
        idles.append(made.wall.numbers[-1])
        if len(idles) == 20:
            made.desk.press(" ")

    made.wall.script = {5: lambda desk: desk.press(" ")}
    made.wall.on_idle = lambda desk: wait(desk) if desk.state.paused else None
    report = made.run()
    assert set(idles) == {4}, "nothing was shown while it was paused"
    assert made.wall.numbers == list(range(40))
    assert report.dropped == 0
    assert report.stages_ms["wait"]["max"] >= 150


def test_a_step_shows_one_frame_and_pauses(tmp_path: Path) -> None:
    made = studio(tmp_path)
    seen: list[int] = []

    def step(desk) -> None:
        seen.append(len(made.wall.shown))
        desk.press("." if len(seen) < 4 else " ")

    made.wall.script = {5: lambda desk: desk.press(".")}
    made.wall.on_idle = lambda desk: step(desk) if desk.rests() else None
    made.run()
    assert seen == [6, 7, 8, 9]
    assert made.wall.numbers == list(range(40))


def test_going_on_with_a_camera_shows_what_is_newest_then(tmp_path: Path) -> None:
    made = studio(tmp_path, LIVE)
    clock, since = made.source.clock, []

    def wait(desk) -> None:
        since.append(clock.now())
        if since[-1] - since[0] > 0.4:
            desk.press(" ")

    made.wall.script = {5: lambda desk: desk.press(" ")}
    made.wall.on_idle = lambda desk: wait(desk) if desk.state.paused else None
    report = made.run(stop=lambda: len(made.wall.shown) >= 12)
    after = made.wall.shown[5].frame
    assert after.captured_at > since[-1] - 0.1, "taken about when it went on, not when it paused"
    assert after.index - made.wall.numbers[4] > 20
    assert report.dropped_by["pause"] > 20
    assert report.frames + report.dropped == report.produced
    assert report.age_ms["max"] < 300


@pytest.mark.parametrize("paced", [False, True])
def test_a_pause_on_the_last_frame_lasts_until_it_is_ended(paced: bool, tmp_path: Path) -> None:
    made = studio(tmp_path, "test://?size=320x240&fps=50&frames=3")
    rests: list[bool] = []

    def idle(desk) -> None:
        if len(made.wall.shown) == 3:
            rests.append(desk.rests())
            if len(rests) == 10:
                desk.press(".")
            elif len(rests) == 20:
                desk.press("q")

    made.wall.on_idle = idle
    made.wall.script = {3: lambda desk: desk.press(" ")}
    made.run(paced=paced, stop=lambda: made.desk.ended)
    assert rests[:10] + rests[11:] == [True] * 19
    assert made.wall.numbers == [0, 1, 2]


def test_a_pause_holds_the_image_although_the_next_is_due_and_a_step_shows_it(
    tmp_path: Path,
) -> None:
    made = studio(tmp_path, "test://?size=320x240&fps=5&frames=4")
    rests: list[int] = []

    def idle(desk) -> None:
        if desk.rests():
            rests.append(len(made.wall.shown))
            if len(rests) in (40, 45):
                desk.press("." if len(rests) == 40 else " ")
        elif len(made.wall.shown) == 1 and not rests:
            desk.press(" ")

    made.wall.on_idle = idle
    made.run(paced=True)
    assert rests == [1] * 40 + [2] * 5
    assert made.wall.numbers == [0, 1, 2, 3]


def test_what_was_drawn_before_a_choice_is_drawn_again(tmp_path: Path) -> None:
    """A frame of a paced file is drawn ahead of its time, and a key may come in between."""
    made = studio(tmp_path, "test://?size=320x240&fps=5&frames=3")
    pressed: list[str] = []

    def press(desk) -> None:
        if not pressed and len(made.wall.shown) == 1:
            pressed.append("\t")
            desk.press("\t")

    made.wall.on_idle = press
    made.run(paced=True)
    first, second, _ = made.wall.shown
    assert pressed
    mask = replace(second, effect=made.desk.effects[0]).image
    assert np.array_equal(second.image, mask), "in the view of its time"
    assert not np.array_equal(second.image, first.image)


def videos(folder: Path) -> list[Path]:
    return sorted(folder.glob("rtseg-*.mp4"))


def decoded(path: Path) -> tuple[list[float], list[np.ndarray], float]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        length = float(container.duration / av.time_base)
    return [float(f.time) for f in frames], [f.to_ndarray(format="gray") for f in frames], length


def test_a_recording_holds_the_frames_from_start_to_stop_at_their_times(tmp_path: Path) -> None:
    made = studio(tmp_path)
    toggle = lambda desk: desk.press("r")  # noqa: E731
    made.wall.script = {10: toggle, 25: toggle}
    made.run()
    (path,) = videos(tmp_path)
    assert path.name == f"{STEM}.mp4"
    times, pictures, length = decoded(path)
    # the window shows a frame before the recorder gets it: the tenth is the first
    expected = made.wall.shown[9:24]
    assert len(times) == len(expected)
    assert times == pytest.approx([i / 30 for i in range(15)], abs=1e-4)
    assert length == pytest.approx(0.5, abs=0.01)
    for rendered, picture in zip(expected, pictures, strict=True):
        grey = cv2.cvtColor(rendered.image, cv2.COLOR_BGR2GRAY).astype(int)
        limited = picture.astype(int)
        assert np.abs((limited - 16) * 255 / 219 - grey).mean() < 8
    assert ("wrote", f"15 frames to {path}") in made.told


def test_a_recording_that_runs_at_the_end_is_finished(tmp_path: Path) -> None:
    made = studio(tmp_path)
    made.wall.script = {31: lambda desk: desk.press("r")}
    made.run()
    (path,) = videos(tmp_path)
    assert len(decoded(path)[0]) == 10
    assert made.desk.captures.recorder.summary() == f"10 frames to {path}"
    assert list(tmp_path.iterdir()) == [path], "no part is left"


def test_two_recordings_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    made = studio(tmp_path)
    toggle = lambda desk: desk.press("r")  # noqa: E731
    made.wall.script = {5: toggle, 10: toggle, 20: toggle, 30: toggle}
    made.run()
    assert [path.name for path in videos(tmp_path)] == [f"{STEM}-2.mp4", f"{STEM}.mp4"]
    assert [len(decoded(path)[0]) for path in videos(tmp_path)] == [10, 5]


def test_no_frame_waits_for_a_recording_to_be_finished(tmp_path: Path, monkeypatch) -> None:
    made = studio(tmp_path)
    toggle = lambda desk: desk.press("r")  # noqa: E731
    close, may_end, by_then = VideoSink.close, threading.Event(), []

    def slow_close(self: VideoSink) -> None:
        assert may_end.wait(10)
        close(self)

    def let_it_end(desk) -> None:
        by_then.extend(made.told)
        may_end.set()

    monkeypatch.setattr(VideoSink, "close", slow_close)
    made.wall.script = {5: toggle, 10: toggle, 15: toggle, 20: toggle, 35: let_it_end}
    made.run()
    assert by_then == [], "frames 10 to 35 were shown while the first file was not finished"
    assert {path.name: len(decoded(path)[0]) for path in videos(tmp_path)} == {
        f"{STEM}.mp4": 5,
        f"{STEM}-2.mp4": 5,
    }, "the second has a name of its own, though the first is not there yet"
    assert [heading for heading, _ in made.told] == ["wrote", "wrote"]


def test_a_library_that_fails_aside_ends_no_later_work_and_is_heard_of() -> None:
    aside, done = BackgroundWorker(), []
    aside.begin(lambda: 1 / 0, done.append, done.append)
    aside.begin(lambda: "kept", done.append, done.append)
    aside.begin(lambda: done.append("worked"), lambda _: None, done.append)
    with pytest.raises(ZeroDivisionError):
        aside.finish()
    assert done == ["worked"], "what was asked for later was done, before the error came out"
    aside.finish()


def test_a_key_held_down_does_not_fill_the_memory(tmp_path: Path, monkeypatch) -> None:
    made, may_write = one_frame(tmp_path), threading.Event()
    encode = screenshot.encode

    def slow(*given: object) -> bytes:
        assert may_write.wait(10)
        return encode(*given)

    monkeypatch.setattr(screenshot, "encode", slow)
    for _ in range(MAX_PENDING + 5):
        made.desk.press("s")
    assert "still being written" in made.desk.notices.text
    may_write.set()
    made.desk.captures.recorder.close()
    assert len(list(tmp_path.iterdir())) == 3 * MAX_PENDING


def test_a_recording_of_a_camera_lasts_as_long_as_the_world_pauses_included(tmp_path: Path) -> None:
    made = studio(tmp_path, LIVE)
    clock, paused = made.source.clock, []

    def wait(desk) -> None:
        paused.append(clock.now())
        if paused[-1] - paused[0] > 0.5:
            desk.press(" ")

    made.wall.script = {
        3: lambda desk: desk.press("r"),
        10: lambda desk: desk.press(" "),
        30: lambda desk: desk.press("q"),
    }
    made.wall.on_idle = lambda desk: wait(desk) if desk.state.paused else None
    made.run()
    times, _, length = decoded(videos(tmp_path)[0])
    taken = [rendered.frame.captured_at for rendered in made.wall.shown[2:]]
    assert times == pytest.approx([t - taken[0] for t in taken], abs=2e-3)
    assert length == pytest.approx(taken[-1] - taken[0], abs=0.1)


def test_an_error_ends_the_recording_and_not_the_run(tmp_path: Path, monkeypatch) -> None:
    made = studio(tmp_path)
    calls = []

    def fail(self: object, needed: int = 0) -> None:
        calls.append(1)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.OutputFile, "check_space", fail)
    made.wall.script = {5: lambda desk: desk.press("r")}
    assert made.run().frames == 40
    assert not made.desk.captures.recorder.recording
    assert "the recording has ended" in made.told[-1][1]
    assert len(decoded(videos(tmp_path)[0])[0]) == 4, "what was recorded is kept"


def test_a_transparent_background_is_recorded_as_such(tmp_path: Path) -> None:
    made = studio(tmp_path, view=ViewOptions("cutout", background="transparent"))
    toggle = lambda desk: desk.press("r")  # noqa: E731
    made.wall.script = {5: toggle, 10: toggle}
    made.run()
    (path,) = tmp_path.glob("*.mov")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert frames[0][..., 3].min() < 10
    assert frames[0][..., 3].max() > 245


def test_nothing_recorded_leaves_nothing(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    made.desk.press("r")
    made.desk.press("r")
    assert list(tmp_path.iterdir()) == []
    assert "nothing was recorded" in made.desk.notices.text


def loading(*names: str, fail: Exception | None = None):
    def load(name: str) -> Segmenter:
        if fail is not None:
            raise fail
        made = stub("stub?delay=1ms")
        made.labels = replace(made.labels, names=tuple(f"{name}-{n}" for n in made.labels.names))
        return made

    return {"names": names, "load": load}


def test_m_swaps_the_network_between_two_frames_and_loses_none(tmp_path: Path) -> None:
    made = studio(tmp_path, "test://?size=320x240&fps=200&frames=400", **loading("a", "b", "c"))
    made.wall.script = {10: lambda desk: desk.press("m")}
    report = made.run(paced=True)
    assert report.frames == 400
    kinds = [r.segmentation.labels.names[1].startswith("b-") for r in made.wall.shown]
    assert not kinds[10]
    assert kinds[-1]
    assert kinds == sorted(kinds), "one swap, in one place"
    assert made.desk.state.appearance.model == "b"
    assert made.desk.segmenter.spec.labels.names[1].startswith("b-")


@pytest.mark.parametrize(
    "error", [ModelError("weights of b are gone"), RuntimeError("weights of b are gone")]
)
def test_a_network_that_fails_leaves_the_old_one_and_says_why(
    error: Exception, tmp_path: Path
) -> None:
    made = studio(
        tmp_path, "test://?size=320x240&fps=200&frames=100", **loading("a", "b", fail=error)
    )
    made.wall.script = {10: lambda desk: desk.press("m")}
    assert made.run(paced=True).frames == 100
    ((heading, text),) = made.told
    assert heading == "warning"
    assert "weights of b are gone" in text
    assert "stub stays" in text
    assert made.desk.models.loading is None


def test_m_tells_when_there_is_no_other_or_one_is_on_its_way(tmp_path: Path) -> None:
    controls = one_frame(tmp_path).desk
    controls.press("m")
    assert "--models" in controls.notices.text
    controls = one_frame(tmp_path, **loading("a", "b")).desk
    controls.press("m")
    controls.press("m")
    assert "b is still being loaded" in controls.notices.text
    assert controls.close()


def test_a_network_with_other_classes_is_refused_where_indices_are_written(tmp_path: Path) -> None:
    made = studio(
        tmp_path, "test://?size=320x240&fps=200&frames=100", same_labels=True, **loading("a", "b")
    )
    made.wall.script = {10: lambda desk: desk.press("m")}
    made.run(paced=True)
    assert "other classes" in made.told[0][1]
    assert made.desk.segmenter.labels.names == stub().labels.names


def test_a_picture_that_stands_still_is_segmented_by_the_new_network(tmp_path: Path) -> None:
    made = one_frame(tmp_path, **loading("a", "b"))
    controls = made.desk
    controls.press("m")
    while controls.models.loading:
        made.source.clock.sleep(0.01)
        controls.turn()
    assert controls.close()
    assert len(made.wall.shown) == 2
    assert made.wall.shown[1].frame is made.wall.shown[0].frame
    assert made.wall.shown[1].segmentation.labels.names[1].startswith("b-")


def at(rendered: Rendered, number: int) -> tuple[float, float]:
    """A point of the overlay where the mask has a class, away from its edge."""
    inside = cv2.erode((rendered.segmentation.mask == number).astype(np.uint8), np.ones((9, 9)))
    row, column = np.argwhere(inside)[0]
    height, width = rendered.frame.size
    return (column + 0.5) / width, (row + 0.5) / height


def test_the_pointer_names_the_class_of_the_frame_that_is_shown(tmp_path: Path) -> None:
    clock = ManualClock()
    made = one_frame(tmp_path, clock)
    controls, rendered = made.desk, made.wall.shown[-1]
    segmentation = rendered.segmentation
    number = int(np.unique(segmentation.mask)[-1])
    x, y = point = at(rendered, number)
    controls.point(point)
    where, found = controls.pointed()
    assert where == point
    assert (found.number, found.name) == (number, segmentation.labels.names[number])
    probability = segmentation.probability(number)[int(y * 240), int(x * 320)]
    assert found.probability == pytest.approx(float(probability), abs=1e-5)
    clock.time += 6
    assert controls.pointed() is None, "a pointer that rests for long is not asking"
    controls.point(None)
    assert controls.pointed() is None


def test_the_pointer_is_right_on_both_halves_of_the_side_view(tmp_path: Path) -> None:
    made = one_frame(tmp_path, view=ViewOptions("side"))
    controls, rendered = made.desk, made.wall.shown[-1]
    number = int(np.unique(rendered.segmentation.mask)[-1])
    x, y = at(rendered, number)
    for half in (x / 2, 0.5 + x / 2):
        controls.point((half, y))
        assert controls.pointed()[1].number == number
    assert np.array_equal(rendered.image[:, :320], rendered.frame.image)


def test_a_click_shows_a_class_alone_and_background_all(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    controls, rendered = made.desk, made.wall.shown[-1]
    number = int(np.unique(rendered.segmentation.mask)[-1])
    name = rendered.segmentation.labels.names[number]
    controls.click(at(rendered, number))
    assert controls.state.appearance.solo == name
    controls.click(at(rendered, 0))
    assert controls.state.appearance.solo is None
    controls.click(at(rendered, number))
    controls.click(at(rendered, number))
    assert controls.state.appearance.solo is None


def test_a_background_that_cannot_be_drawn_is_told_and_the_last_look_stays(
    tmp_path: Path,
) -> None:
    made = one_frame(tmp_path)
    controls, rendered = made.desk, made.wall.shown[-1]
    before = controls.state.appearance
    (tmp_path / "absent.png").write_text("no picture")
    controls.state = controls.state.viewed(background=str(tmp_path / "absent.png"))
    assert np.array_equal(replace(rendered).image, rendered.image)
    assert controls.state.appearance == before
    assert "absent.png" in made.told[0][1]


def test_a_view_that_fails_while_it_runs_gives_way_to_the_overlay(tmp_path: Path) -> None:
    made = one_frame(tmp_path)
    rendered = made.wall.shown[-1]
    looks, refused = [Appearance(ViewOptions(background="blur"))], []
    broken: list[bool] = []

    def view(frame, segmentation):
        if broken:
            raise UsageError("the video behind cannot be read any more")
        return frame.image

    def open_view(options, labels, network):
        return (
            view if options.background == "blur" else lambda frame, segmentation: frame.image // 2
        )

    def refuse(error, instead) -> None:
        refused.append(str(error))
        looks.append(instead)

    effect = LiveEffect(lambda: looks[-1], open_view, refuse)
    assert effect(rendered.frame, rendered.segmentation) is rendered.frame.image
    broken.append(True)
    image = effect(rendered.frame, rendered.segmentation)
    assert np.array_equal(image, rendered.frame.image // 2)
    assert effect.drawn == looks[-1] == Appearance(ViewOptions())
    assert refused == ["the video behind cannot be read any more"]


def test_a_background_whose_file_has_gone_is_told_by_the_next_key(tmp_path: Path) -> None:
    path = tmp_path / "behind.png"
    cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    made = one_frame(tmp_path, view=ViewOptions(background=str(path)))
    path.unlink()
    made.desk.press("l")
    assert made.told[0][0] == "warning"
    assert "behind.png" in made.told[0][1]


def test_every_key_does_without_a_frame_too(tmp_path: Path) -> None:
    made = studio(tmp_path)
    controls = made.desk
    for key in KEYS:
        for name in key.names:
            controls.press(name)
    controls.click((0.5, 0.5))
    controls.point((0.5, 0.5))
    assert controls.pointed() is None
    assert controls.close()
    made.desk.captures.recorder.close()
    assert [heading for heading, _ in made.told if heading == "warning"] == []
