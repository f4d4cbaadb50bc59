"""A virtual camera, which video calls and other programs can select like a webcam."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import banner, even, letterbox, with_square_pixels
from rtseg.errors import SinkError, UsageError
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.sinks.options import SinkOptions, opaque
from rtseg.text import counted

DEFAULT_RATE = 30.0


class VirtualSink(Sink):
    """Sends the finished images to a virtual camera, at the source's rate.

    The first image gives the size; later ones of another size are letterboxed, as programs do not
    expect a camera to change. While no frame comes, the last image is shown under a banner.

    Args:
        path: the device, such as "/dev/video10"; empty for the first one found.

    Raises:
        UsageError: pyvirtualcam is not installed.
        SinkError: the driver or device is missing, or refuses images.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._device = None if path == Path() else str(path)
        self._rate = float(info.frame_rate or DEFAULT_RATE)
        self._pixel_aspect = float(info.sample_aspect_ratio)
        self._image: Image | None = None
        self._notice: str | None = None
        self._frames = 0
        self._open(info.width + info.width % 2, info.height + info.height % 2)

    def write(self, rendered: Rendered) -> None:
        """Send one image."""
        image = even(with_square_pixels(rendered.image, self._pixel_aspect))
        if self._image is None and image.shape[:2] != self._size:
            self._camera.close()
            self._open(image.shape[1], image.shape[0])
        self._image, self._notice = letterbox(image, self._size), None
        self._send(self._image)
        self._frames += 1

    def idle(self, notice: str | None) -> None:
        """Send the last image under a banner, once per notice."""
        if notice and notice != self._notice and self._image is not None:
            self._notice = notice
            self._send(banner(self._image, notice))

    def close(self) -> None:
        """Release the device."""
        self._camera.close()

    def summary(self) -> str:
        """Number of frames and the device."""
        frames = counted(self._frames, "frame")
        return f"{frames} to {self._name} (virtual camera)" if self._frames else ""

    def _open(self, width: int, height: int) -> None:
        self._size = (height, width)
        self._camera = open_virtual(self._device, width, height, self._rate)
        self._name = self._camera.device

    def _send(self, image: Image) -> None:
        try:
            self._camera.send(np.ascontiguousarray(image))
        except RuntimeError as error:
            raise SinkError(f"cannot send to {self._name}", found=_reason(error)) from error


def check_virtual(path: Path, options: SinkOptions, alpha: bool) -> None:
    """Raise UsageError if images have alpha."""
    if alpha:
        raise opaque("a virtual camera")


def open_virtual(device: str | None, width: int, height: int, rate: float) -> Any:
    """A `pyvirtualcam.Camera` for (height, width, 3) uint8 BGR.

    Raises:
        UsageError: pyvirtualcam is not installed.
        SinkError: it cannot be opened.
    """
    try:
        import pyvirtualcam
    except ImportError as error:
        raise UsageError(
            "cannot open a virtual camera",
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


def _reason(error: RuntimeError) -> str:
    """The message of pyvirtualcam on one line, without the names of its backends."""
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
