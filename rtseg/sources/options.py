"""How a source is opened, what is taken from it, and what a target names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rtseg.addresses import is_address, public_name, remember, user_of
from rtseg.errors import SourceError, UsageError
from rtseg.files import cut_name
from rtseg.options import check, flag, option
from rtseg.text import file_name

MAX_SIDE = 32768
MAX_STEM_BYTES = 240
"""Of the names of files written from a source."""
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
        deinterlace: Deinterlace videos and streams: auto if flagged interlaced, on always, or off.
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


def cannot_loop(name: str) -> UsageError:
    """The error for `loop` with a source that never ends, or can be read only once."""
    return UsageError(
        f"cannot loop {name}",
        found="only files, folders and recordings can loop",
        do="--loop takes no number; one that follows it is a camera",
    )


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


def check_address(address: str) -> None:
    """Refuse an address that cannot be taken apart, without a word of its password.

    Raises:
        SourceError: its password has characters that must be written otherwise, or it has no host.
    """
    remember([address])
    asked = f"cannot open {public_name(address)}"
    found, scheme = user_of(address), address.partition(":")[0]
    if found is not None and re.search(r"[/?#]", found[2]):
        raise SourceError(
            asked,
            found="its user or password contains /, ? or #, which end the name of a host",
            do="Write / as %2F, ? as %3F and # as %23",
        )
    if "://" not in address:
        raise SourceError(asked, found="it is not an address", do=f"Write {scheme}://HOST/PATH")
    try:
        parts = urlsplit(address)
    except ValueError:  # its text names what it does not like, which may be the password
        raise SourceError(
            asked,
            found="it contains characters that addresses cannot",
            do="Write those of the user and the password as %XX, such as @ as %40 and [ as %5B",
        ) from None
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        raise SourceError(
            asked,
            found="what stands for its port is not one",
            do="Write a : in the password as %3A, a / as %2F, a ? as %3F and a # as %23",
        ) from None
    if not host and not port and parts.scheme not in ("udp", "rtp"):
        raise SourceError(asked, found="the address names no host")


def is_video(target: str) -> bool:
    """Whether a target is the path of a file, which may be a video."""
    return not is_address(target)


def is_pictures(target: str) -> bool:
    """Whether a target is a picture, a folder or a glob.

    Raises:
        SourceError: it is a path that cannot be looked up.
    """
    from rtseg.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, holds_video, is_image

    if is_address(target):
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
    if path.is_file():  # content counts, not the name
        return is_image(path) or (named_so and not holds_video(path))
    return named_so or path.is_dir() or target.endswith(("/", "\\")) or bool(GLOB.search(target))


def split_glob(pattern: Path) -> tuple[Path, Path]:
    """The longest folder of a glob that exists as it is written, and the rest of the glob.

    So `takes [1]/*.png` is what its folder holds, though brackets stand for one character.
    """
    folder = next((each for each in pattern.parents if each.is_dir()), pattern.parents[-1])
    return folder, pattern.relative_to(folder)


def is_animated(target: str) -> bool:
    """Whether a target is an animated image that is not a video, as GIFs are."""
    from rtseg.images import is_animation

    path = Path(target)
    try:
        return not is_address(target) and path.is_file() and is_animation(path)
    except OSError:  # its name is too long
        return False


def is_camera(target: str) -> bool:
    """Whether a target is a camera: its number, or its device."""
    return target.isdecimal() or target.startswith(("/dev/video", "/dev/v4l/"))


def is_stdin(target: str) -> bool:
    """Whether a target is standard input."""
    return target == "-"


def trimmed(target: str | int | Path) -> str:
    """An address without the spaces that were copied with it; other targets as they are.

    Raises:
        UsageError: it is not the name of anything.
    """
    if isinstance(target, bool) or not isinstance(target, (str, int, Path)):
        raise UsageError(
            f"{target!r} is not a source", do="Name a camera, a file, a folder or an address"
        )
    text = str(target)
    if is_address(text.strip()):
        return file_name(text.strip(), is_address=True)
    return file_name(text)


def path_stem(target: str) -> str:
    """What files written from a path are called: "clip"."""
    return _as_name(Path(target).stem) or "source"


def camera_stem(target: str) -> str:
    """What files written from a camera are called: "camera_0"."""
    number = target.removeprefix("/dev/video")
    return f"camera_{number}" if number.isdecimal() else Path(target).name


def address_stem(target: str) -> str:
    """What files written from an address are called: "host_4be1c2"."""
    return _as_name(public_name(target).partition(":")[2])


def _as_name(text: str) -> str:
    """Text as part of a file name, short enough that a number and a suffix can follow."""
    return cut_name(re.sub(r"[^\w.-]+", "_", text).strip("_"), "", MAX_STEM_BYTES)
