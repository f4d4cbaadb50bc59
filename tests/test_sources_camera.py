"""Cameras, by a scripted device: order of settings, asked and got, absence, outages."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from shutil import rmtree
from typing import Any

import cv2
import cv2_enumerate_cameras
import numpy as np
import pytest
from cv2_enumerate_cameras import CameraInfo
from fakes import FakeCapture, FakeDevice, Plugged

from rtseg.errors import SourceError
from rtseg.sources import SourceOptions, camera, open_source
from rtseg.sources.camera import CameraLocator, Node, video_nodes
from rtseg.stats import ManualClock


def plug(monkeypatch: pytest.MonkeyPatch, *plugs: Plugged | None) -> FakeDevice:
    device = FakeDevice(list(plugs))
    monkeypatch.setattr(cv2, "VideoCapture", device)
    return device


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
        (cv2.CAP_PROP_BUFFERSIZE, 2),
    ]
    assert device.released == 1


HD = SourceOptions(width=1280, height=720, fps=30)


def scripted(formats: dict[str, float], clock: ManualClock, **more: Any) -> Plugged:
    """A camera whose pictures come at a rate of their own in each of its formats."""
    return Plugged(formats=formats, clock=clock, **more)


def test_what_came_is_told_beside_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    plug(monkeypatch, scripted({"YUYV": 24.0}, clock, takes=False, fps=25))
    asked = SourceOptions(width=1280, height=720, fps=60, fourcc="MJPG")
    with open_source("0", asked, clock=clock) as source:
        assert source.info.notes == (
            "asked for 1280x720 at 60 fps MJPG, got 640x480 at 25 fps YUYV, measured 24.0 fps",
            "not as requested: it gave 640x480, it gave YUYV, 24.0 fps came; "
            "`rtseg cameras` lists the modes it has",
        )
        assert (source.info.width, source.info.height) == (640, 480)


def test_mjpg_is_preferred_where_it_gives_the_asked_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    device = plug(monkeypatch, scripted({"MJPG": 30.0, "YUYV": 10.0}, clock))
    with open_source("0", HD, clock=clock) as source:
        assert source.info.notes == (
            "asked for 1280x720 at 30 fps, got 1280x720 at 30 fps MJPG, measured 30.0 fps",
        )
    assert [what for what, _ in device.asked].count(cv2.CAP_PROP_FOURCC) == 1
    assert clock.time < 0.7, "it was looked at for half a second"


def test_mjpg_is_left_where_the_camera_s_own_format_is_quicker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    plug(monkeypatch, scripted({"MJPG": 12.0, "YUYV": 30.0}, clock))
    with open_source("0", HD, clock=clock) as source:
        assert source.info.notes == (
            "asked for 1280x720 at 30 fps, got 1280x720 at 30 fps YUYV, measured 30.0 fps",
            "MJPG was not used: 12.0 fps came",
        )


def test_auto_alone_looks_for_the_best_format(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    plug(monkeypatch, scripted({"MJPG": 30.0, "YUYV": 10.0}, clock))
    with open_source("0", SourceOptions(fourcc="auto"), clock=clock) as source:
        assert source.info.notes == (
            "asked for auto, got 640x480 at 30 fps MJPG, measured 30.0 fps",
        )


def test_of_two_slow_formats_the_quicker_is_left_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    device = plug(monkeypatch, scripted({"MJPG": 20.0, "YUYV": 10.0}, clock))
    with open_source("0", HD, clock=clock) as source:
        assert source.info.notes == (
            "asked for 1280x720 at 30 fps, got 1280x720 at 30 fps MJPG, measured 20.0 fps",
            "YUYV was not used: 10.0 fps came",
            "not as requested: 20.0 fps came; `rtseg cameras` lists the modes it has",
        )
    asked = [value for what, value in device.asked if what == cv2.CAP_PROP_FOURCC]
    assert asked[-1] == cv2.VideoWriter.fourcc(*"MJPG")


def test_a_camera_without_mjpg_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    plug(monkeypatch, scripted({"YUYV": 12.0}, clock))
    with open_source("0", SourceOptions(width=1280, height=720), clock=clock) as source:
        assert source.info.notes == (
            "asked for 1280x720, got 1280x720 at 30 fps YUYV, measured 12.0 fps",
        ), "no rate was asked, so none was missed"
    assert clock.time < 1.0


def test_a_format_without_a_name_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    plug(monkeypatch, scripted({"MJPG": 12.0}, clock, fourcc="\0\0\0\0"))
    with open_source("0", HD, clock=clock) as source:
        assert "measured 12.0 fps" in source.info.notes[0]


def test_a_camera_of_which_nothing_is_asked_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    device = plug(monkeypatch, scripted({"MJPG": 30.0, "YUYV": 10.0}, clock))
    with open_source("0", clock=clock) as source:
        assert source.info.notes == ("got 640x480 at 30 fps YUYV",)
    assert [what for what, _ in device.asked] == [cv2.CAP_PROP_BUFFERSIZE]


def test_the_format_that_was_settled_on_is_asked_of_a_camera_that_came_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    formats = {"MJPG": 12.0, "YUYV": 30.0}
    first = scripted(formats, clock, frames=60)
    second = scripted(formats, clock, fourcc="MJPG")
    plug(monkeypatch, first, second)
    with open_source("0", HD, clock=clock) as source:
        frames = iter(source)
        while not source.outages:
            next(frames)
    assert second.fourcc == "YUYV"
    assert second.size == (1280, 720)


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
    with pytest.raises(SourceError, match="it opened, but gave no image"):
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
    clock = ManualClock()
    device = plug(monkeypatch, scripted({"YUYV": 30.0}, clock, frames=20), Plugged())
    with open_source(0, SourceOptions(width=800, height=600), clock=clock) as source:
        frames = iter(source)
        while not source.outages:
            assert next(frames).size == (600, 800)
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
    words = "camera 0 was lost: it gave no more frames after 2"
    with (
        pytest.raises(SourceError, match=words),
        open_source(0, SourceOptions(reconnect=False)) as source,
    ):
        got.extend(frame.index for frame in source)
    assert got == [0, 1]
    assert device.released == 1


def test_a_stop_among_pictures_above_the_cap_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time > 1.05:
                source.interrupt()

    clock = Stopping()
    plug(monkeypatch, scripted({"YUYV": 30.0}, clock))
    with open_source(0, SourceOptions(fps_cap=5, reconnect=False), clock=clock) as source:
        assert len(list(source)) == 5
        assert source.capped > 0
        assert (source.outages, source.notice) == (0, None)


def test_a_picture_that_cannot_be_decoded_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    device = plug(monkeypatch, Plugged(frames=9, damaged=frozenset({3, 4, 7})))
    got = []
    with (
        pytest.raises(SourceError, match="it gave no more frames after 5"),
        open_source(0, SourceOptions(reconnect=False)) as source,
    ):
        got.extend((frame.index, frame.image[0, 0, 0]) for frame in source)
    assert got == [(0, 2), (1, 5), (2, 6), (3, 8), (4, 9)]
    assert len(device.opened) == 1


def test_a_camera_of_which_nothing_can_be_decoded_is_reopened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = plug(monkeypatch, Plugged(damaged=frozenset(range(3, 100))), Plugged())
    with open_source(0, clock=ManualClock()) as source:
        frames = iter(source)
        assert [next(frames).index for _ in range(2)] == [0, 1]
        assert source.outages == 1
    assert len(device.opened) == 2


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> USB:
    """The system's list of cameras, as a folder that a test can plug them in and out of."""
    bus = USB(tmp_path)
    monkeypatch.setattr(camera, "SYS_FOLDER", bus.sys)
    monkeypatch.setattr(camera, "LINK_FOLDER", bus.links)
    monkeypatch.setattr(camera.sys, "platform", "linux")
    monkeypatch.setattr(cv2_enumerate_cameras, "enumerate_cameras", bus.enumerate)
    return bus


class USB:
    """Devices, sysfs and the links of udev, of cameras that come and go."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.links, self.dev = (folder / name for name in ("sys", "by-id", "dev"))
        for place in (self.sys, self.links, self.dev):
            place.mkdir()

    def enumerate(self, backend: int) -> list[CameraInfo]:
        assert backend == cv2.CAP_V4L2
        names = {int(node.name[5:]): (node / "name").read_text() for node in self.sys.iterdir()}
        return [CameraInfo(n, name, None, None, None, backend) for n, name in names.items()]

    def plug(self, number: int, name: str, link: str = "", index: int = 0) -> None:
        folder = self.sys / f"video{number}"
        folder.mkdir()
        (folder / "name").write_text(name)
        (folder / "index").write_text(f"{index}\n")
        (self.dev / f"video{number}").touch()
        if link:
            (self.links / link).symlink_to(self.dev / f"video{number}")

    def unplug(self, number: int) -> None:
        rmtree(self.sys / f"video{number}")
        for link in self.links.iterdir():
            if link.resolve() == self.dev / f"video{number}":
                link.unlink()


def test_cameras_are_listed_by_number(usb: USB) -> None:
    usb.plug(10, "Desk")
    usb.plug(2, "Front", "usb-Maker_Front_1-video-index0")
    assert video_nodes() == [
        Node(2, "Front", "0", "usb-Maker_Front_1-video-index0"),
        Node(10, "Desk", "0"),
    ]


def test_a_camera_is_found_under_another_number(usb: USB, monkeypatch: pytest.MonkeyPatch) -> None:
    usb.plug(0, "Cam")
    device = plug(monkeypatch, Plugged(frames=3), Plugged())
    clock = ManualClock()
    with open_source(0, clock=clock) as source:
        frames = iter(source)
        seen = [next(frames), next(frames)]
        usb.unplug(0)
        usb.plug(4, "Another")
        usb.plug(2, "Cam")
        seen.append(next(frames))
        assert source.warnings == ["camera 0 came back as camera 2"]
    assert [call[0] for call in device.opened] == [0, 2]
    assert [frame.index for frame in seen] == [0, 1, 2]


def test_while_another_camera_has_its_number_nothing_is_opened(
    usb: USB, monkeypatch: pytest.MonkeyPatch
) -> None:
    usb.plug(0, "Cam", "usb-Cam_1-index0")
    locator = CameraLocator("0")
    assert locator.find() == "0"
    usb.unplug(0)
    assert locator.find() is None
    usb.plug(0, "Cam", "usb-Cam_2-index0")
    assert locator.find() is None, "the same model, but not the same camera"
    usb.plug(2, "Cam", "usb-Cam_1-index0")
    assert locator.find() == "2"


def test_a_twin_that_was_there_all_the_time_is_not_the_lost_camera(usb: USB) -> None:
    usb.plug(0, "Cam")
    usb.plug(2, "Cam")
    locator = CameraLocator(str(usb.dev / "video0"))
    usb.unplug(0)
    assert locator.find() is None
    usb.plug(4, "Cam")
    assert locator.find() == "4"
    usb.plug(6, "Cam")
    assert locator.find() is None, "it cannot be told which"


def test_the_devices_of_one_camera_are_told_apart(usb: USB) -> None:
    for number, index in ((0, 0), (2, 2)):
        usb.plug(number, "Colour and infrared", index=index)
    locator = CameraLocator("2")
    usb.unplug(0)
    usb.unplug(2)
    for number, index in ((4, 0), (6, 2)):
        usb.plug(number, "Colour and infrared", index=index)
    assert locator.find() == "6"


def test_where_no_cameras_are_listed_the_same_number_is_tried(usb: USB) -> None:
    assert CameraLocator("1").find() == "1"


def test_frames_above_the_cap_are_grabbed_but_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    plug(monkeypatch, scripted({"YUYV": 30.0}, clock, frames=301))
    decoded: list[float] = []
    retrieve = FakeCapture.retrieve

    def counting(capture: FakeCapture) -> Any:
        decoded.append(clock.now())
        return retrieve(capture)

    monkeypatch.setattr(FakeCapture, "retrieve", counting)
    options = SourceOptions(fps_cap=10, reconnect=False)
    taken = []
    with pytest.raises(SourceError), open_source(0, options, clock=clock) as source:
        taken.extend(source)
    assert len(decoded) == len(taken) + 1 == pytest.approx(101, abs=1)
    assert [frame.index for frame in taken] == list(range(len(taken)))
    assert source.capped == 301 - len(decoded)
    assert np.diff([frame.pts for frame in taken]) == pytest.approx(0.1)
