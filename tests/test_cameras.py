"""What `rtseg cameras` tells: modes from a scripted driver, rates from a scripted device."""

from __future__ import annotations

import errno
import json
import struct
from fractions import Fraction
from pathlib import Path

import cv2
import cv2_enumerate_cameras
import pytest
from cv2_enumerate_cameras import CameraInfo
from fakes import FakeDevice, Plugged

from rtseg.cli.app import main
from rtseg.sources import camera
from rtseg.sources.camera import Mode, list_cameras, listed_modes
from rtseg.stats import ManualClock

Sizes = dict[tuple[int, int], list[tuple[int, int]]]
"""(width, height) -> times of a frame in seconds, as fractions."""


class Driver:
    """Answers the ENUM calls of Video4Linux2 by the offsets of linux/videodev2.h."""

    def __init__(self, formats: dict[str, Sizes | tuple[int, ...]]) -> None:
        self.formats = formats

    def __call__(self, device: int, request: int, buffer: bytearray) -> None:
        answer = {
            0xC0405602: self.format,
            0xC02C564A: self.size,
            0xC034564B: self.interval,
        }[request]
        assert len(buffer) == request >> 16 & 0x3FFF, "the size that the request code holds"
        try:
            answer(buffer, *struct.unpack_from("=4I", buffer))
        except IndexError as error:
            raise OSError(errno.EINVAL, "no more") from error

    def format(self, buffer: bytearray, index: int, kind: int, *_: int) -> None:
        assert kind == 1, "of pictures that are captured"
        name = list(self.formats)[index]
        struct.pack_into("=4s", buffer, 44, name.encode())

    def _of(self, code: int) -> Sizes | tuple[int, ...]:
        return self.formats[struct.pack("=I", code).decode()]

    def size(self, buffer: bytearray, index: int, code: int, *_: int) -> None:
        sizes = self._of(code)
        if isinstance(sizes, tuple):  # a range of sizes
            struct.pack_into("=7I", buffer, 8, 3, *sizes)
        else:
            struct.pack_into("=3I", buffer, 8, 1, *list(sizes)[index])

    def interval(self, buffer: bytearray, index: int, code: int, width: int, height: int) -> None:
        sizes = self._of(code)
        if isinstance(sizes, tuple):  # a range of rates: 1/60 s to 1/1 s in steps of 1/60
            struct.pack_into("=7I", buffer, 16, 3, 1, 60, 1, 1, 1, 60)
        else:
            struct.pack_into("=3I", buffer, 16, 1, *sizes[width, height][index])


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Of a device file that is there."""
    scripted = Driver(
        {
            "YUYV": {(640, 480): [(1, 30), (1, 15)], (1280, 720): [(1, 10)]},
            "MJPG": {(1280, 720): [(1001, 30000), (1, 60)], (640, 480): [(1, 60)]},
        }
    )
    monkeypatch.setattr(camera, "ioctl", scripted)
    return scripted


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "video0"
    path.touch()
    return path


def test_modes_are_those_that_the_driver_lists(driver: Driver, device: Path) -> None:
    assert listed_modes(device) == (
        Mode("YUYV", 1280, 720, (Fraction(10),)),
        Mode("MJPG", 1280, 720, (Fraction(60), Fraction(30000, 1001))),
        Mode("YUYV", 640, 480, (Fraction(30), Fraction(15))),
        Mode("MJPG", 640, 480, (Fraction(60),)),
    )


def test_of_a_range_of_sizes_the_largest_and_the_common_ones_are_told(
    driver: Driver, device: Path
) -> None:
    driver.formats = {"NV12": (320, 1296, 16, 240, 976, 16)}
    assert listed_modes(device) == tuple(
        Mode("NV12", *size, (Fraction(60),))
        for size in ((1296, 976), (1280, 720), (1024, 768), (640, 480), (320, 240))
    )


def test_a_driver_that_never_ends_its_list_is_stopped(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera, "ioctl", lambda *anything: None)
    monkeypatch.setattr(camera, "MAX_ENTRIES", 3)
    assert len(listed_modes(device)) == 3


def test_a_device_that_lists_nothing_has_no_modes(device: Path) -> None:
    assert listed_modes(device) == (), "a plain file has no such calls"
    assert listed_modes(device.with_name("absent")) == ()


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one camera, number 3."""
    monkeypatch.setattr(camera.sys, "platform", "linux")
    attach(monkeypatch, {cv2.CAP_V4L2: {3: "Desk"}})
    monkeypatch.setattr(camera, "LINK_FOLDER", tmp_path / "none")


def attach(monkeypatch: pytest.MonkeyPatch, cameras: dict[int, dict[int, str]]) -> None:
    """Have each of OpenCV's backends list cameras: number -> name."""

    def enumerate_cameras(backend: int) -> list[CameraInfo]:
        return [
            CameraInfo(n, name, None, None, None, backend) for n, name in cameras[backend].items()
        ]

    monkeypatch.setattr(cv2_enumerate_cameras, "enumerate_cameras", enumerate_cameras)
    monkeypatch.setattr(cv2_enumerate_cameras, "supported_backends", tuple(cameras))


def script(monkeypatch: pytest.MonkeyPatch, *plugs: Plugged | None) -> FakeDevice:
    device = FakeDevice(list(plugs))
    monkeypatch.setattr(cv2, "VideoCapture", device)
    return device


LISTED = (
    Mode("YUYV", 1920, 1080, (Fraction(5),)),
    Mode("MJPG", 1280, 720, (Fraction(60),)),
    Mode("MJPG", 640, 480, (Fraction(120),)),
)


@pytest.mark.usefixtures("one")
def test_a_camera_is_measured_in_the_largest_mode_that_promises_a_fluent_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    plug = Plugged(formats={"MJPG": 24.0, "YUYV": 5.0}, clock=clock)
    device = script(monkeypatch, plug)
    monkeypatch.setattr(camera, "listed_modes", lambda path: LISTED)
    (found,) = list_cameras(clock=clock)
    assert (found.index, found.path, found.name) == (3, Path("/dev/video3"), "Desk")
    assert (found.modes, found.listed, found.measured) == (LISTED, True, LISTED[1])
    assert found.measured_rate == pytest.approx(24.0, rel=0.01)
    assert (plug.size, plug.fps, plug.fourcc) == ((1280, 720), 60.0, "MJPG")
    assert (found.problem, device.released) == ("", 1)


@pytest.mark.usefixtures("one")
def test_a_camera_whose_driver_lists_its_modes_need_not_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = script(monkeypatch)
    monkeypatch.setattr(camera, "listed_modes", lambda path: LISTED)
    (found,) = list_cameras(seconds=0.0)
    assert (found.modes, found.measured_rate, found.problem) == (LISTED, None, "")
    assert device.opened == []


@pytest.mark.usefixtures("one")
def test_a_mute_driver_is_asked_for_common_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    plug = Plugged(
        sizes=((640, 480), (1280, 720)), formats={"YUYV": 10.0, "MJPG": 30.0}, clock=clock
    )
    script(monkeypatch, plug)
    (found,) = list_cameras(clock=clock)
    assert not found.listed
    assert set(found.modes) == {
        Mode(fourcc, *size, (Fraction(30),))
        for fourcc in ("MJPG", "YUYV")
        for size in ((640, 480), (1280, 720))
    }
    assert found.modes[0].width == 1280


@pytest.mark.usefixtures("one")
def test_what_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, None, Plugged(frames=0))
    (absent,) = list_cameras(clock=ManualClock())
    assert absent.problem.startswith("there is no")
    (silent,) = list_cameras(clock=ManualClock())
    assert silent.problem == "it opened, but gave no image"


def test_elsewhere_every_backend_lists_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    device = script(monkeypatch, Plugged(formats={"YUYV": 30.0}, clock=clock), None)
    monkeypatch.setattr(camera.sys, "platform", "win32")
    attach(monkeypatch, {cv2.CAP_MSMF: {0: "Desk"}, cv2.CAP_DSHOW: {1: "Virtual", 0: "Desk again"}})
    desk, virtual = list_cameras(clock=clock)
    assert (desk.index, desk.path, desk.name, desk.listed) == (0, None, "Desk", False)
    assert desk.measured_rate == pytest.approx(30.0, rel=0.01)
    assert (virtual.index, virtual.name) == (1, "Virtual")
    assert "in use" in virtual.problem
    assert [call[0] for call in device.opened] == [0, 1]


@pytest.mark.usefixtures("one")
def test_the_verb_prints_json_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(camera, "listed_modes", lambda path: LISTED[:1])
    script(monkeypatch)
    assert main(["cameras", "--json", "--no-measure"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "index": 3,
            "path": "/dev/video3",
            "name": "Desk",
            "modes": [{"fourcc": "YUYV", "width": 1920, "height": 1080, "fps": [5.0]}],
            "listed_by_driver": True,
            "measured_mode": None,
            "measured_fps": None,
            "problem": None,
        }
    ]
