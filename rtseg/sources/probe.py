"""Header, index and packet times of a video file, read by FFmpeg without decoding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av

from rtseg.addresses import public_name, without_secrets
from rtseg.errors import SourceError
from rtseg.files import reason
from rtseg.media import (
    EBML,
    TRACK_ERRORS,
    begin_by_dts,
    choose_video,
    has_no_pts,
    is_counted,
    is_joined,
    joined_parts,
    middle_step,
    one_timeline,
    open_media,
)
from rtseg.options import imported
from rtseg.player import PEEKED_PACKETS, Header, Place, Shot, are_steady, place_of
from rtseg.sources.options import SourceOptions
from rtseg.text import counted

GIF_END = 64
"""Bytes in which a GIF ends, if others follow its end."""

MOST_MISSING = 1 << 40
"""Bytes that are believed to be missing of a file; above them its size is damaged."""


class Player(Protocol):
    """An open video, at its first frame.

    Attributes:
        header: what the file declares.
        turned: whether its frames are turned by 90 or 270 degrees to be upright.
        damaged: packets that could not be decoded.
        concealed: frames of which parts were guessed.
        trouble: why it could not be read to its end; "" if it could.
    """

    header: Header
    turned: bool
    damaged: int
    concealed: int
    trouble: str

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know; grows while the file is read."""

    def read(self, *, planar: bool = False) -> Shot | None:
        """The next frame that can be decoded, upright, or in planes if it may be; None at the
        end."""

    def seek(self, seconds: float) -> Place | None:
        """Continue with a frame at or before `seconds` from the first one, or near there.

        Returns:
            The place of the packet that it continues with, if it is known.
        """

    def release(self) -> None:
        """Close the file."""


PLAYERS = {
    "ffmpeg": "rtseg.sources.ffmpeg:FilePlayer",
    "opencv": "rtseg.sources.opencv:OpenCVPlayer",
    "nvdec": "rtseg.sources.nvdec:NvdecPlayer",
}
"""Decoder -> "module:class", called as (target, options)."""


def open_player(target: str, options: SourceOptions) -> Player:
    """The player that `options.decoder` names, without a fallback.

    Raises:
        SourceError: it cannot decode this file.
        DeviceError: NVDEC was requested, and there is none.
    """
    player: Player = imported(PLAYERS[options.decoder.partition(":")[0]])(target, options)
    return player


def display_name(target: str) -> str:
    """The name of a file or address in messages."""
    return public_name(target) if "://" in target else Path(target).name


def refusal(error: BaseException | None, scheme: str) -> str | None:
    """The answer of a server that gives no video, such as "404 Not Found"; None without one.

    Args:
        error: what FFmpeg raised at its address.
    """
    if isinstance(error, (av.HTTPError, av.HTTPClientError)):
        answer = str(error.strerror).removeprefix("Server returned ")
        return without_secrets(re.split(r", | \(| reply", answer)[0])
    if isinstance(error, av.InvalidDataError):  # also where an RTSP server is silent
        return "what it sends is not video" if scheme.startswith("http") else None
    return None


def packet_places(target: str, options: SourceOptions) -> tuple[Place, ...]:
    """The places of all frames, in the order of their times, without decoding them.

    Empty when the file does not hold them, as raw streams do not, and when a player would not
    believe all of them, or not find its way by them: those of joined files, or wrong ones.
    """
    try:
        with open_media(target, options.timeout) as container:
            stream = choose_video(container, display_name(target), options.stream)
            if is_counted(container):
                return ()
            keep_time, by_dts = one_timeline(container), has_no_pts(container)
            others = container.streams.audio if is_joined(container) else ()
            places = []
            for packet in container.demux(stream, *others):
                keep_time(packet)
                if packet.stream is stream and packet.size and not packet.is_discard:
                    places.append(place_of(packet, by_dts=by_dts))
    except TRACK_ERRORS:  # damaged: the decoder will show how far it gets
        return ()
    found = [place for place in places if place is not None]
    steady = len(found) == len(places) and are_steady([place.at for place in found])
    if not steady or keep_time.changed:
        return ()
    found.sort()
    if by_dts and len(found) > 1:
        lasts = middle_step([place.at for place in found[:PEEKED_PACKETS]])
        begin = begin_by_dts(stream, found[0].at, found[1].at, lasts)
        found[0] = found[0]._replace(at=begin)
    return tuple(found)


def shown_count(target: str, options: SourceOptions) -> int:
    """The number of frames to be shown by the index of a file; 0 where it has none.

    The header also counts frames that an edit list hides, and the empty chunks that fill pauses in
    AVI. The packets do not include those that are cut off.
    """
    try:
        with open_media(target, options.timeout) as container:
            stream = choose_video(container, display_name(target), options.stream)
            return sum(bool(each.size) and not each.is_discard for each in stream.index_entries)
    except TRACK_ERRORS:
        return 0


def fault_of(
    player: Player, name: str, target: str, options: SourceOptions, shown: int | None
) -> str | None:
    """What is wrong with a video that was read to its end, for the user; None if nothing is.

    Args:
        shown: frames that it gave; None before its end.
    """
    if shown is not None and (short := _lacks(player, target, options, shown)):
        return f"{name} ended after {short}"
    if player.damaged:
        packets = counted(player.damaged, "packet")
        return f"{name} is damaged: {packets} could not be decoded"
    if player.concealed:
        frames = counted(player.concealed, "frame")
        return f"{name} is damaged: {frames} {'were' if player.concealed > 1 else 'was'} concealed"
    lost = player.trouble if shown is not None else ""
    return f"{name} could not be read to its end: {lost}" if lost else None


def _lacks(player: Player, target: str, options: SourceOptions, shown: int) -> str:
    """The frames that a video gave and what it lacks at its end; "" if nothing."""
    count = player.header.frame_count
    if count is not None and shown < count:
        declared = shown_count(target, options)
        # fewer than were read: the file has no index, and lists packets as they are read
        count = count if declared < shown else declared
        if shown < count:
            return f"{shown} of its {count} frames: it is damaged or cut off"
    if "://" not in target and (missing := missing_bytes(Path(target))):
        if missing > MOST_MISSING:
            return f"{shown} frames: the sizes in it are damaged"
        return f"{shown} frames: it is cut off, at least {missing} bytes are missing"
    return ""


def missing_bytes(path: Path) -> int:
    """Bytes, at least, that a Matroska, WebM, FLV or GIF file lacks at its end; 0 for other files.

    The header of Matroska counts bytes, not frames; FLV is a list of tags that begin with their
    size, the last of which may lack its size at the end; GIF ends with an empty block and a mark.
    """
    if not path.is_file():  # it was removed while it was read, which went on to its end
        return 0
    with path.open("rb") as file:
        head = file.read(len(EBML))
        file.seek(max(0, path.stat().st_size - GIF_END))
        tail = file.read()
    size = path.stat().st_size
    if head.startswith(EBML):
        return max(0, joined_parts(path, "matroska")[1] - size)
    if head == b"GIF8":
        return 0 if b"\0;" in tail else 1
    if not head.startswith(b"FLV"):
        return 0
    return max(0, joined_parts(path, "flv", most=size)[1] - size - 4)


def check_file(path: Path) -> None:
    """Raise SourceError for a path that is missing, empty, a pipe or cannot be read."""
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
