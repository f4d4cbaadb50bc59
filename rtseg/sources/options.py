"""How a source is opened and what is taken from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rtseg.errors import UsageError

MAX_SIDE = 32768


@dataclass(frozen=True)
class SourceOptions:
    """What a person may ask of a source; each kind of source uses what applies to it.

    Attributes:
        width, height: of a camera's pictures, in pixels.
        fps: of a camera; or what raw frames and pictures, which have none, are taken to have.
        fourcc: a camera's pixel format, as "MJPG" or "YUYV"; "auto", and None where a size or rate
            is asked for, is MJPG where that gives the rate.
        size: (width, height) of raw frames.
        pix_fmt: of raw frames: bgr24, rgb24, gray, yuv420p, nv12.
        mirror: left becomes right, as in a looking-glass; applied after `rotate`.
        rotate: clockwise degrees: 0, 90, 180, 270.
        loop: begin again at the end.
        live: replay a recording as a camera would give it, by the clock.
        fps_cap: leave out frames that come faster than this; those of a device are not decoded.
        start, end: seconds from the first frame; the frame at `end` is left out.
        max_frames: yield this many at most.
        every: yield one frame of so many.
        reconnect: wait for a lost camera or stream to come back, instead of failing.
        decoder: of video files: opencv, on the processor; nvdec or nvdec:N, on an NVIDIA GPU, and
            never the other in its place.
        timeout: seconds a network may be silent before the stream counts as lost.

    Raises:
        UsageError: a value makes no sense.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None
    size: tuple[int, int] | None = None
    pix_fmt: str = "bgr24"
    mirror: bool = False
    rotate: int = 0
    loop: bool = False
    live: bool = False
    fps_cap: float | None = None
    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    every: int = 1
    reconnect: bool = True
    decoder: str = "opencv"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        _require(self.rotate in (0, 90, 180, 270), "rotate", self.rotate, "0, 90, 180 or 270")
        _require(self.every >= 1, "every", self.every, "1 or more")
        _require(0 < self.timeout < 1e6, "timeout", self.timeout, "seconds above 0")
        for name in ("width", "height"):
            _within(name, getattr(self, name), 1, MAX_SIDE)
        _within("max_frames", self.max_frames, 1, float("inf"))
        _within("fps", self.fps, 1e-3, 10_000)
        _within("fps_cap", self.fps_cap, 1e-3, 10_000)
        _within("start", self.start, 0, float("inf"))
        for side in self.size or ():
            _within("size", side, 1, MAX_SIDE)
        _require(
            re.fullmatch(r"opencv|nvdec(:\d{1,3})?", self.decoder) is not None,
            "decoder",
            self.decoder,
            "opencv, nvdec or nvdec:N",
        )
        if self.fourcc is not None:
            _require(
                len(self.fourcc) == 4 and self.fourcc.isascii(),
                "fourcc",
                self.fourcc,
                "four letters, as MJPG",
            )
        if self.end is not None:
            start = self.start or 0.0
            _require(self.end > start, "end", self.end, f"seconds after the start, {start:g}")


def check_decoder(options: SourceOptions, found: str) -> None:
    """Refuse another decoder than the usual where it does not apply.

    Raises:
        UsageError: it was asked for.
    """
    if options.decoder != "opencv":
        raise UsageError(f"--decoder {options.decoder} plays video files", found=found)


def exact_rate(fps: float) -> Fraction:
    """The rate that a decimal number means: 29.97 is 30000/1001, 12.5 is 25/2."""
    whole = round(fps)
    ntsc = Fraction(whole * 1000, 1001)
    if whole and fps != whole and abs(fps - ntsc) < 0.005:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise UsageError(f"{name.replace('_', '-')} {value!r}", found=f"it must be {wanted}")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None:
        wanted = f"{low:g} to {high:g}" if high < float("inf") else f"{low:g} or more"
        _require(low <= value <= high and value < float("inf"), name, value, wanted)


def public_name(address: str) -> str:
    """The address without its password, and without values of the query that look like one."""
    port = r"(?!\d+(?:[/?#]|$))"  # host:554/a@b has no password
    name = re.sub(rf"^([\w+]+://[^/?#@:]*):{port}.*@(?=[^@/?#]*(?:[/?#]|$))", r"\1@", address)
    secret = r"((?:^|[?&])[^=&]*(?:pass|pwd|token|secret|key|auth|sig)[^=&]*=)[^&#]*"
    return re.sub(secret, r"\1***", name, flags=re.IGNORECASE)
