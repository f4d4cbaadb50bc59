"""OpenCV captures, opened in one place, and the live source that cameras and streams share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import cv2

from rtseg.contracts import Source
from rtseg.errors import SourceError
from rtseg.frame import Frame, Image
from rtseg.sources.options import SourceOptions, exact_rate
from rtseg.sources.wrappers import RateCap
from rtseg.stats import Clock
from rtseg.system import hush_opencv

BUFFERED_FRAMES = 2
"""Of a camera: one to read while the next is filled. With one, cameras fall from 30 to 15 fps
(LibreScanner/horus#60); more add latency."""

LIVE_DECODER_THREADS = 1
"""FFmpeg's frame threads each hold a frame back: half a second of delay on 16 cores."""

FIRST_WAIT_SECONDS = 0.5
MAX_WAIT_SECONDS = 8.0

DECODE_TRIES = 8
"""Frames in a row that cannot be decoded before a device that keeps delivering counts as lost, and
a file as ended: after damage, more frames may come."""


def open_capture(
    target: str | int,
    backend: int = cv2.CAP_ANY,
    params: Mapping[int, int] | None = None,
) -> cv2.VideoCapture | None:
    """An open capture; None when OpenCV cannot open it, which it does not explain.

    Args:
        target: a camera's index or path, a file, an address.
        backend: one of `cv2.CAP_*`.
        params: `cv2.CAP_PROP_*` -> value, for those that count while opening.
    """
    hush_opencv()
    if isinstance(target, str) and not _is_text(target):
        target = os.fsencode(target)  # type: ignore[assignment]  # as a str it would crash OpenCV
    pairs = [number for pair in (params or {}).items() for number in pair]
    try:
        capture = cv2.VideoCapture(target, backend, pairs)
    except cv2.error:  # some backends throw where others return a closed capture
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def network_params(timeout: float) -> dict[int, int]:
    """Opening parameters of a network stream that may be silent for `timeout` seconds."""
    return {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: round(timeout * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: round(timeout * 1000),
        cv2.CAP_PROP_N_THREADS: LIVE_DECODER_THREADS,
    }


def configure(
    capture: cv2.VideoCapture,
    *,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    fourcc: str | None = None,
) -> None:
    """Request a format, a size and a rate, in this order as each may depend on those before it; and
    a short buffer."""
    if fourcc:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc))
    if width is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
    if height is not None:
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, BUFFERED_FRAMES)


def nominal_rate(capture: cv2.VideoCapture) -> Fraction | None:
    """The rate that a device or stream reports; None where it reports none, or nonsense."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return exact_rate(rate) if 0.1 <= rate <= 1000 else None


def fourcc_text(code: float) -> str:
    """The four letters of OpenCV's number of a pixel format; "" when it has none."""
    number = int(code)
    letters = "".join(chr((number >> shift) & 0xFF) for shift in (0, 8, 16, 24))
    return letters if letters.isascii() and letters.isprintable() else ""


def _is_text(name: str) -> bool:
    """Whether the name of a file is valid text, without the bytes that Python escapes."""
    return name.encode("utf-8", "replace") == name.encode("utf-8", "surrogateescape")


class LiveSource(Source):
    """A capture that never ends: when no frame comes it was lost, and is reopened until it is back.

    pts is the time of arrival (of HLS, when a frame is due), so that a recording lasts as long as
    the world did. After an outage the frame numbers go on; a new size is reported in `warnings`.
    Frames above `fps_cap` are grabbed and not decoded. A subclass gives `info` and `_open`, and
    sets `_capture`.
    """

    keeps_cap = True
    _capture: cv2.VideoCapture | None = None

    def __init__(self, options: SourceOptions, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._reconnect, self._timeout = options.reconnect, options.timeout
        self._cap = RateCap(options.fps_cap or float("inf"))
        self._index = 0
        self._first_at: float | None = None

    @abstractmethod
    def _open(self) -> cv2.VideoCapture | None:
        """Try once to open the device or address; None when it is not there."""

    def _read(self) -> Frame | None:
        grabbed = self._grab()
        if grabbed is None and not self._interrupted:
            grabbed = self._recover()
        if grabbed is None:
            return None
        image, at = grabbed
        height, width = image.shape[:2]
        if (width, height) != (self.info.width, self.info.height):
            self.warnings.append(
                f"{self.info.name} gives {width}x{height} since frame {self._index}, "
                f"{self.info.width}x{self.info.height} before"
            )
            self.info = replace(self.info, width=width, height=height)
        if self._first_at is None:
            self._first_at = at
        frame = Frame(image, self._index, at - self._first_at, at)
        self._index += 1
        return frame

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _grab(self) -> tuple[Image, float] | None:
        """The next image within the cap and the time of its arrival; None when there is none."""
        until = self.clock.now() + self._timeout
        for _ in range(DECODE_TRIES):
            if self._capture is None or (at := self._advance(self._capture)) is None:
                return None
            good, image = self._capture.retrieve()
            if good and image is not None and image.size:
                return image, at
            if self.clock.now() > until:
                return None
        return None

    def _advance(self, capture: cv2.VideoCapture) -> float | None:
        """Grab up to the next frame within the cap; the time of its arrival."""
        if not capture.grab():
            return None
        while not self._cap.takes(at := self._arrived(capture)):
            self.capped += 1
            if self._interrupted or not capture.grab():
                return None
        return at

    def _arrived(self, capture: cv2.VideoCapture) -> float:
        """The time of the grabbed frame, after a wait until then."""
        return self.clock.now()

    def _recover(self) -> tuple[Image, float] | None:
        """Reopen until an image comes; None once interrupted.

        Raises:
            SourceError: the options forbid it.
        """
        self._release()
        if not self._reconnect:
            raise SourceError(
                f"{self.info.name} was lost",
                found=f"it gave no more frames after {self._index}",
                do="Leave out --no-reconnect to wait until it comes back",
            )
        self.outages += 1
        seconds, attempt = FIRST_WAIT_SECONDS, 1
        while not self._interrupted:
            self.notice = f"reconnecting to {self.info.name} (try {attempt})"
            self.wait(seconds)
            if not self._interrupted and (grabbed := self._reopen()) is not None:
                self.notice = None
                return grabbed
            seconds, attempt = min(2 * seconds, MAX_WAIT_SECONDS), attempt + 1
        return None

    def _reopen(self) -> tuple[Image, float] | None:
        self._capture = self._open()
        grabbed = self._grab()
        if grabbed is None:
            self._release()
        return grabbed
