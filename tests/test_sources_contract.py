"""The contract of every row of SOURCES, and what a name is taken for."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeDevice, Plugged
from PIL import Image

from rtseg.contracts import Source
from rtseg.errors import UsageError
from rtseg.sources import SOURCES, SourceOptions, http, kind_of, open_source, stream
from rtseg.stats import ManualClock

Opened = Callable[[SourceOptions], Source]


@pytest.fixture(params=SOURCES)
def opened(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Opened:
    """Opens a source of the kind, of at least 10 frames, with devices and networks scripted."""
    kind: str = request.param
    target = {
        "camera": "0",
        "video": str(tmp_path / "clip.avi"),
        "pictures": str(tmp_path),
        "animation": str(tmp_path / "moving.webp"),
        "stream": "rtsp://user:secret@camera.example/live",
        "http": "http://user:secret@camera.example/live",
        "stdin": "-",
        "test": "test://?size=96x64&frames=12",
        "demo": "demo:0.5",
    }[kind]
    if kind == "camera":
        monkeypatch.setattr(cv2, "VideoCapture", FakeDevice([Plugged(size=(96, 64))]))
    elif kind in ("stream", "http"):
        device = FakeDevice([Plugged(size=(96, 64))])
        for module in (stream, http):
            monkeypatch.setattr(module, "LivePlayer", lambda target, options: device(target))
    elif kind == "stdin":
        content = io.BytesIO(bytes(96 * 64 * 3 * 12))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(content)))
    elif kind == "video":
        writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 64))
        for _ in range(12):
            writer.write(np.zeros((64, 96, 3), np.uint8))
        writer.release()
    elif kind == "animation":
        first, *others = [Image.new("RGB", (96, 64), (20 * n, 0, 0)) for n in range(12)]
        first.save(target, save_all=True, append_images=others, duration=40)
    elif kind == "pictures":
        for number in range(12):
            cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((64, 96, 3), np.uint8))
    assert kind_of(target) == kind

    def open_it(options: SourceOptions) -> Source:
        return open_source(target, options, clock=ManualClock())

    return open_it


SIZE = (96, 64)
PLAIN = SourceOptions(size=SIZE)
WRAPPED = SourceOptions(size=SIZE, rotate=90, mirror=True, every=1, max_frames=11, end=60)


@pytest.mark.parametrize("options", [PLAIN, WRAPPED], ids=["plain", "wrapped"])
def test_frames_are_sealed_and_in_order(opened: Opened, options: SourceOptions) -> None:
    with opened(options) as source:
        iterator = iter(source)
        frames = [next(iterator) for _ in range(10)]
        info = source.info
    for frame in frames:
        assert frame.image.dtype == np.uint8
        assert frame.image.shape == (info.height, info.width, 3)
        assert frame.image.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            frame.image[0, 0] = 0
    indices = [frame.index for frame in frames]
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    pts = [frame.pts for frame in frames]
    assert pts[0] == 0.0
    assert pts == sorted(pts)
    assert source.notice is None
    assert source.outages == 0


def test_frames_own_their_pixels(opened: Opened) -> None:
    """A device may use its buffer again; a frame that waits in a queue must not notice."""
    with opened(PLAIN) as source:
        iterator = iter(source)
        first = next(iterator)
        before = first.image.copy()
        others = [next(iterator) for _ in range(5)]
    assert np.array_equal(first.image, before)
    assert not any(np.shares_memory(first.image, other.image) for other in others)


@pytest.mark.parametrize("options", [PLAIN, WRAPPED], ids=["plain", "wrapped"])
def test_an_end_is_an_end(opened: Opened, options: SourceOptions) -> None:
    with opened(options) as source:
        if source.info.live and options is PLAIN:
            pytest.skip("a live source has no end")
        frames = list(source)
        assert source.info.frame_count in (None, len(frames))
        assert list(source) == []


@pytest.mark.parametrize("options", [PLAIN, WRAPPED], ids=["plain", "wrapped"])
def test_interrupt_ends_the_iteration(opened: Opened, options: SourceOptions) -> None:
    with opened(options) as source:
        iterator = iter(source)
        next(iterator)
        source.interrupt()
        source.interrupt()
        assert list(iterator) == []
        assert list(source) == []


@pytest.mark.parametrize("options", [PLAIN, WRAPPED], ids=["plain", "wrapped"])
def test_close_twice_is_fine_and_final(opened: Opened, options: SourceOptions) -> None:
    source = opened(options)
    next(iter(source))
    source.close()
    source.close()
    assert list(source) == []


def test_info_is_complete_before_the_first_frame(opened: Opened) -> None:
    with opened(PLAIN) as source:
        info = source.info
    assert info.name
    assert "secret" not in info.name
    assert info.width > 0
    assert info.height > 0
    assert info.live == (info.name.startswith(("camera", "rtsp", "http")))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (0, "camera"),
        ("12", "camera"),
        ("/dev/video3", "camera"),
        ("/dev/v4l/by-id/usb-cam", "camera"),
        ("/dev/shm/clip.mp4", "video"),
        ("-", "stdin"),
        ("test://?size=64x48", "test"),
        ("rtsp://host/path", "stream"),
        ("RTSP://host/path", "stream"),
        ("http://host/x.mjpg", "http"),
        ("https://host/x.png", "http"),
        ("udp://@:1234", "stream"),
        ("rtmp://host/app", "stream"),
        ("clip.mp4", "video"),
        (Path("clip.mkv"), "video"),
        ("photo.JPG", "pictures"),
        ("photo.jfif", "pictures"),
        ("photo.heic", "pictures"),
        ("loop.gif", "video"),
        ("shots/*.png", "pictures"),
        ("shots/", "pictures"),
        (".", "pictures"),
        ("C:\\clips\\a.mp4", "video"),
    ],
)
def test_what_a_name_is_taken_for(target: str | int | Path, kind: str) -> None:
    assert kind_of(target) == kind


def test_an_address_that_cannot_be_read_names_those_that_can() -> None:
    with pytest.raises(UsageError, match=r"cannot read gopher:// addresses: there are .*rtsp"):
        open_source("gopher://x")
    with pytest.raises(UsageError, match="no source was named"):
        open_source("")


def test_the_table_loads_nothing() -> None:
    code = "import sys, rtseg.sources; print([m for m in ('cv2', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_without_a_suffix_is_what_its_bytes_say(tmp_path: Path) -> None:
    picture = tmp_path / "download"
    picture.write_bytes(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    assert kind_of(picture) == "pictures"
    picture.write_bytes(bytes(99))
    assert kind_of(picture) == "video"
