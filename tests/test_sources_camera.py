"""Cameras, by a scripted device: order of settings, asked and got, absence, outages."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import cv2
import pytest
from fakes import FakeDevice, Plugged

from rtseg.clock import ManualClock
from rtseg.errors import SourceError
from rtseg.sources import SourceOptions, camera, open_source


def plug(monkeypatch: pytest.MonkeyPatch, *plugs: Plugged | None) -> FakeDevice:
    device = FakeDevice(list(plugs))
    monkeypatch.setattr(cv2, "VideoCapture", device)
    return device


class TickingClock(ManualClock):
    """Every look at it takes a hundredth of a second."""

    def now(self) -> float:
        self.time += 0.01
        return self.time


def test_settings_go_in_the_order_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    device = plug(monkeypatch, Plugged())
    options = SourceOptions(width=1280, height=720, fps=60, fourcc="MJPG")
    with open_source(0, options) as source:
        assert (source.info.width, source.info.height) == (1280, 720)
        assert source.info.frame_rate == Fraction(60)
        assert source.info.live
        assert source.info.frame_count is None
    assert device.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 60),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
    assert device.released == 1


def test_what_came_is_told_beside_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, Plugged(takes=False, fps=25))
    with open_source("0", SourceOptions(width=1280, height=720, fps=60, fourcc="MJPG")) as source:
        assert source.info.notes == ("asked 1280x720 at 60 fps MJPG, got 640x480 at 25 fps YUYV",)
        assert (source.info.width, source.info.height) == (640, 480)


def test_a_mute_driver_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, Plugged(fps=0.0))
    with open_source(0) as source:
        assert source.info.frame_rate is None
        assert source.info.notes == ("got 640x480 YUYV",)


def test_an_index_and_a_device_path_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    device = plug(monkeypatch, Plugged(), Plugged())
    open_source("2").close()
    open_source("/dev/video2").close()
    assert [call[0] for call in device.opened] == [2, "/dev/video2"]


def test_frames_carry_the_time_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, Plugged())
    clock = ManualClock(100.0)
    with open_source(0, clock=clock) as source:
        frames = iter(source)
        first = next(frames)
        clock.sleep(0.25)
        second = next(frames)
    assert (first.index, first.pts, first.captured_at) == (0, 0.0, 100.0)
    assert (second.index, second.pts, second.captured_at) == (1, 0.25, 100.25)
    assert not first.image.flags.writeable


linux_only = pytest.mark.skipif(camera.BACKEND != cv2.CAP_V4L2, reason="device files of Linux")


@linux_only
def test_an_absent_camera_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug(monkeypatch)
    monkeypatch.setattr(camera, "device_path", lambda target: tmp_path / f"video{target}")
    with pytest.raises(SourceError, match=r"cannot open camera 7: there is no .*video7\. Plug"):
        open_source(7)


@linux_only
def test_a_camera_without_permission_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug(monkeypatch)
    (tmp_path / "video0").touch()
    monkeypatch.setattr(camera, "device_path", lambda target: tmp_path / "video0")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match=r"no permission for .*video0\. Join its group"):
        open_source(0)


@linux_only
def test_a_camera_in_use_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug(monkeypatch)
    (tmp_path / "video0").touch()
    monkeypatch.setattr(camera, "device_path", lambda target: tmp_path / "video0")
    with pytest.raises(SourceError, match="in use by another program"):
        open_source(0)


def test_a_driver_that_throws_is_a_camera_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def throw(*args: object) -> None:
        raise cv2.error("backend fell over")

    monkeypatch.setattr(cv2, "VideoCapture", throw)
    with pytest.raises(SourceError, match="cannot open camera 0"):
        open_source(0)


def test_a_camera_that_opens_but_shows_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    device = plug(monkeypatch, Plugged(frames=0))
    with pytest.raises(SourceError, match="it opened, but gave no picture"):
        open_source(0)
    assert device.released == 1


def test_unplugged_and_back_at_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # One picture is read and left at opening: three of four are seen.
    device = plug(monkeypatch, Plugged(frames=4), None, None, Plugged(size=(320, 240)))
    clock = ManualClock()
    with open_source(0, clock=clock) as source:
        frames = iter(source)
        before = [next(frames) for _ in range(3)]
        assert source.outages == 0
        after = next(frames)
        assert source.outages == 1
        assert source.notice is None
        assert (source.info.width, source.info.height) == (320, 240)
    assert [f.size for f in before] == [(480, 640)] * 3
    assert after.size == (240, 320)
    assert after.index == 3
    assert clock.time == pytest.approx(0.5 + 1.0 + 2.0)  # three tries, each wait twice the last
    assert after.pts == pytest.approx(3.5)
    assert len(device.opened) == 4


def test_settings_are_asked_again_of_a_camera_that_came_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = plug(monkeypatch, Plugged(frames=1), Plugged())
    with open_source(0, SourceOptions(width=800, height=600), clock=ManualClock()) as source:
        assert next(iter(source)).size == (600, 800)
    assert [what for what, _ in device.asked].count(cv2.CAP_PROP_FRAME_WIDTH) == 2


def test_a_lost_camera_says_so_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, Plugged(frames=1))
    seen: list[str | None] = []

    class Watching(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            seen.append(source.notice)
            if self.time > 60:
                source.interrupt()

    source = open_source(0, clock=Watching())
    assert list(source) == []
    assert seen[0] == "reconnecting to camera 0 (try 1)"
    tries = list(dict.fromkeys(seen))
    # 0.5 + 1 + 2 + 4 + 8 + 8 + ... : eleven tries begin within 61 seconds
    assert tries[-1] == "reconnecting to camera 0 (try 11)"
    source.close()


def test_without_reconnect_a_lost_camera_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    device = plug(monkeypatch, Plugged(frames=3))
    got = []
    words = "camera 0 was lost: it gave no more pictures after 2"
    with (
        pytest.raises(SourceError, match=words),
        open_source(0, SourceOptions(reconnect=False)) as source,
    ):
        got.extend(frame.index for frame in source)
    assert got == [0, 1]
    assert device.released == 1


def test_cameras_are_listed_with_names_modes_and_rate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, node, name in ((0, 0, "Front"), (1, 1, "Front"), (2, 0, "Back"), (10, 0, "Desk")):
        folder = tmp_path / f"video{number}"
        folder.mkdir()
        (folder / "index").write_text(f"{node}\n")
        (folder / "name").write_text(f"{name}\n")
    monkeypatch.setattr(camera.sys, "platform", "linux")
    sizes = ((640, 480), (1280, 720))
    device = plug(monkeypatch, Plugged(sizes=sizes), None, Plugged(frames=0))
    front, back, desk = camera.list_cameras(clock=TickingClock(), sys_folder=tmp_path)
    assert (front.index, front.path, front.name) == (0, Path("/dev/video0"), "Front")
    assert {(m.fourcc, m.width, m.height) for m in front.modes} == {
        (fourcc, *size) for fourcc in ("MJPG", "YUYV") for size in sizes
    }
    assert (front.modes[0].width, front.modes[0].fps) == (1280, 30.0)
    assert front.measured_rate == pytest.approx(100, rel=0.05)
    assert front.problem == ""
    assert (back.name, back.modes) == ("Back", ())
    assert back.problem
    assert (desk.index, desk.problem) == (10, "it opened, but gave no picture")
    assert device.released == 2


def test_elsewhere_indices_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    device = plug(monkeypatch, None, Plugged(), None)
    monkeypatch.setattr(camera.sys, "platform", "darwin")
    (found,) = camera.list_cameras(clock=TickingClock())
    assert (found.index, found.path) == (1, None)
    assert [call[0] for call in device.opened] == list(range(10))
