"""A virtual camera: what video calls and other programs choose as if it were a webcam."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import even, letterbox
from rtseg.errors import SinkError, UsageError, counted
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions

USUAL_RATE = 30.0


class VirtualSink(Sink):
    """Sends the finished pictures to a virtual camera, at the source's rate.

    The first picture gives the size; later ones of another size are fitted into it, as programs
    that look do not expect a camera to change. While nothing comes, a banner says why.

    Args:
        path: the device, as "/dev/video10"; empty takes the first there is.

    Raises:
        UsageError: pyvirtualcam is not installed.
        SinkError: there is no such driver or device, or it takes no pictures.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._device = None if path == Path() else str(path)
        self._rate = float(info.frame_rate or USUAL_RATE)
        self._stretch = float(info.sample_aspect_ratio)
        self._picture: Image | None = None
        self._notice: str | None = None
        self._frames = 0
        self._open(info.width + info.width % 2, info.height + info.height % 2)

    def write(self, rendered: Rendered) -> None:
        """Send one picture."""
        picture = even(_with_square_pixels(rendered.image, self._stretch))
        if self._picture is None and picture.shape[:2] != self._size:
            self._camera.close()
            self._open(picture.shape[1], picture.shape[0])
        self._picture, self._notice = letterbox(picture, self._size), None
        self._send(self._picture)
        self._frames += 1

    def idle(self, notice: str | None) -> None:
        """Say under a banner, once, what is new while no picture comes."""
        from rtseg.draw import banner

        if notice and notice != self._notice and self._picture is not None:
            self._notice = notice
            self._send(banner(self._picture, notice))

    def close(self) -> None:
        """Give the device back."""
        self._camera.close()

    def summary(self) -> str:
        """How many frames went where."""
        frames = counted(self._frames, "frame")
        return f"{frames} to {self._name} (virtual camera)" if self._frames else ""

    def _open(self, width: int, height: int) -> None:
        self._size = (height, width)
        self._camera = open_virtual(self._device, width, height, self._rate)
        self._name = self._camera.device

    def _send(self, picture: Image) -> None:
        try:
            self._camera.send(np.ascontiguousarray(picture))
        except RuntimeError as error:
            raise SinkError(f"cannot send to {self._name}", found=_reason(error)) from error


def open_virtual(device: str | None, width: int, height: int, rate: float) -> Any:
    """A `pyvirtualcam.Camera` that takes (height, width, 3) uint8 BGR: the one place that opens it.

    Raises:
        UsageError: pyvirtualcam is not installed.
        SinkError: it cannot be opened.
    """
    try:
        import pyvirtualcam
    except ImportError as error:
        raise UsageError(
            "a virtual camera was asked for",
            found="pyvirtualcam is not installed",
            do='Install it: python -m pip install "rtseg[virtual]"',
        ) from error
    bgr = pyvirtualcam.PixelFormat.BGR
    try:
        return pyvirtualcam.Camera(width, height, rate, fmt=bgr, device=device)
    except RuntimeError as error:
        raise SinkError(
            f"cannot open the virtual camera{f' {device}' if device else ''}",
            found=_reason(error),
            do=_what_to_do(device),
        ) from error


def _with_square_pixels(picture: Image, ratio: float) -> Image:
    """(H, W, 3) uint8, of one whose pixels are `ratio` times as wide as high: cameras have none."""
    if abs(ratio - 1) < 1e-3:
        return picture
    height, width = picture.shape[:2]
    return cv2.resize(picture, (max(1, round(width * ratio)), height))


def _reason(error: RuntimeError) -> str:
    """What pyvirtualcam says, on one line, without the names of its parts."""
    text = re.sub(r"'\w+' backend: ", "", "; ".join(str(error).splitlines()))
    return text.split(" Did you run ")[0].strip().rstrip(".")


def _what_to_do(device: str | None) -> str:
    if not sys.platform.startswith("linux"):
        return "Install OBS Studio (obsproject.com) and start its virtual camera once"
    if device is not None and Path(device).exists():
        return "Close the program that sends to it, or name another v4l2loopback device"
    number = re.fullmatch(r"/dev/video(\d+)", device or "")
    which = f" video_nr={number[1]}" if number else ""
    return (
        "Load its driver (package v4l2loopback-dkms): "
        f"sudo modprobe v4l2loopback exclusive_caps=1 card_label=rtseg{which}"
    )
