"""What plays a video file: OpenCV on the processor, or NVDEC, whose pictures stay on the GPU."""

from __future__ import annotations

from typing import Protocol

import cv2

from rtseg.frame import Image, Picture
from rtseg.sources.capture import network_params, open_capture
from rtseg.sources.options import SourceOptions
from rtseg.sources.probe import not_a_video

TRIES = 8
"""Reads that must fail before a file counts as ended: after damage, more pictures may come."""


class Player(Protocol):
    """An open video, at its first picture; pictures come upright.

    Attributes:
        turned: whether they are turned by a quarter to be so.
        note: what a person should know of it; "" for nothing.
    """

    turned: bool
    note: str

    def read(self) -> Picture | None:
        """The next picture that can be decoded; None at the end."""

    def position(self) -> float:
        """Seconds at which the last picture lies; where the first lies is the player's matter."""

    def seek(self, seconds: float) -> None:
        """Go on with a picture at or before so many seconds from the first one, or near there."""

    def release(self) -> None:
        """Close the file."""


class OpenCVPlayer:
    """A `Player` on the processor.

    Raises:
        SourceError: there is no decoder for it.
    """

    note = ""

    def __init__(self, target: str, timeout: float) -> None:
        params = network_params(timeout) if "://" in target else {}
        params.pop(cv2.CAP_PROP_N_THREADS, None)
        capture = open_capture(target, cv2.CAP_FFMPEG, params)
        if capture is None:
            raise not_a_video(target, "no decoder for it")
        self._capture = capture
        self.turned = capture.get(cv2.CAP_PROP_ORIENTATION_META) in (90, 270)

    def read(self) -> Image | None:
        """As a `Player`; OpenCV says "no" for damage as for the end."""
        for _ in range(TRIES):
            good, image = self._capture.read()
            if good:
                return image
        return None

    def position(self) -> float:
        """As a `Player`."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def seek(self, seconds: float) -> None:
        """As a `Player`."""
        self._capture.set(cv2.CAP_PROP_POS_MSEC, seconds * 1000)

    def release(self) -> None:
        """As a `Player`."""
        self._capture.release()


def open_player(target: str, options: SourceOptions) -> Player:
    """What `options` ask for, and nothing else in its place.

    Raises:
        SourceError: it cannot decode this file.
        DeviceError: NVDEC was asked for, and there is none.
    """
    if options.decoder == "opencv":
        return OpenCVPlayer(target, options.timeout)
    from rtseg.sources.nvdec import NvdecPlayer

    return NvdecPlayer(target, options)
