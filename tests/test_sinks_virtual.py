"""The virtual camera, by a scripted one at the place that opens it: colours, sizes, refusals."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeVirtualCameras
from sink_frames import SIZE, info, rendered

from rtseg.cli.app import main
from rtseg.draw import letterbox
from rtseg.errors import SinkError, UsageError
from rtseg.labels import VOC
from rtseg.sinks import open_sink

CLIP = ["test://?size=64x48&frames=6", "-m", "stub", "-q"]


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> FakeVirtualCameras:
    return script(monkeypatch)


def script(monkeypatch: pytest.MonkeyPatch, **how: str) -> FakeVirtualCameras:
    cameras = FakeVirtualCameras(**how)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", cameras)
    return cameras


def flat(colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def test_pictures_are_sent_in_the_order_of_colours_that_was_named(
    cameras: FakeVirtualCameras,
) -> None:
    red = (0, 0, 255)
    with open_sink("virtual", info(Fraction(30000, 1001)), VOC) as sink:
        sink.write(rendered(0, image=flat(red)))
    (opened,) = cameras.opened
    assert opened == {
        "size": (128, 96), "fps": pytest.approx(29.97, abs=1e-3), "fmt": "BGR", "device": None,
    }  # fmt: skip
    (sent,) = cameras.sent
    assert (sent == red).all()
    assert cameras.closed == 1
    assert sink.summary() == "1 frame to /dev/video0 (virtual camera)"


def test_the_real_library_takes_what_is_sent_as_bgr() -> None:
    """Its own conversion begins at the first byte: blue, by the name that libyuv gives BGR."""
    real = pytest.importorskip("pyvirtualcam")
    seen: list[tuple[int, bytes]] = []

    class Backend:
        def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str):
            self.fourcc = fourcc

        def send(self, frame: np.ndarray) -> None:
            seen.append((self.fourcc, frame.tobytes()))

        def device(self) -> str:
            return "a test"

        def native_fourcc(self) -> None:
            return None

        def close(self) -> None:
            pass

    names = dict(real.camera.BACKENDS)
    real.camera.BACKENDS.clear()
    real.register_backend("test", Backend)
    try:
        with open_sink("virtual:somewhere", info(), VOC) as sink:
            sink.write(rendered(0, image=flat((1, 2, 3))))
    finally:
        real.camera.BACKENDS.clear()
        real.camera.BACKENDS.update(names)
    ((fourcc, sent),) = seen
    assert fourcc.to_bytes(4, "little") == b"24BG"
    assert sent[:6] == bytes((1, 2, 3, 1, 2, 3))


def test_the_first_picture_gives_the_size_and_later_ones_are_fitted(
    cameras: FakeVirtualCameras,
) -> None:
    with open_sink("virtual:/dev/video10", info(), VOC) as sink:
        wide = flat((9, 9, 9), (96, 256))  # a side by side view is twice as wide as the source
        sink.write(rendered(0, image=wide))
        small = flat((200, 0, 0), (48, 64))
        sink.write(rendered(1, image=small))
    assert [opened["size"] for opened in cameras.opened] == [(128, 96), (256, 96)]
    assert {opened["device"] for opened in cameras.opened} == {"/dev/video10"}
    assert cameras.closed == 2
    assert (cameras.sent[1] == letterbox(small, (96, 256))).all()
    assert cameras.sent[1].any()


def test_odd_sides_and_oblong_pixels_are_made_what_cameras_have(
    cameras: FakeVirtualCameras,
) -> None:
    with open_sink("virtual", info(), VOC) as sink:
        sink.write(rendered(0, image=flat((5, 5, 5), (95, 127))))
    assert cameras.sent[0].shape == (96, 128, 3)
    with open_sink("virtual", info(sample_aspect_ratio=Fraction(3, 2)), VOC) as sink:
        sink.write(rendered(0))
    assert cameras.sent[1].shape == (96, 192, 3)


def test_an_outage_is_told_under_a_banner_once(cameras: FakeVirtualCameras) -> None:
    with open_sink("virtual", info(), VOC) as sink:
        sink.idle("reconnecting to camera 0 (try 1)")
        assert cameras.sent == [], "there is no picture to put it on"
        sink.write(rendered(0, image=flat((200, 200, 200))))
        for notice in (
            "reconnecting (try 1)",
            "reconnecting (try 1)",
            "reconnecting (try 2)",
            None,
        ):
            sink.idle(notice)
        sink.write(rendered(1))
    assert len(cameras.sent) == 4
    assert cameras.sent[1].mean() < 150, "dimmed"


def test_without_the_package_the_command_to_install_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(UsageError, match="pyvirtualcam is not installed"):
        open_sink("virtual", info(), VOC)
    assert main([*CLIP, "-o", "virtual"]) == 2
    assert 'python -m pip install "rtseg[virtual]"' in capsys.readouterr().err


NO_DRIVER = (
    "'v4l2loopback' backend: No v4l2 loopback device found at /dev/video[0-99]. "
    "Did you run 'modprobe v4l2loopback'? See also pyvirtualcam's documentation."
)


def test_without_the_driver_the_command_to_load_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    script(monkeypatch, refuses=NO_DRIVER)
    assert main([*CLIP, "-o", "virtual"]) == 1
    said = capsys.readouterr().err
    assert "cannot open the virtual camera: No v4l2 loopback device found" in said
    assert "sudo modprobe v4l2loopback exclusive_caps=1 card_label=rtseg\n" in said
    assert main([*CLIP, "-o", "virtual:/dev/video10"]) == 1
    assert "card_label=rtseg video_nr=10\n" in capsys.readouterr().err


def test_elsewhere_obs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    script(monkeypatch, refuses="'obs' backend: not registered\n'unitycapture' backend: no camera")
    with pytest.raises(SinkError, match=r"not registered; no camera\. Install OBS Studio"):
        open_sink("virtual", info(), VOC)


def test_a_device_that_is_taken_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    script(monkeypatch, refuses="'v4l2loopback' backend: Device x is already in use.")
    (tmp_path / "video10").touch()
    with pytest.raises(SinkError, match=r"already in use\. Close the program"):
        open_sink(f"virtual:{tmp_path / 'video10'}", info(), VOC)


def test_a_device_that_breaks_while_sending_ends_the_run_with_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, breaks="write failed")
    with (
        pytest.raises(SinkError, match="cannot send to /dev/video0: write failed"),
        open_sink("virtual", info(), VOC) as sink,
    ):
        sink.write(rendered(0))


def test_a_recording_is_sent_whole_and_at_its_own_speed(
    cameras: FakeVirtualCameras, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = ["test://?size=64x48&fps=50&frames=6", "-m", "stub", "--alpha", "0"]
    assert main([*clip, "-o", "virtual"]) == 0
    assert len(cameras.sent) == 6
    assert cameras.opened[0]["fps"] == 50
    said = capsys.readouterr().err
    assert "every frame in order, at its own speed" in said
    assert "6 frames to /dev/video0 (virtual camera)" in said
