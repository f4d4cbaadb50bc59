"""Header, index and packet times of a video file, read by FFmpeg without decoding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av

from rtseg.errors import SourceError
from rtseg.files import reason
from rtseg.sources.options import public_name

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""IDs of a Matroska file's first element and of the element that holds its content (RFC 9559)."""


@dataclass(frozen=True)
class Probe:
    """The header of a video.

    Attributes:
        frame_rate: mean frames per second, exact; None when not given.
        frame_count: as declared; None when it is not (never estimated).
        sample_aspect_ratio: width of a stored pixel over its height, before any rotation.
        colour_tags: (colorspace, primaries, transfer, range) as FFmpeg numbers.
    """

    frame_rate: Fraction | None
    frame_count: int | None
    sample_aspect_ratio: Fraction
    colour_tags: tuple[int, int, int, int]


def display_name(target: str) -> str:
    """The name of a file or address in messages."""
    return public_name(target) if "://" in target else Path(target).name


def probe(target: str, timeout: float) -> Probe:
    """Read the header of a file, or of a recording behind an address.

    Raises:
        SourceError: it is missing, empty, unreadable, not a video, or has no video stream.
    """
    if "://" not in target:
        _check_file(Path(target))
    try:
        with av.open(target, timeout=timeout if "://" in target else None) as container:
            if not container.streams.video:
                raise SourceError(
                    f"cannot play {display_name(target)}", found="it has no video stream"
                )
            return _header(container.streams.video[0])
    except (av.FFmpegError, OSError, UnicodeError) as error:
        raise not_a_video(target, reason(error)) from error


def not_a_video(target: str, reason: str) -> SourceError:
    """The error for a file that FFmpeg cannot read."""
    return SourceError(
        f"cannot play {display_name(target)}",
        found=f"it is not a video, or it is cut off ({reason.lower()})",
        do="Check that it plays elsewhere",
    )


def refusal(address: str, timeout: float) -> str | None:
    """The answer of a server that gives no video, such as "404 Not Found"; None without one."""
    try:
        av.open(address, timeout=timeout).close()
    except (av.HTTPError, av.HTTPClientError) as error:
        answer = str(error.strerror).removeprefix("Server returned ")
        return re.split(r", | \(| reply", answer)[0]
    except av.InvalidDataError:  # also where an RTSP server is silent
        return "what it sends is not video" if address.startswith("http") else None
    except (av.FFmpegError, OSError, UnicodeError):
        pass
    return None


def packet_times(target: str, timeout: float) -> tuple[float, ...]:
    """Presentation times of all frames, in seconds from the first, without decoding them.

    Empty when the file does not hold them, as raw streams do not.
    """
    try:
        with av.open(target, timeout=timeout if "://" in target else None) as container:
            stream = container.streams.video[0]
            base = Fraction(stream.time_base or 1)
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            ticks = [p.pts for p in packets if p.pts is not None]
            complete = len(ticks) == len(packets)
    except (av.FFmpegError, OSError):  # damaged: the decoder will show how far it gets
        return ()
    if not ticks or not complete:
        return ()
    first = min(ticks)
    return tuple(float((tick - first) * base) for tick in sorted(ticks))


def shown_count(target: str, timeout: float) -> int:
    """The number of frames to be shown by the index of a file; 0 where it has none.

    The header also counts frames that an edit list hides, and the empty chunks that fill pauses in
    AVI. The packets do not include those that are cut off.
    """
    try:
        with av.open(target, timeout=timeout if "://" in target else None) as container:
            entries = container.streams.video[0].index_entries
            return sum(bool(entry.size) and not entry.is_discard for entry in entries)
    except (av.FFmpegError, OSError):
        return 0


def missing_bytes(path: Path) -> int:
    """Bytes that a Matroska or WebM file lacks of its declared size; 0 for other files.

    Its header counts bytes, not frames (RFC 8794, RFC 9559).
    """
    with path.open("rb") as file:
        head = file.read(256)
    if not head.startswith(EBML):
        return 0
    size, at = _sized(head, len(EBML))
    if not head.startswith(SEGMENT, at + size):
        return 0
    size, at = _sized(head, at + size + len(SEGMENT))
    return max(0, at + size - path.stat().st_size)


def _sized(head: bytes, at: int) -> tuple[int, int]:
    """The declared size of an element (0 if unknown), and where its content begins."""
    length = 9 - head[at].bit_length()
    bits = (1 << 7 * length) - 1
    size = int.from_bytes(head[at : at + length], "big") & bits
    return (0 if size == bits else size), at + length


def _check_file(path: Path) -> None:
    asked = f"cannot open {path}"
    if not path.exists():
        raise SourceError(asked, found="there is no such file", do="Check the path")
    if path.is_fifo():
        raise SourceError(
            asked,
            found="it is a pipe, and a video file is read more than once",
            do="Save it as a file, or send raw frames: ffmpeg -i VIDEO -f rawvideo "
            "-pix_fmt bgr24 - | rtseg - --size WIDTHxHEIGHT",
        )
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SourceError(asked, found=reason(error).lower()) from error
    if empty:
        raise SourceError(asked, found="the file is empty")


def _header(stream: av.VideoStream) -> Probe:
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate
    return Probe(
        Fraction(rate) if rate else None,  # PyAV 19 has its own fraction type
        stream.frames or None,
        Fraction(stream.sample_aspect_ratio or 1),
        (
            int(context.colorspace),
            int(context.color_primaries),
            int(context.color_trc),
            int(context.color_range),
        ),
    )
