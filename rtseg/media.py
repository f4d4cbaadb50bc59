"""Media files and recordings as FFmpeg reads them: their tracks, one timeline, upright pictures.

What shows the picture of a file and what copies its sound read it on their own. Both choose tracks
and count time by the rules of this module, which are those of the `ffmpeg` command, so that picture
and sound stay together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from rtseg.errors import SourceError, UsageError
from rtseg.frame import Image
from rtseg.limits import VIDEO_PIXELS, too_large
from rtseg.yuv import (
    DECODED,
    FULL,
    HLG_NITS,
    MOST_NITS,
    RGB,
    graded,
    grading,
    is_converted,
    nearest_matrix,
)

TRACK_ERRORS = (av.FFmpegError, OSError, ValueError, LookupError, UnicodeError)
"""What FFmpeg and PyAV raise for files and tracks that they cannot make sense of."""

JUMP_SECONDS = 10
"""Times of a broadcast or stream that jump ahead by more than this are joined: there was a cut."""

BACK_SECONDS = Fraction(1, 10)
"""Times that jump back by more than this are joined likewise."""

MOST_DELAY_SECONDS = 1
"""Frames are decoded earlier than they are shown by less than this."""

CUT_PACKETS = 4
"""Packets that a parser may hand on after it finds that an earlier one lacks a part."""

WRONG_SECONDS = 30 * 3600
"""Times of other files that are further from those before are not believed."""

AGREES = 0.15
"""Share by which the interval of a declared frame rate may differ from those between frames."""

TEXT_CODECS = frozenset(("ansi", "bintext", "idf", "xbin"))
"""Decoders that draw a text file as it would be seen on a terminal."""

DEFAULT_BONUS = 25_000_000
"""Pixels by which a track that is flagged default counts as larger, as in the `ffmpeg` command."""

EBML = b"\x1a\x45\xdf\xa3"
"""ID of a Matroska file's first element (RFC 9559)."""

MATROSKA_IDS = frozenset(
    map(
        bytes.fromhex,
        # files, what a Segment holds, what a Cluster holds, padding and checksums
        "1a45dfa3 18538067 114d9b74 1549a966 1654ae6b 1f43b675 1c53bb6b 1254c367 1043a770 1941a469"
        " e7 a7 ab a3 a0 af 5854 ec bf".split(),
    )
)
"""IDs of the elements of Matroska by which `joined_parts` finds its way."""

ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
"""What the first object of a file of Windows Media begins with."""

FLV_TAGS = (8, 9, 18)
"""First bytes of the tags of FLV: audio, video and data."""

ELEMENT_BYTES = 27 + 255
"""Enough for the kind and the size of an element of any format: those of a page of Ogg."""

MOST_ELEMENTS = 100_000
"""Elements that are gone through to find where the parts of a joined file begin: a fraction of a
second. Only FLV and recordings of browsers have one for each packet."""

START_CODED = frozenset("h264 hevc vvc evc m4v mpegvideo cavsvideo avs2 avs3 vc1".split())
"""FFmpeg's formats of raw streams whose parts begin with 0, 0, 1."""

CROPPING = re.compile(r"Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)")
"""As FFmpeg prints it: left, right, top, bottom."""

DOLBY_VISION = re.compile(r"DOVI .*profile: (5|10|20), .*compatibility id: 0")
"""Profiles in which only colours of their own (IPTPQc2) are stored."""

PAPER = 255
"""What transparent pixels are laid over: white, as in pictures."""

STRIP_PIXELS = 1 << 18
"""That are worked on at a time."""


# --- files and tracks ----------------------------------------------------------------------------


def open_media(target: str, timeout: float | None = None, **options: Any) -> Any:
    """An open `av.container.InputContainer`.

    What it is depends on its content, not on its name. RTSEG_FORMATS names the formats that may be
    read, as FFmpeg has them, and allows files alone.

    Args:
        target: a path, which may contain colons, or an address.
        timeout: seconds of silence after which an address fails.
        options: of `av.open`.

    Raises:
        av.FFmpegError, OSError, UnicodeError: it cannot be opened.
    """
    how = _limits()
    if "://" in target:
        return _open_address(target, timeout, how, options)
    # absolute, as FFmpeg takes "12:30.mp4" for an address
    path = str(Path(target).absolute())
    container = av.open(path, metadata_errors="replace", options=how, **options)
    starts, _ = joined_parts(Path(path), container.format.name.partition(",")[0])
    if len(starts) > 1:
        container.close()
        return JoinedFile(path, starts, how, options)
    if not _may_be_named_so(container, path):
        return container
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        of_content = how | {"fd": str(descriptor)}
        found = av.open("fd:", metadata_errors="replace", options=of_content, **options)
    except av.error.InvalidDataError:
        if container.format.name in START_CODED and _begins_with_start_code(path):
            return container  # the content is such a stream, too damaged to tell which
        container.close()
        raise
    finally:
        os.close(descriptor)
    container.close()
    return found


def _limits() -> dict[str, str]:
    """Options of FFmpeg: what it may take a file for, and the size of frames."""
    how = {"max_pixels": max_pixels()}  # of frames that are decoded to find out about the tracks
    if formats := os.environ.get("RTSEG_FORMATS"):  # those of playlists read other files
        how |= {"format_whitelist": formats, "protocol_whitelist": "file,fd,subfile"}
    return how


def _open_address(
    target: str, timeout: float | None, how: dict[str, str], options: dict[str, Any]
) -> Any:
    how |= {"rtsp_transport": "tcp"} if target.lower().startswith("rtsp") else {}
    try:
        container = av.open(
            target, timeout=timeout, metadata_errors="replace", options=how, **options
        )
    except av.FFmpegError as error:  # its text holds the address, and so the password
        kind: Any = type(error)
        raise kind(error.errno, error.strerror) from None
    if target.startswith("http") and _may_be_named_so(container, target):
        container.close()
        return _open_address(f"{target}?", timeout, how, options)  # has no suffix for FFmpeg
    return container


def _may_be_named_so(container: Any, target: str) -> bool:
    """Whether FFmpeg may have taken a file for what its name says, without regard to its content.

    It does so for most formats that have no header, such as ".cdg" and ".h261".
    """
    has_no_header = av.format.Flags.generic_index in av.format.Flags(container.format.flags)
    return has_no_header and target.rpartition(".")[2].lower() in container.format.extensions


def _begins_with_start_code(path: str) -> bool:
    with Path(path).open("rb") as file:
        head = file.read(4)
    return head.startswith((b"\0\0\1", b"\0\0\0\1"))


def joined_parts(path: Path, kind: str, most: int = MOST_ELEMENTS) -> tuple[list[int], int]:
    """Where each of the files begins that are joined byte for byte, and where the last one ends.

    Both in bytes; the end is what the file declares, as far as it can be read.

    Args:
        kind: FFmpeg's name of the format; of one that is not in `ELEMENTS`, nothing is found.
        most: elements to go through.
    """
    starts: list[int] = []
    at, begun = 0, False
    if (element := ELEMENTS.get(kind)) is None:
        return starts, at
    whole = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(most):
            if at >= whole:  # damaged sizes may be larger than what can be sought
                break
            file.seek(at)
            head = file.read(ELEMENT_BYTES)
            begins, size = element(head.ljust(ELEMENT_BYTES, b"\0"))
            if not head or not size:
                break
            if begins and not begun:  # each track of Ogg begins with a page of its own
                starts.append(at)
            at, begun = at + size, begins
    return starts, at


def _matroska_element(head: bytes) -> tuple[bool, int]:
    """By RFC 8794; an element of unknown size is gone into."""
    length = 9 - head[0].bit_length()
    if head[:length] not in MATROSKA_IDS:
        return False, 0
    sized = 9 - head[length].bit_length()
    size = int.from_bytes(head[length : length + sized], "big") & (bits := (1 << 7 * sized) - 1)
    return head.startswith(EBML), length + sized + (0 if size == bits else size)


def _mp4_box(head: bytes) -> tuple[bool, int]:
    """By ISO/IEC 14496-12."""
    size, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if size == 1:
        size = int.from_bytes(head[8:16], "big")
    return kind == b"ftyp", size if kind.isalnum() and size >= 8 else 0


def _flv_tag(head: bytes) -> tuple[bool, int]:
    """With the size of the tag before, which follows each."""
    if head.startswith(b"FLV"):
        return True, int.from_bytes(head[5:9], "big") + 4
    return False, 15 + int.from_bytes(head[1:4], "big") if head[0] in FLV_TAGS else 0


def _asf_object(head: bytes) -> tuple[bool, int]:
    size = int.from_bytes(head[16:24], "little")
    return head.startswith(ASF), size if size >= 24 else 0


def _ogg_page(head: bytes) -> tuple[bool, int]:
    """By RFC 3533, 6."""
    if not head.startswith(b"OggS\0"):
        return False, 0
    return bool(head[5] & 2), 27 + head[26] + sum(head[27 : 27 + head[26]])


ELEMENTS = {
    "ogg": _ogg_page,
    "matroska": _matroska_element,
    "mov": _mp4_box,
    "flv": _flv_tag,
    "asf": _asf_object,
}
"""FFmpeg's name of a format -> from the first bytes of an element (whether a file begins with it,
its bytes; 0 if it is not one). Of files that are joined FFmpeg reads the first alone, or the others
with what the first declares. Parts of MXF and NUT have no size by which the next could be found."""


class JoinedFile:
    """Files that were joined byte for byte, read one after another like one container.

    Each part has decoders of its own: the `opaque` of a packet is the stream that decodes it, its
    `stream` the track of the first part, by kind and number. Times go on where the picture before
    ends, or the sound if it lasts longer.

    Args:
        path: absolute.
        starts: as `joined_parts` finds them.
        how, options: as `open_media` gives them to FFmpeg.

    Raises:
        av.FFmpegError, OSError: the first part cannot be opened.
    """

    def __init__(
        self, path: str, starts: Sequence[int], how: dict[str, str], options: dict[str, Any]
    ) -> None:
        ends = [*starts[1:], Path(path).stat().st_size]
        self._names = [
            f"subfile,,start,{start},end,{end},,:{path}"
            for start, end in zip(starts, ends, strict=True)
        ]
        self._how, self._options = how, options
        self._open: dict[int, Any] = {}
        self._first = self._part(0)
        self._number, self._offset = 0, Fraction(0)
        self._ends: dict[str, Fraction] = {}
        self._latest: dict[str, Fraction] = {}

    def __getattr__(self, name: str) -> Any:
        """What is not of the whole is that of the first part."""
        return getattr(self._first, name)

    def __enter__(self) -> JoinedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all parts."""
        for part in self._open.values():
            part.close()

    def seek(self, offset: int) -> None:
        """Go to the beginning, wherever `offset` is: times depend on the parts before."""
        for part in self._open.values():
            part.seek(0)
        self._number, self._offset = 0, Fraction(0)
        self._ends, self._latest = {}, {}

    def demux(self, *streams: Any) -> Iterator[Any]:
        """As of a container; after an error it goes on behind it if it is called again."""
        tracks, wanted = _tracks(self._first), {stream.index for stream in streams}
        while self._number < len(self._names):
            try:
                part = self._part(self._number)
            except TRACK_ERRORS:
                self._number += 1
                raise
            own = {stream.index: key for key, stream in _tracks(part).items() if key in tracks}
            if self._number and not self._latest:
                self._offset = self._bound(self._ends, 1) - self._bound(_starts(part), -1)
            for packet in part.demux(*part.streams.video, *part.streams.audio):
                if (key := own.get(packet.stream_index)) is None:
                    continue
                packet.opaque, packet.stream = packet.stream, tracks[key]
                _rescale(packet, tracks[key].time_base)
                _shift(packet, self._offset)
                self._note_end(key[0], packet)
                if packet.stream_index in wanted:
                    yield packet
            self._number, self._latest = self._number + 1, {}

    def parts(self) -> Iterator[Any]:
        """The containers of all parts that can be opened."""
        for number in range(len(self._names)):
            with suppress(*TRACK_ERRORS):
                yield self._part(number)

    def _part(self, number: int) -> Any:
        if number not in self._open:
            name = self._names[number]
            self._open[number] = open_named(name, self._how, **self._options)
        return self._open[number]

    def _note_end(self, kind: str, packet: Any) -> None:
        if packet.pts is None:
            return
        at = packet.pts * packet.time_base
        lasts = (packet.duration or 0) * packet.time_base or at - self._latest.get(kind, at)
        self._ends[kind] = max(at + lasts, self._ends.get(kind, at))
        self._latest[kind] = at

    @staticmethod
    def _bound(times: dict[str, Fraction], sign: int) -> Fraction:
        """Where the picture begins (-1) or ends (1), or the sound if it reaches further."""
        sound = times.get("audio", times.get("video", Fraction(0)))
        picture = times.get("video", sound)
        return sound if (sound - picture) * sign > BACK_SECONDS else picture


def _tracks(container: Any) -> dict[tuple[str, int], Any]:
    """The video and audio streams of a container, by kind and number."""
    streams = container.streams
    return {
        (kind, number): stream
        for kind, several in (("video", streams.video), ("audio", streams.audio))
        for number, stream in enumerate(several)
    }


def _starts(container: Any) -> dict[str, Fraction]:
    """Seconds at which the picture and the sound of a container begin."""
    found: dict[str, Fraction] = {}
    for (kind, _), stream in _tracks(container).items():
        if stream.start_time is not None:
            begins = Fraction(stream.start_time * stream.time_base)
            found[kind] = min(begins, found.get(kind, begins))
    return found


def sound_formats(container: Any) -> list[list[tuple[Any, ...]]]:
    """The formats of the tracks of sound of each part of a file, most of which have one part."""
    parts = container.parts() if isinstance(container, JoinedFile) else [container]
    return [[_sound_format(each.codec_context) for each in part.streams.audio] for part in parts]


def _sound_format(context: Any) -> tuple[Any, ...]:
    if context is None:
        return ()
    kind = context.format and context.format.name
    return context.name, context.extradata, context.sample_rate, context.layout.name, kind


def open_named(name: str, how: dict[str, str], **options: Any) -> Any:
    """What FFmpeg opens by a name that is neither changed nor checked; raises as `open_media`."""
    return av.open(name, metadata_errors="replace", options=how, **options)


def open_again(stream: Any, target: str) -> Any:
    """Another container of an open stream: that of its part, if `target` is a joined file."""
    name = stream.container.name
    return open_named(name, _limits()) if name.startswith("subfile,") else open_media(target)


def dash_refused(asked: str, head: bytes) -> SourceError | None:
    """The error for a DASH manifest, which few builds of FFmpeg read; None if it is not one.

    Args:
        head: first bytes of a file that FFmpeg did not open.
    """
    if b"<MPD" not in head:
        return None
    return SourceError(
        asked,
        found="it is a DASH manifest, which this FFmpeg does not read",
        do="Name an HLS address (.m3u8) or a video file instead",
    )


def max_pixels() -> str:
    """FFmpeg's option of this name, which its decoders check before they make room for a frame."""
    return f"{VIDEO_PIXELS.value():.0f}"


def is_cover(stream: Any) -> bool:
    """Whether a video track is one picture that belongs to the sound."""
    return bool(stream.disposition & Disposition.attached_pic)


def is_text(stream: Any) -> bool:
    """Whether a video track is text that FFmpeg would draw."""
    return stream.codec_context is not None and stream.codec_context.name in TEXT_CODECS


def video_tracks(container: Any) -> list[Any]:
    """The video tracks of a file, without cover pictures and text."""
    tracks = container.streams.video
    return [stream for stream in tracks if not is_cover(stream) and not is_text(stream)]


def choose_video(container: Any, name: str, number: int | None = None) -> Any:
    """The video track to play: the default one, else the largest, or `number` among them.

    Raises:
        SourceError: there is none, its frames have too many pixels, or its colours are those of
            Dolby Vision alone.
        UsageError: there is no such number.
    """
    stream = _chosen(container, name, number)
    known = stream.codec_context is not None
    if known and (why := too_large(stream.width * stream.height, VIDEO_PIXELS)):
        raise SourceError(f"cannot play {name}", found=why, do=VIDEO_PIXELS.advice)
    if dolby := DOLBY_VISION.search(side_data(stream)):
        raise SourceError(
            f"cannot play {name}",
            found=f"its colours are those of Dolby Vision profile {dolby[1]}, which has no layer "
            "that FFmpeg can convert",
            do="Convert it to HDR10 or SDR, for example with FFmpeg's filter libplacebo",
        )
    return stream


def _chosen(container: Any, name: str, number: int | None) -> Any:
    tracks = video_tracks(container)
    if not tracks:
        sound = " but sound" if container.streams.audio else ""
        raise SourceError(f"cannot play {name}", found=f"it has no video stream{sound}")
    if number is None:
        return max(tracks, key=_rank)
    if not 0 <= number < len(tracks):
        raise UsageError(f"--stream {number} for {name}", found=f"it has {described(tracks)}")
    return tracks[number]


def side_data(stream: Any) -> str:
    """What FFmpeg prints of the side data of an `av.VideoStream`, which PyAV does not give."""
    level = av.logging.get_level()
    with av.logging.Capture(local=False):  # of other threads, meanwhile
        av.logging.set_level(av.logging.INFO)
        try:
            text = stream.container.dumps_format()
        finally:
            av.logging.set_level(level)
    own = re.search(rf"^ +Stream #0:{stream.index}\b.*\n((?:    .*\n)*)", text, re.MULTILINE)
    return own[1].partition("    Side data:\n")[2] if own else ""


class Cropping(NamedTuple):
    """Pixels at the edges of stored frames that a file says are not to be shown."""

    left: int
    right: int
    top: int
    bottom: int


def cropping(stream: Any) -> Cropping | None:
    """By a clean aperture of MP4, or `PixelCrop...` of Matroska; None if all is shown."""
    found = CROPPING.search(side_data(stream))
    return Cropping(*map(int, found.groups())) if found else None


def described(tracks: Sequence[Any]) -> str:
    """Video tracks for people: "2 video tracks: 0 (160x90), 1 (640x360)"."""
    sizes = ", ".join(f"{n} ({_size(track)})" for n, track in enumerate(tracks))
    return f"{len(tracks)} video track{'s' * (len(tracks) > 1)}: {sizes}"


def _size(track: Any) -> str:
    return "unknown" if track.codec_context is None else f"{track.width}x{track.height}"


def _rank(stream: Any) -> tuple[bool, int]:
    default = bool(stream.disposition & Disposition.default)
    known = stream.codec_context is not None
    pixels = stream.width * stream.height if known else 0
    return known, pixels + DEFAULT_BONUS * default


def audio_tracks(container: Any, video: Any) -> list[Any]:
    """The audio tracks that belong to a video track: all, or those of its programme or variant."""
    tracks = list(container.streams.audio)
    if not _has_programmes(container) or len(video_tracks(container)) < 2:
        return tracks
    best = container.streams.best
    own = [track for track in tracks if best("video", track) is video]
    if own:
        return own
    nearest = best("audio", video)  # of any programme, if its own has none
    return [nearest] if nearest is not None and best("video", nearest) is video else []


def _has_programmes(container: Any) -> bool:
    names = container.format.name.split(",")
    return not {"mpegts", "hls", "dash", "rtp", "applehttp"}.isdisjoint(names)


# --- time ----------------------------------------------------------------------------------------


def is_joined(container: Any) -> bool:
    """Whether the times of such a file may jump where it was joined or cut."""
    return av.format.Flags.ts_discont in av.format.Flags(container.format.flags)


def has_no_pts(container: Any) -> bool:
    """Whether packets have decoding times only: the nth frame that is shown has the nth of them."""
    return bool(container.format.name == "avi")


def is_counted(container: Any) -> bool:
    """Whether frames are counted, as FFmpeg guesses times of packets: in raw MPEG-1."""
    return bool(container.format.name == "mpegvideo")


def begin_by_dts(stream: Any, first: float, second: float, lasts: float) -> float:
    """When the first frame of a container that has decoding times only is shown.

    Encoders that reorder frames, such as XviD, leave a gap behind the first packet for their delay.

    Args:
        first, second: the earliest decoding times.
        lasts: how long a frame is shown. The duration that AVI declares may be a field's.
    """
    return max(first, second - lasts) if stream.codec_context.has_b_frames else first


def middle_step(times: Sequence[float]) -> float:
    """The median of the steps between times, in seconds; 0 if there is none."""
    return median([after - before for before, after in pairwise(times)] or [0.0])


class Joiner:
    """Moves the packets of a joined file so that its times go on where they would jump.

    By the rule of the `ffmpeg` command: where the decoding time of a track jumps back, or ahead by
    more than ten seconds, all later packets are moved so that it goes on, and that frames are shown
    after those before. Tracks that are read in separate passes stay together only if every pass
    sees the packets of all of them.

    Attributes:
        changed: whether it moved any.
        jumps: whether the time of the last packet is not near that of its track before.
        is_cut: whether, besides, a packet shortly before it lacks a part. Without that, the video
            may go on.
    """

    def __init__(self) -> None:
        self.changed = self.jumps = self.is_cut = False
        self._intact: dict[int, int] = {}  # packets since one that lacks a part
        self._read: dict[int, Fraction] = {}  # as `_last`, by the clock of the file
        self._offset = Fraction(0)
        self._last: dict[int, Fraction] = {}
        self._expected: dict[int, Fraction] = {}
        self._shown: dict[int, Fraction] = {}  # until when
        self._latest: Fraction | None = None

    def __call__(self, packet: Any) -> None:
        """Move the next packet, in place."""
        self.jumps = self.is_cut = False
        if packet.size and packet.dts is not None:
            base, track = packet.time_base, packet.stream_index
            read = packet.dts * base
            before = self._read.get(track, read)
            self.jumps = not before - BACK_SECONDS <= read <= before + JUMP_SECONDS
            self.is_cut = self.jumps and self._intact.get(track, CUT_PACKETS) < CUT_PACKETS
            self._read[track] = read
            self._intact[track] = 0 if packet.is_corrupt else self._intact.get(track, 0) + 1
            at = packet.dts * base + self._offset
            expected = self._expected.get(track, self._latest)
            if expected is not None:
                ahead = at - expected
                goes_back = at < self._last.get(track, at) - BACK_SECONDS
                if abs(ahead) > JUMP_SECONDS or goes_back:
                    ahead = self._ahead(packet, ahead)
                    self._offset -= ahead
                    at -= ahead
                    self.changed = True
            self._last[track] = self._latest = at
            self._expected[track] = at + (packet.duration or 0) * base
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * base + self._offset
                self._shown[track] = max(end, self._shown.get(track, end))
        _shift(packet, self._offset)

    def _ahead(self, packet: Any, ahead: Fraction) -> Fraction:
        """By how much the frame of a packet is ahead of the end of those before; else the packet.

        Where frames are reordered, they are decoded earlier than they are shown, which the rule of
        the `ffmpeg` command does not regard: it leaves a gap where the delay grows.
        """
        before = self._shown.get(packet.stream_index)
        if before is None or packet.pts is None:
            return ahead
        shown = packet.pts * packet.time_base + self._offset - before
        return shown if abs(shown - ahead) < MOST_DELAY_SECONDS else ahead


class WrongTimes:
    """Removes times from packets of a file that is not joined where they are impossible.

    By the rule of the `ffmpeg` command: those that are more than 30 hours from where the track was.

    Attributes:
        changed: whether it removed any.
    """

    jumps = is_cut = False

    def __init__(self) -> None:
        self.changed = False
        self._expected: dict[int, int] = {}

    def __call__(self, packet: Any) -> None:
        """Remove the times of the next packet, in place, if they are wrong."""
        at, track = packet.dts, packet.stream_index
        if not packet.size or at is None:
            return
        expected = self._expected.get(track, at)
        most = WRONG_SECONDS / float(packet.time_base)
        if abs(at - expected) > most:
            packet.dts, at, self.changed = None, expected, True
        if packet.pts is not None and abs(packet.pts - at) > most:
            packet.pts, self.changed = None, True
        self._expected[track] = at + (packet.duration or 0)


def one_timeline(container: Any) -> Joiner | WrongTimes:
    """What is called with each packet of a file, so that its times go on as the file does."""
    return Joiner() if is_joined(container) else WrongTimes()


def _rescale(packet: Any, time_base: Fraction) -> None:
    """Count the times of a packet in other ticks."""
    ratio = packet.time_base / time_base
    if ratio == 1:
        return
    packet.pts, packet.dts = (
        None if ticks is None else round(ticks * ratio) for ticks in (packet.pts, packet.dts)
    )
    packet.duration = round((packet.duration or 0) * ratio)
    packet.time_base = time_base


def _shift(packet: Any, offset: Fraction) -> None:
    if not offset:
        return
    ticks = round(offset / packet.time_base)
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks


def believed_rate(stream: Any, times: Sequence[float]) -> Fraction | None:
    """The frame rate of a video track: a declared one if the times agree, else that of the times.

    Headers of browsers' and cameras' recordings give ticks per second (1000, 90000).

    Args:
        times: of its first frames, in seconds, sorted; fewer than three prove nothing.
    """
    declared = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    steps = [after - before for before, after in pairwise(times)]
    if len(steps) < 2 or times[-1] <= times[0]:
        return next((rate for rate in declared if rate <= 1000), None)
    mean, middle = (times[-1] - times[0]) / len(steps), median(steps)
    low, high = sorted((mean, middle))
    for rate in declared:
        if low * (1 - AGREES) <= 1 / rate <= high * (1 + AGREES):
            return rate
    return Fraction(1 / mean).limit_denominator(1001)


# --- pictures ------------------------------------------------------------------------------------


class Converter:
    """Turns decoded `av.VideoFrame`s into upright BGR images.

    By the matrix, range, primaries and transfer of each frame: wide-gamut and HDR colours become
    BT.709, see `rtseg.yuv.grading`; a matrix that FFmpeg's swscale does not know is taken for the
    nearest one. Transparent pixels are laid over white. Frames are cropped, and turned and mirrored
    by their display matrix, to the nearest quarter turn, as players do.

    Attributes:
        crop: what the file says is not to be shown.
        notes: what was not converted as it is tagged, to be shown to the user.
    """

    def __init__(self, crop: Cropping | None = None) -> None:
        self.notes: list[str] = []
        self.crop = crop
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> Image:
        """(H, W, 3) uint8 BGR, C-contiguous.

        Raises:
            av.FFmpegError, OSError, ValueError: FFmpeg cannot convert it.
        """
        image = self._upright(self._cropped(self._bgr(frame)), frame)
        return np.ascontiguousarray(image)

    def keeps(self, frame: Any) -> bool:
        """Whether a frame is shown as it is stored, in 4:2:0 of limited range, as `Planes` are."""
        tags = frame.colorspace, frame.color_primaries, frame.color_trc
        return (
            frame.format.name == "yuv420p"
            and frame.color_range != FULL
            and tags[0] in DECODED
            and tags[0] != RGB
            and not is_converted(tags)
            and not any(self.crop or ())
            and frame.width % 2 == frame.height % 2 == 0
            and display_matrix(frame) is None
        )

    def _bgr(self, frame: Any) -> Image:
        matrix, tags = frame.colorspace, (frame.colorspace, frame.color_primaries, frame.color_trc)
        if matrix not in DECODED:
            frame.colorspace = nearest_matrix(tags)
            self._note(
                f"its colour matrix (number {matrix}) is not known to the converter; "
                "colours are approximate"
            )
        alpha, wide = has_alpha(frame), is_converted(tags)
        formats = ("gbrp16le", "gbrap16le") if wide else ("bgr24", "bgra")
        converted = self._reformatter.reformat(frame, format=formats[alpha], threads=1)
        image: Any = converted.to_ndarray()
        if not wide:
            return over_paper(image) if alpha else image
        peak = mastering_peak(frame) or HLG_NITS
        colours = graded(image, grading(tags[1], tags[2], peak, white_code(frame)))
        return over_paper(np.dstack([colours, image[..., 3] >> 8])) if alpha else colours

    def _cropped(self, image: Image) -> Image:
        left, right, top, bottom = self.crop or Cropping(0, 0, 0, 0)
        height, width = image.shape[:2]
        if left + right >= width or top + bottom >= height:
            return image
        return image[top : height - bottom, left : width - right]

    def _upright(self, image: Image, frame: Any) -> Image:
        matrix = display_matrix(frame)
        if matrix is None:
            return image
        if is_skewed(matrix):
            self._note("its display matrix is not a quarter turn; the nearest one is shown")
        return turned(image, matrix)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _unnamed(kind: Any, number: int) -> Any:
    """A kind of side data that FFmpeg knows and PyAV does not, such as EXIF."""
    unnamed: Any = object.__new__(kind)
    unnamed._name_, unnamed._value_ = f"NUMBER_{number}", number
    return unnamed


# without it, a frame that has such side data shows none at all, but raises ValueError
setattr(SideDataType, "_missing_", classmethod(_unnamed))  # noqa: B010


def white_code(frame: Any) -> int:
    """What swscale makes of a frame's largest signal in 16 bits: it shifts, and does not scale."""
    is_full = frame.format.is_rgb or frame.color_range == FULL or "yuvj" in frame.format.name
    bits = frame.format.components[0].bits if is_full else 8
    return ((1 << bits) - 1) << (16 - bits)


def frame_side_data(frame: Any) -> Any:
    """The side data of a frame.

    `frame.side_data` would tie the frame to itself, so that its buffer is used again only when
    cycles are collected, and most frames are decoded into new memory.
    """
    container: Any = SideDataContainer  # whose stub lacks the argument
    return container(frame)


def mastering_peak(frame: Any) -> float | None:
    """Peak luminance, in cd/m2, of the display that a frame was mastered for, if it is known."""
    for data in frame_side_data(frame):
        if data.type.name == "MASTERING_DISPLAY_METADATA":
            numbers = np.frombuffer(data, np.int32)  # FFmpeg's AVMasteringDisplayMetadata
            peak, base, has_luminance = numbers[18], numbers[19], numbers[21]
            if has_luminance and base > 0 and 100 <= peak / base <= MOST_NITS:
                return float(peak / base)
    return None


def has_alpha(frame: Any) -> bool:
    """Whether a frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


Matrix = tuple[float, float, float, float]
"""(a, b, c, d): a stored pixel (x, y) is displayed at (a x + c y, b x + d y), y downwards."""


def display_matrix(frame: Any) -> Matrix | None:
    """The display matrix of a frame, without its translation; None for frames without one."""
    for data in frame_side_data(frame):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(data, np.int32)[:5] / 65536
            if (a, b, c, d) != (1, 0, 0, 1) and any((a, b, c, d)):
                return float(a), float(b), float(c), float(d)
    return None


def swaps_sides(matrix: Matrix | None) -> bool:
    """Whether width and height change places."""
    if matrix is None:
        return False
    a, b, c, d = map(abs, matrix)
    return b + c > a + d


def is_skewed(matrix: Matrix) -> bool:
    """Whether it does more than turn by quarters, mirror and scale."""
    a, b, c, d = map(abs, matrix)
    return min(a + d, b + c) > 0.02 * max(a + d, b + c)


def mirrors(matrix: Matrix) -> bool:
    """Whether it turns left into right, rather than only turning."""
    a, b, c, d = matrix
    return a * d < b * c


def turned(image: Image, matrix: Matrix) -> Image:
    """(H, W, 3) uint8 turned and mirrored by the nearest quarter turn of a display matrix."""
    a, b, c, d = matrix
    if swaps_sides(matrix):
        image, (across, down) = cv2.transpose(image), (c, b)
    else:
        across, down = a, d
    if across < 0 and down < 0:
        return cv2.flip(image, -1)
    if across < 0:
        return cv2.flip(image, 1)
    return cv2.flip(image, 0) if down < 0 else image


def over_paper(image: Image) -> Image:
    """(H, W, 3) uint8 BGR: (H, W, 4) BGRA, not premultiplied, over white."""
    height, width = image.shape[:2]
    shown = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):  # at once it would take eight times the image's memory
        part = image[top : top + rows]
        alpha = part[..., 3:].astype(np.uint16)
        mixed = part[..., :3] * alpha + PAPER * (255 - alpha)
        shown[top : top + rows] = (mixed + 127) // 255
    return shown
