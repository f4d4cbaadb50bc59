"""How a source is opened, what is taken from it, and what a target names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from rtseg.errors import SourceError, UsageError
from rtseg.options import check, flag, option

MAX_SIDE = 32768
GLOB = re.compile(r"[*?\[]")
PIX_FMTS = ("bgr24", "rgb24", "gray", "yuv420p", "nv12")
"""Pixel formats of raw frames."""


@dataclass(frozen=True)
class SourceOptions:
    """How a source is opened, and what is taken from it; each kind uses what applies to it.

    Attributes:
        width: Width to request from the camera, in pixels.
        height: Height to request from the camera, in pixels.
        fps: Frame rate to request from the camera; also the rate of raw frames and images.
        fourcc: Pixel format to request from the camera; default MJPG unless it is slower.
        size: Size of raw frames on stdin, such as 1280x720.
        pix_fmt: Pixel format of raw frames on stdin and stdout.
        mirror: Flip horizontally, after --rotate.
        rotate: Rotate clockwise by this many degrees.
        loop: Restart at the end.
        live: Replay a recording like a camera, by the clock: late frames are dropped.
        fps_cap: Drop frames above this rate; cameras skip decoding them.
        start: Start at this time: seconds, or 1:02.5.
        end: Stop before this time: seconds, or 1:02.5.
        max_frames: Stop after this many frames.
        every: Keep every Nth frame.
        decoder: Decoder of video files: ffmpeg, opencv, or nvdec[:N] on an NVIDIA GPU.
        stream: Number of the video track of a file, from 0; default is the one players choose.
        deinterlace: Deinterlace frames of video files: auto those that are flagged, on all, or off.
        reconnect: Reconnect to a lost camera or stream instead of failing.
        timeout: Seconds without a frame after which a camera or stream counts as lost.

    Raises:
        UsageError: a value makes no sense.
    """

    width: int | None = option(None, least=1, most=MAX_SIDE)
    height: int | None = option(None, least=1, most=MAX_SIDE)
    fps: float | None = option(None, least=1e-3, most=10_000)
    fourcc: str | None = None
    size: tuple[int, int] | None = None
    pix_fmt: str = option("bgr24", choices=PIX_FMTS)
    mirror: bool = False
    rotate: int = option(0, choices=(0, 90, 180, 270))
    loop: bool = False
    live: bool = False
    fps_cap: float | None = option(None, least=1e-3, most=10_000)
    start: float | None = option(None, least=0)
    end: float | None = None
    max_frames: int | None = option(None, least=1)
    every: int = option(1, least=1)
    decoder: str = "ffmpeg"
    stream: int | None = option(None, least=0)
    deinterlace: Literal["auto", "on", "off"] = "auto"
    reconnect: bool = True
    timeout: float = option(10.0, least=1e-3, most=1e6)

    def __post_init__(self) -> None:
        check(self)
        for side in self.size or ():
            _require(1 <= side <= MAX_SIDE, "size", side, f"1 to {MAX_SIDE}")
        nvdec = re.fullmatch(r"ffmpeg|opencv|nvdec(:\d{1,3})?", self.decoder)
        _require(nvdec is not None, "decoder", self.decoder, "ffmpeg, opencv, nvdec or nvdec:N")
        if self.fourcc is not None:
            four = len(self.fourcc) == 4 and self.fourcc.isascii()
            _require(four, "fourcc", self.fourcc, "four letters, as MJPG")
        if self.end is not None:
            start = self.start or 0.0
            _require(self.end > start, "end", self.end, f"seconds after the start, {start:g}")


def check_decoder(options: SourceOptions, found: str) -> None:
    """Refuse a decoder other than the default for what is not a video file.

    Args:
        found: why it does not apply.

    Raises:
        UsageError: `options` name one.
    """
    if options.decoder != "ffmpeg":
        raise UsageError(f"--decoder {options.decoder} is for video files", found=found)


def exact_rate(fps: float) -> Fraction:
    """The exact rate of a rounded number: 29.97 is 30000/1001, 12.5 is 25/2."""
    whole = round(fps)
    ntsc = Fraction(whole * 1000, 1001)
    if whole and fps != whole and abs(fps - ntsc) < 0.005:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UsageError(f"{flag(name)} {value}", found=f"it must be {wanted}")


def public_name(address: str) -> str:
    """The address without its password, and without values of the query that look like one."""
    port = r"(?!\d+(?:[/?#]|$))"  # host:554/a@b has no password
    name = re.sub(rf"^([\w+]+://[^/?#@:]*):{port}.*@(?=[^@/?#]*(?:[/?#]|$))", r"\1@", address)
    secret = r"((?:^|[?&])[^=&]*(?:pass|pwd|token|secret|key|auth|sig)[^=&]*=)[^&#]*"
    return re.sub(secret, r"\1***", name, flags=re.IGNORECASE)


def is_video(target: str) -> bool:
    """Whether a target is the path of a file, which may be a video."""
    return not _is_address(target)


def is_pictures(target: str) -> bool:
    """Whether a target is a picture, a folder or a glob.

    Raises:
        SourceError: it is a path that cannot be looked up.
    """
    from rtseg.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, is_image

    if _is_address(target):
        return False
    path = Path(target)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long, a folder is closed
        raise SourceError(
            f"cannot open {target}", found=(error.strerror or str(error)).lower()
        ) from error
    named_so = path.suffix.lower() in IMAGE_SUFFIXES | HEIF_SUFFIXES
    if path.is_file():
        return named_so or (not path.suffix and is_image(path))
    return named_so or path.is_dir() or target.endswith(("/", "\\")) or bool(GLOB.search(target))


def is_camera(target: str) -> bool:
    """Whether a target is a camera: its number, or its device."""
    return target.isdecimal() or target.startswith(("/dev/video", "/dev/v4l/"))


def is_stdin(target: str) -> bool:
    """Whether a target is standard input."""
    return target == "-"


def _is_address(target: str) -> bool:
    return re.match(r"[a-z][\w+.-]*://", target, re.IGNORECASE) is not None


def path_stem(target: str) -> str:
    """What files written from a path are called: "clip"."""
    return _as_name(Path(target).stem) or "source"


def camera_stem(target: str) -> str:
    """What files written from a camera are called: "camera_0"."""
    number = target.removeprefix("/dev/video")
    return f"camera_{number}" if number.isdecimal() else Path(target).name


def address_stem(target: str) -> str:
    """What files written from an address are called: "host_stream"."""
    address = public_name(target).partition("://")[2].partition("?")[0]
    return _as_name(address.rpartition("@")[2])


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")
