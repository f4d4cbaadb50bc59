"""Raw frames on standard input: formats, short reads, ends within a frame."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from fractions import Fraction

import cv2
import numpy as np
import pytest

from rtseg.errors import SourceError, UsageError
from rtseg.sources import SourceOptions, open_source
from rtseg.sources.synthetic import read_number


class Input:
    """Stands for `sys.stdin`: bytes that may come in small pieces."""

    def __init__(self, content: bytes, piece: int = 1 << 30, tty: bool = False) -> None:
        self._bytes, self._piece, self._tty = io.BytesIO(content), piece, tty
        self.buffer = self

    def isatty(self) -> bool:
        return self._tty

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def readinto(self, view: memoryview) -> int:
        return self._bytes.readinto(view[: self._piece])


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes, piece: int = 1 << 30) -> None:
    monkeypatch.setattr(sys, "stdin", Input(content, piece))


def picture(seed: int = 0, height: int = 36, width: int = 64) -> np.ndarray:
    """Smooth, so that halving its colour planes changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def packed(image: np.ndarray, pix_fmt: str) -> bytes:
    if pix_fmt == "rgb24":
        image = image[..., ::-1]
    elif pix_fmt == "gray":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    elif pix_fmt in ("yuv420p", "nv12"):
        planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
        if pix_fmt == "nv12":
            height = image.shape[0]
            chroma = planes[height:].reshape(2, -1)
            planes = np.concatenate([planes[:height].reshape(-1), chroma.T.reshape(-1)])
        image = planes
    return np.ascontiguousarray(image).tobytes()


@pytest.mark.parametrize("pix_fmt", ["bgr24", "rgb24", "gray", "yuv420p", "nv12"])
@pytest.mark.parametrize("piece", [1 << 30, 1000, 7])
def test_frames_of_every_format(monkeypatch: pytest.MonkeyPatch, pix_fmt: str, piece: int) -> None:
    images = [picture(seed) for seed in range(3)]
    pipe(monkeypatch, b"".join(packed(image, pix_fmt) for image in images), piece)
    options = SourceOptions(size=(64, 36), pix_fmt=pix_fmt, fps=50)
    with open_source("-", options) as source:
        frames = list(source)
    assert source.warnings == []
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.pts for f in frames] == pytest.approx([0, 0.02, 0.04])
    assert (source.info.width, source.info.height, source.info.frame_rate) == (64, 36, 50)
    for frame, image in zip(frames, images, strict=True):
        if pix_fmt == "gray":
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        off = np.abs(frame.image.astype(int) - image)
        assert off.mean() < (4 if pix_fmt in ("yuv420p", "nv12") else 1e-9)


@pytest.mark.parametrize(
    ("asked", "exact"),
    [
        (29.97, Fraction(30000, 1001)),
        (0.004, Fraction(1, 250)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (30, Fraction(30)),
        (12.5, Fraction(25, 2)),
        (0.5, Fraction(1, 2)),
    ],
)
def test_a_rate_is_exact(monkeypatch: pytest.MonkeyPatch, asked: float, exact: Fraction) -> None:
    pipe(monkeypatch, bytes(12 * 1002))
    with open_source("-", SourceOptions(size=(2, 2), fps=asked)) as source:
        assert source.info.frame_rate == exact
        assert list(source)[1001].pts == float(1001 / exact)


def test_a_last_frame_cut_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, bytes(12 * 2 + 5))
    with open_source("-", SourceOptions(size=(2, 2))) as source:
        assert len(list(source)) == 2
        assert list(source) == []
    assert source.warnings == [
        "standard input ended within frame 2: 5 of the 12 bytes of a frame came"
    ]


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_an_end_before_the_first_frame(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    pipe(monkeypatch, content)
    with (
        open_source("-", SourceOptions(size=(2, 2))) as source,
        pytest.raises(SourceError, match=rf"it gave {len(content)} of the 12 bytes"),
    ):
        list(source)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give --size"),
        ({"size": (2, 2), "pix_fmt": "p010"}, "--pix-fmt p010: choices are bgr24"),
        ({"size": (3, 2), "pix_fmt": "yuv420p"}, "yuv420p of 3x2: its sides are even"),
        ({"size": (2, 3), "pix_fmt": "nv12"}, "nv12 of 2x3"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], words: str
) -> None:
    pipe(monkeypatch, bytes(100))
    with pytest.raises(UsageError, match=words):
        open_source("-", SourceOptions(**options))


def test_a_terminal_is_not_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(b"", tty=True))
    with pytest.raises(UsageError, match="nothing is piped in"):
        open_source("-", SourceOptions(size=(2, 2)))


def test_a_real_pipe_from_ffmpeg_in_a_real_process() -> None:
    read = (
        "import sys; from rtseg.sources import *; "
        "s = open_source('-', SourceOptions(size=(160, 90), pix_fmt='yuv420p')); "
        "f = list(s); sys.stdout.write(f'{len(f)} {f[-1].pts:.2f} {s.warnings}')"
    )
    make = "-v error -f lavfi -i testsrc=size=160x90:rate=25:duration=1 -pix_fmt yuv420p"
    ffmpeg = subprocess.Popen(
        ["ffmpeg", *make.split(), "-f", "rawvideo", "-"], stdout=subprocess.PIPE
    )
    done = subprocess.run(
        [sys.executable, "-c", read], stdin=ffmpeg.stdout, capture_output=True, text=True
    )
    assert ffmpeg.stdout is not None
    ffmpeg.stdout.close()
    assert ffmpeg.wait() == 0
    assert done.stdout == "25 0.96 []", done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes cannot be asked on this system")
def test_interrupt_ends_a_wait_for_a_silent_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe_end, os.fdopen(writing, "wb", 0) as other:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe_end))
        frames = list(open_source("test://?size=64x48&frames=1"))
        other.write(frames[0].image.tobytes() + bytes(10))
        with open_source("-", SourceOptions(size=(64, 48))) as source:
            iterator = iter(source)
            assert read_number(next(iterator).image) == 0
            timer = threading.Timer(0.05, source.interrupt)
            timer.start()
            assert list(iterator) == []
            timer.join()
        assert source.warnings == []
        sys.stdin.detach()
