"""What cameras and network streams share: no end, the clock's time, and coming back when lost."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import cv2

from rtseg.clock import Clock
from rtseg.contracts import Source
from rtseg.errors import SourceError
from rtseg.frame import Frame, Image
from rtseg.sources.cap import RateCap
from rtseg.sources.options import SourceOptions

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0

TRIES = 8
"""Pictures in a row that cannot be decoded before a device that goes on giving counts as lost."""


class LiveSource(Source):
    """A capture that never ends: no picture means it was lost, and is waited for.

    pts is the time of arrival, so that a recording lasts as long as the world did. After an
    outage the numbers go on, and the picture may have another size, of which `warnings` tell.
    Frames above `fps_cap` are grabbed and not decoded. A subclass gives `info` and `_open`, and
    sets `_capture`.
    """

    keeps_cap = True
    _capture: cv2.VideoCapture | None = None

    def __init__(self, options: SourceOptions, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._reconnect = options.reconnect
        self._cap = RateCap(options.fps_cap or float("inf"))
        self._index = 0
        self._first_at: float | None = None

    @abstractmethod
    def _open(self) -> cv2.VideoCapture | None:
        """Try once to open the device or address; None when it is not there."""

    def _read(self) -> Frame | None:
        picture = self._grab()
        if picture is None and not self._interrupted:
            picture = self._recover()
        if picture is None:
            return None
        image, at = picture
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
        """The next picture to be taken and the time at which it came; None when there is none."""
        for _ in range(TRIES):
            if self._capture is None or (at := self._advance(self._capture)) is None:
                return None
            good, image = self._capture.retrieve()
            if good and image is not None and image.size:
                return image, at
        return None

    def _advance(self, capture: cv2.VideoCapture) -> float | None:
        """Grab up to the next picture that the cap lets through; the time at which it came."""
        if not capture.grab():
            return None
        while not self._cap.takes(at := self.clock.now()):
            self.capped += 1
            if self._interrupted or not capture.grab():
                return None
        return at

    def _recover(self) -> tuple[Image, float] | None:
        """Reopen until a picture comes; None once somebody interrupts.

        Raises:
            SourceError: it is not to be waited for.
        """
        self._release()
        if not self._reconnect:
            raise SourceError(
                f"{self.info.name} was lost",
                found=f"it gave no more pictures after {self._index}",
                do="Leave out --no-reconnect to wait until it comes back",
            )
        self.outages += 1
        seconds, attempt = FIRST_WAIT_SECONDS, 1
        while not self._interrupted:
            self.notice = f"reconnecting to {self.info.name} (try {attempt})"
            self.wait(seconds)
            if not self._interrupted and (picture := self._reopen()) is not None:
                self.notice = None
                return picture
            seconds, attempt = min(2 * seconds, LONGEST_WAIT_SECONDS), attempt + 1
        return None

    def _reopen(self) -> tuple[Image, float] | None:
        self._capture = self._open()
        picture = self._grab()
        if picture is None:
            self._release()
        return picture
