"""Video files and recordings decoded on the CPU by FFmpeg, through PyAV, on one timeline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from heapq import heappop, heappush
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
from av.codec import codecs_available
from av.filter import Graph

from rtseg.errors import SourceError
from rtseg.files import reason
from rtseg.frame import Picture
from rtseg.limits import VIDEO_PIXELS
from rtseg.media import (
    TRACK_ERRORS,
    Converter,
    begin_by_dts,
    believed_rate,
    choose_video,
    cropping,
    dash_refused,
    described,
    display_matrix,
    has_no_pts,
    is_counted,
    is_joined,
    max_pixels,
    middle_step,
    one_timeline,
    open_again,
    open_media,
    swaps_sides,
    video_tracks,
)
from rtseg.planes import Planes
from rtseg.system import usable_cores

PEEKED_PACKETS = 40
"""Packets whose times tell whether a declared frame rate can be believed."""

READ_TRIES = 8
"""Failures in a row after which a damaged file counts as ended."""

LOST = (av.ExitError, TimeoutError, ConnectionError)
"""What a silent or closed connection raises; ExitError is PyAV's for its timeout."""

OPENING_FRAMES, OPENING_TIMEOUTS = 3, 3
"""An address must give that many frames within that many timeouts altogether, so that a server that
sends each just in time is not waited for without end."""

MAX_THREADS = 16
"""Each frame thread holds a decoded frame."""

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave the alpha channel out."""

STRICT_DECODERS = {"vp8": "libvpx"}
"""FFmpeg's own decoders of these show what a damaged packet leaves of a frame as if it were whole,
the rest being memory that nobody wrote."""

SLICE_THREADS = frozenset({"ffv1"})
"""Codecs of which frame threads conceal damage with frames that are not decoded yet."""

SPOILS_NEXT = frozenset({"mpeg1video", "mpeg2video", "wmv1", "wmv2", "ffv1"})
"""Decoders that predict from a frame that they began and could not decode."""

BEGINS_ANYWHERE = frozenset(
    "mpeg1video mpeg2video mpeg4 flv h263 msmpeg4v1 msmpeg4v2 msmpeg4 wmv1 wmv2".split()
)
"""Decoders that predict from a plain grey before the first keyframe; others wait for it."""

HOLDS_MORE = frozenset({"h264", "hevc"})
"""Decoders that may hold back more frames later on than at the beginning."""

MOST_SPOILED = 300
"""Frames after which one is shown even though no keyframe came: the longest usual interval."""

KEPT_PACKETS = 24
"""More packets than a decoder holds back beyond those in its threads, with room."""

MOST_KEPT = 1000

WRONG_SECONDS = 1
"""A frame's time that is further ahead is wrong if one of the next frames goes back behind it."""

LOOKED_AHEAD = 8
"""Frames that are decoded ahead to see that."""

MOST_LAST_SECONDS = 3600
"""A last frame that is further ahead has a wrong time."""

HEAD_BYTES = 512

MOST_REORDERED = 16
"""Frames by which decoders change the order, at most (H.264 and HEVC)."""

DEINTERLACER = "bwdif"

DEFAULT_RATE = 25
"""Of a video that has neither times nor a rate."""

SAME_TIME_SECONDS = 1e-3

SHORTEST_SECONDS = 5e-3
"""A duration below this is a tick that stands for an unknown one."""


class Header(NamedTuple):
    """What a video declares of itself.

    Attributes:
        track: FFmpeg's number of the stream.
        frame_rate: frames per second, exact; None when not given.
        frame_count: as declared; None when it is not (never estimated).
        sample_aspect_ratio: width of a stored pixel over its height, before any rotation.
        colour_tags: (colorspace, primaries, transfer, range) as FFmpeg numbers.
        seconds: for which it lasts; None where it does not say.
        late: seconds from the first frame that can be decoded to the first that is shown.
    """

    track: int
    frame_rate: Fraction | None
    frame_count: int | None
    sample_aspect_ratio: Fraction
    colour_tags: tuple[int, int, int, int]
    seconds: float | None = None
    late: float = 0.0


class Shot(NamedTuple):
    """A decoded frame.

    Attributes:
        picture: upright.
        at: its time in seconds by the file's clock; None where the file has no times.
        lasts: seconds for which the file says it is shown; 0 where it does not.
        until: of the last frame the end of the video by the file's clock, if it declares that.
    """

    picture: Picture
    at: float | None
    lasts: float = 0.0
    until: float | None = None


class Timeline:
    """Times of the frames of a video, each later than the one before.

    Args:
        first: the frame that is at 0.
        frame_rate: of the video, if it has one.

    Attributes:
        zero: the time of the first frame by the clock of the file, in seconds.
        pts: seconds of the last frame from the first one.
    """

    def __init__(self, first: Shot, frame_rate: Fraction | None) -> None:
        self.zero = first.at or 0.0
        self.step = 1 / float(frame_rate or DEFAULT_RATE)
        self.pts = -self.step
        self._lasts, self._lasts_hold = 0.0, True

    def advance(self, shot: Shot) -> float:
        """Move on to the next frame; returns how long it is shown, 0 if that is not known.

        A time that is missing or far behind is taken for one frame later; after one that is less
        behind, frames follow one another at twice the rate until they are where they say. A
        declared duration is believed as long as those before it were what the times say.
        """
        pts = None if shot.at is None else shot.at - self.zero
        if pts is None or pts < self.pts - WRONG_SECONDS:
            pts = self.pts + self.step
        elif pts <= self.pts:
            pts = self.pts + self.step / 2
        gap, self.pts = pts - self.pts, pts
        if self._lasts and abs(gap - self._lasts) > max(SAME_TIME_SECONDS, gap / 50):
            self._lasts_hold = False
        self._lasts = lasts = shot.lasts
        if not self._lasts_hold:  # in the order of decoding, as those of MP4 are
            lasts = 0.0 if shot.until is None else shot.until - self.zero - pts
        return lasts if SHORTEST_SECONDS < lasts <= MOST_LAST_SECONDS else 0.0


class Place(NamedTuple):
    """Where a packet is: seconds by the clock of the file, and bytes from its beginning."""

    at: float
    position: int


def place_of(packet: Any, *, by_dts: bool) -> Place | None:
    """The place of a packet; None if it has no time.

    Args:
        by_dts: whether only the decoding times count, see `has_no_pts`.
    """
    ticks = packet.dts if by_dts else packet.pts
    return None if ticks is None else Place(float(ticks * packet.time_base), packet.pos or -1)


def are_steady(times: Sequence[float]) -> bool:
    """Whether a player believes all times of the packets of a file, in the order of decoding.

    No two are equal, and none is further from its place than decoders reorder frames.
    """
    order = sorted(range(len(times)), key=times.__getitem__)
    steps = [times[after] - times[before] for before, after in pairwise(order)]
    if steps and (min(steps) <= 0 or max(steps) > MOST_LAST_SECONDS):
        return False
    return all(abs(number - place) <= MOST_REORDERED for number, place in enumerate(order))


class FFmpegPlayer:
    """An open video, at its first frame: of the track that `stream` or the file itself names.

    Packets that cannot be decoded are left out and counted, and so are frames of which parts would
    be memory that nobody wrote; frames that FFmpeg conceals by their neighbours are kept.
    Interlaced frames are deinterlaced: one picture for each frame.

    Args:
        target: a path, or the address of a recording or stream.
        name: of it, in messages.
        stream: number of the video track; None for the one that players choose.
        fps: frame rate where the file has no times, as raw streams have none.
        deinterlace: "on", "off", or "auto" for frames that are flagged interlaced.
        timeout: seconds of silence after which an address fails.
        hwaccel: an `av.codec.hwaccel.HWAccel`.

    Attributes:
        header: what the file declares.
        turned: whether its frames are turned by 90 or 270 degrees to be upright.
        cropping: pixels that the file says are not to be shown.
        damaged: packets that could not be decoded.
        concealed: frames of which parts were guessed.
        trouble: why it could not be read to its end; "" if it could.

    Raises:
        SourceError: it is not a video, or FFmpeg has no decoder for it.
        UsageError: it has no such track.
    """

    threads = min(usable_cores(), MAX_THREADS)
    peeked_packets = PEEKED_PACKETS
    looked_ahead = LOOKED_AHEAD
    _skips: int
    _jumped: int | None

    def __init__(
        self,
        target: str,
        name: str,
        *,
        stream: int | None = None,
        fps: Fraction | None = None,
        deinterlace: str = "auto",
        timeout: float | None = None,
        hwaccel: Any = None,
    ) -> None:
        self._target, self._name = target, name
        self._number, self._fps, self._deinterlace = stream, fps, deinterlace
        self._timeout, self._hwaccel = timeout, hwaccel
        self._container: Any = None
        self._strict = True
        try:
            self._begin()
            if not self._ahead and self.damaged and "://" not in target:
                self._strict = False  # frames with parts missing are better than none
                self.release()
                self._begin()
        except BaseException:
            self.release()
            raise

    def _begin(self) -> None:
        self._taken, begun = 0, time.monotonic()
        self._opened_by = begun + OPENING_TIMEOUTS * (self._timeout or 0)
        try:
            self._container = open_media(self._target, self._timeout, hwaccel=self._hwaccel)
        except TRACK_ERRORS as error:
            raise not_a_video(self._name, reason(error), self._target) from error
        self._stream = choose_video(self._container, self._name, self._number)
        self.cropping = cropping(self._stream)
        self._convert = Converter(self.cropping)
        self._decode_by(self._stream)
        self._decoded_from: float | None = None
        self._deinterlacer: Deinterlacer | None = None
        self._has_no_pts = has_no_pts(self._container)
        self._times_left: list[int] = []
        self._most_due: int | None = None
        self._is_first = True
        # until when packets of Theora without a frame of their own show the last frame
        self._shown_on = float("-inf") if self._container.format.name == "ogg" else None
        self.damaged, self.concealed, self.trouble = 0, 0, ""
        self._packets = self._demux()
        self._expect()
        self._peeked, self._times = self._peek()
        self._untimed = not self._times or is_counted(self._container)  # as raw streams are
        self._frames = self._decoded()
        self._expect()
        first = next(self._frames, None)
        self._ahead = deque[Any]([] if first is None else [first])  # frames read already
        self._count_back()
        self._at: float | None = None
        self._count, self._end, self._sought = 0, end_of(self._stream), False
        self.header = self._describe(first)
        self._zero = 0.0 if first is None or first.pts is None else first.time
        self.turned = first is not None and swaps_sides(display_matrix(first))

    def _count_back(self) -> None:
        """Give the first frames times, if they have none, by the next frame that has one.

        FFmpeg leaves out what Matroska says of frames before 0.
        """
        if self._untimed or not self._ahead:
            return
        while self._ahead[-1].pts is None and len(self._ahead) < self.looked_ahead:
            self._expect()
            if (frame := next(self._frames, None)) is None:
                return
            self._ahead.append(frame)
        *before, timed = self._ahead
        if before and timed.pts is not None and timed.duration:
            for number, frame in enumerate(reversed(before), 1):
                frame.pts = timed.pts - number * timed.duration

    def _decode_by(self, stream: Any) -> None:
        """Decode the next packets with a new decoder: that of a stream."""
        self._decoded_by = stream
        self._decoder = self._open_decoder(stream)
        self._independent = self._decoder.codec.intra_only
        self._spoils_next = self._decoder.name in SPOILS_NEXT
        self._tail = Tail(self._decoder.thread_count)
        self._await_keyframe()

    def _open_decoder(self, stream: Any, threads: int | None = None) -> Any:
        context = stream.codec_context
        if context is None:
            raise SourceError(f"cannot play {self._name}", found="FFmpeg has no decoder for it")
        library = STRICT_DECODERS.get(context.name) if self._strict else None
        if stream.metadata.get("alpha_mode") == "1":
            library = ALPHA_DECODERS.get(context.name)
        if library in codecs_available and self._hwaccel is None:
            decoder = av.CodecContext.create(library, "r")
            decoder.extradata = context.extradata
            decoder.options = {"max_pixels": max_pixels()}
            return decoder
        if not context.is_open:
            context.thread_type = "SLICE" if context.name in SLICE_THREADS else "AUTO"
            context.thread_count = threads or self.threads
            # others conceal damage only if they go on after it
            explodes = context.codec.intra_only and self._strict
            how = {"err_detect": "explode"} if explodes else {}
            context.options = {"max_pixels": max_pixels(), **how}
        return context

    def _describe(self, first: Any) -> Header:
        header = header_of(self._stream)
        rate = believed_rate(self._stream, self._times)
        if self._untimed:
            guessed = self._stream.guessed_rate
            rate = self._fps or (Fraction(guessed) if guessed else rate)
        tags = header.colour_tags
        if first is not None:
            tags = (first.colorspace, first.color_primaries, first.color_trc, first.color_range)
        late = 0.0
        if first is not None and first.pts is not None and self._decoded_from is not None:
            late = 0.0 if self._untimed else max(0.0, first.time - self._decoded_from)
        joined = self._stream.container is not self._container
        return header._replace(
            frame_rate=rate,
            frame_count=None if joined else header.frame_count,
            seconds=None if joined or self._untimed else header.seconds,
            colour_tags=(int(tags[0]), int(tags[1]), int(tags[2]), int(tags[3])),
            late=late,
        )

    @property
    def notes(self) -> list[str]:
        """To be shown to the user."""
        tracks = video_tracks(self._container)
        several = [
            f"it has {described(tracks)}; playing {tracks.index(self._stream)}, see --stream"
        ]
        interlaced = [f"interlaced, so deinterlaced by {DEINTERLACER}; see --deinterlace"]
        timed = self._fps is not None and not self._untimed
        return [
            *(["--fps has no effect on a video with times of its own"] if timed else ()),
            *(several if len(tracks) > 1 else ()),
            *(interlaced if self._deinterlacer is not None else ()),
            *self._convert.notes,
        ]

    def read(self, *, planar: bool = False) -> Shot | None:
        """As `take`, the picture being converted, or in planes if it may be and is shown so.

        Raises:
            SourceError: a frame cannot be converted.
        """
        shot = self.take()
        if shot is None:
            return None
        frame = shot.picture
        kept = planar and self._convert.keeps(frame)
        return shot._replace(picture=Planes(frame) if kept else self.picture(frame))

    def take(self) -> Shot | None:
        """The next frame that can be decoded, as an `av.VideoFrame`; a wrong time is left out.

        None at the end.
        """
        frame = self._next()
        if frame is None:
            return None
        ticks, second = frame.time_base.as_integer_ratio()
        at = None if frame.pts is None or self._untimed else frame.pts * ticks / second
        if at is not None:
            if self._is_astray(at):
                at = None
            else:
                self._at = at
        lasts = (frame.duration or 0) * ticks / second
        self._count += 1
        is_last = self._is_last() if self._sought else self._count == self._stream.frames
        until = self._end if is_last else None
        if at is not None and self._shown_on is not None:
            is_last = self._is_last()  # reads on
            if is_last and self._shown_on > at + lasts:
                lasts, until = self._shown_on - at, self._shown_on
        return Shot(frame, at, lasts, until)

    def _is_last(self) -> bool:
        """Whether no frame follows."""
        if not self._ahead:
            self._expect()
            self._ahead.extend(islice(self._frames, 1))
        return not self._ahead

    def _expect(self) -> None:
        """Begin the time that an address has until a frame is decoded: its timeout."""
        seconds = self._timeout if "://" in self._target else None
        self._until = float("inf") if seconds is None else time.monotonic() + seconds
        if seconds is not None and self._taken < OPENING_FRAMES:
            self._until = min(self._until, self._opened_by)

    def _is_late(self) -> bool:
        """Whether no frame was decoded in time, as where packets come for ever that give none."""
        late = time.monotonic() > self._until
        if late:
            self.trouble = self.trouble or f"no frame came within {self._timeout:g} s"
        return late

    def _next(self) -> Any:
        """The next `av.VideoFrame` to be shown; None at the end, or if none comes in time."""
        self._taken += 1
        if self._ahead:
            return self._ahead.popleft()
        self._expect()
        return next(self._frames, None)

    def _is_astray(self, at: float) -> bool:
        """Whether a time is far ahead, and one of the next frames goes back behind it."""
        if self._at is None or at - self._at <= WRONG_SECONDS:
            return False
        for number in range(self.looked_ahead):
            if number == len(self._ahead):
                self._expect()
                if (after := next(self._frames, None)) is None:
                    return at - self._at > MOST_LAST_SECONDS
                self._ahead.append(after)
            after = self._ahead[number]
            if after.pts is not None and self._at <= after.pts * after.time_base < at:
                return True
        return False

    def picture(self, frame: Any) -> Picture:
        """The upright picture of an `av.VideoFrame` of this video.

        Raises:
            SourceError: FFmpeg cannot convert it.
        """
        try:
            return self._convert(frame)
        except TRACK_ERRORS as error:
            raise SourceError(
                f"cannot show {self._name}",
                found=f"FFmpeg cannot convert {frame.format.name} frames: {reason(error)}",
            ) from error

    def seek(self, seconds: float) -> Place | None:
        """As `Player`: to the last keyframe before."""
        self._container.seek(int((seconds + self._zero) * av.time_base))
        self._sought = True
        self._decoder.flush_buffers()
        self._peeked.clear()
        self._times_left.clear()
        self._tail.clear()
        self._deinterlacer = None
        self._await_keyframe()
        self._packets, self._at = self._demux(), None
        self._ahead.clear()
        self._frames = self._decoded()
        self._peeked.extend(islice(self._packets, 1))
        return place_of(self._peeked[0], by_dts=self._has_no_pts) if self._peeked else None

    def release(self) -> None:
        """As `Player`."""
        if self._container is not None:
            self._container.close()

    def _peek(self) -> tuple[deque[Any], list[float]]:
        """The first packets, before any of them is decoded, and their times in order."""
        peeked = deque[Any]()
        for packet in islice(self._packets, self.peeked_packets):
            peeked.append(packet)
            if time.monotonic() > self._until:
                break
        times = []
        for packet in peeked:
            ticks = packet.dts if packet.pts is None else packet.pts
            if packet.size and ticks is not None:
                times.append(float(ticks * packet.time_base))
        return peeked, sorted(times)

    def _demux(self) -> Iterator[Any]:
        """Packets of the track, on one timeline; after an error it goes on, but not for ever."""
        failed, place = 0, one_timeline(self._container)
        audio = self._container.streams.audio if is_joined(self._container) else ()
        placed = (self._stream, *audio)
        read = () if "://" in self._target else placed  # all, as the picture alone may stop
        while failed < READ_TRIES:
            packets = self._container.demux(*read)
            try:
                for packet in packets:
                    if packet.stream in placed:
                        place(packet)
                    if packet.stream is self._stream:  # the empty ones at the end too
                        failed = 0
                        if place.jumps:
                            self._jumped = packet.dts
                        if place.is_cut:
                            self._cuts.add(packet)
                        yield packet
                    elif self._is_late():
                        return
                return
            except TRACK_ERRORS as error:
                failed, self.trouble = failed + 1, reason(error)
                if isinstance(error, LOST):
                    return

    def _decoded(self) -> Iterator[Any]:
        """Frames as they are shown."""
        for frame in self._raw():
            if self._deinterlacer is not None or self._is_interlaced(frame):
                if self._deinterlacer is None or not self._deinterlacer.fits(frame):
                    yield from self._finish_deinterlacing()
                    self._deinterlacer = Deinterlacer(frame, always=self._deinterlace == "on")
                yield from self._deinterlacer(frame)
            else:
                yield frame
        yield from self._finish_deinterlacing()

    def _is_interlaced(self, frame: Any) -> bool:
        how = self._deinterlace
        return how == "on" or (how == "auto" and frame.interlaced_frame)

    def _finish_deinterlacing(self) -> Iterable[Any]:
        return () if self._deinterlacer is None else self._deinterlacer.finish()

    def _raw(self) -> Iterator[Any]:
        """Frames as they are decoded."""
        while True:
            packet = self._peeked.popleft() if self._peeked else next(self._packets, None)
            if packet is None:
                return
            if self._is_late():
                return
            if not packet.size and packet.dts is not None:  # the frame before is shown on
                end = packet.dts + (packet.duration or 0)
                if self._shown_on is not None:
                    self._shown_on = float(end * packet.time_base)
                continue
            if packet.opaque not in (None, self._decoded_by):  # a part of a joined file
                self._convert.crop = cropping(packet.opaque)
                self._decode_by(packet.opaque)
                if self._decoder.is_open:
                    self._decoder.flush_buffers()
            if packet in self._cuts:
                yield from self._end_of_part()
            if self._skips:
                self._skips = 0 if packet.is_keyframe or not packet.size else self._skips - 1
                if self._skips:
                    self.damaged += 1
                    continue
            self._tail.sent(packet)
            if self._untimed and packet.size:
                packet.pts = self._tail.count  # tells frames from one another, see `_rest`
            yield from self._whole(self._decode(packet))
            if not packet.size and self._tail.lacks and "://" not in self._target:
                yield from self._whole(self._rest(packet))

    def _decode(self, packet: Any) -> Sequence[Any]:
        try:
            frames: Sequence[Any] = self._decoder.decode(packet)
        except TRACK_ERRORS as error:
            self._damage(error)
            self._tail.refused()
            if self._spoils_next:
                self._spoiled = MOST_SPOILED
                self._broken.add(packet.pts)
            return ()
        self._damage(None)
        self._gave(frames, ended=not packet.size)
        return self._by_decoding(packet, frames) if self._has_no_pts else frames

    def _gave(self, frames: Sequence[Any], *, ended: bool) -> None:
        """Note frames that came out; a part of a joined file may be of another codec: none do."""
        unanswered = self._tail.gave(frames, ended=ended)
        if unanswered and is_joined(self._container):
            self.damaged += unanswered

    def _end_of_part(self) -> Iterator[Any]:
        """The last frames before a cut, after which packets are left out up to a keyframe."""
        self._cuts.clear()
        end = av.Packet()
        end.time_base = self._stream.time_base
        try:
            frames: Sequence[Any] = self._decoder.decode(end)
        except TRACK_ERRORS as error:
            self._damage(error)
            frames = ()
        self._gave(frames, ended=True)
        yield from self._whole(frames)
        self._decoder.flush_buffers()
        self._tail.clear()
        self._await_keyframe()
        self._skips = MOST_SPOILED

    def _rest(self, end: Any) -> Iterator[Any]:
        """The frames behind damage at the end, where the threads of a decoder stop at an error."""
        with open_again(self._decoded_by, self._target) as container:
            decoder = self._open_decoder(container.streams[self._decoded_by.index], threads=1)
            for packet in (*self._tail.packets(), end):
                try:
                    frames = decoder.decode(packet)
                except TRACK_ERRORS as error:
                    self.damaged = self.damaged or 1
                    self.trouble = self.trouble or reason(error)
                    continue
                frames = [frame for frame in frames if self._tail.is_new(frame)]
                yield from self._by_decoding(end, frames) if self._has_no_pts else frames

    def _await_keyframe(self) -> None:
        """Leave out what a decoder makes of frames before the first keyframe."""
        self._begun, self._broken = False, set[int | None]()
        self._cuts = set[Any]()
        self._skips, self._jumped = 0, None
        self._spoiled = MOST_SPOILED if self._decoder.name in BEGINS_ANYWHERE else 0

    def _whole(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Frames without parts that were not decoded."""
        for frame in frames:
            if self._decoded_from is None:
                self._decoded_from = frame.time
            if self._independent and frame.is_corrupt and self._strict:
                self.damaged += 1
            elif self._spoiled and self._strict and self._is_spoiled(frame):
                self._spoiled -= 1
                self.damaged += self._begun
            elif self._strict and self._is_mixed(frame):
                self.damaged += 1
            else:
                self._spoiled, self._begun = 0, True
                self._broken.clear()
                self.concealed += frame.is_corrupt
                yield frame

    def _is_spoiled(self, frame: Any) -> bool:
        return not frame.key_frame or (frame.pts is not None and frame.pts in self._broken)

    def _is_mixed(self, frame: Any) -> bool:
        """Whether a frame is concealed by those before a jump of the times."""
        if self._jumped is None or frame.pts is None or frame.pts < self._jumped:
            return False
        if frame.key_frame:
            self._jumped = None
        return bool(frame.is_corrupt)

    def _by_decoding(self, packet: Any, frames: Sequence[Any]) -> Sequence[Any]:
        """Frames of a container that has decoding times only: the nth shown has the nth of them."""
        if packet.size and packet.dts is not None:
            heappush(self._times_left, packet.dts)
        for frame in frames:
            self._leave_out_lost(frame)
            frame.pts = heappop(self._times_left) if self._times_left else None
            if self._is_first and self._times_left:
                lasts = round(middle_step(self._times) / packet.time_base)
                frame.pts = begin_by_dts(self._stream, frame.pts, self._times_left[0], lasts)
            self._is_first = False
        return frames

    def _leave_out_lost(self, frame: Any) -> None:
        """Drop the times of packets that no frame came of: damaged ones, and pauses of MPEG-4.

        A frame comes out with a packet, whose decoding time it has; with it as many packets are due
        as the decoder holds back.
        """
        if frame.dts is None or self._decoder.name in HOLDS_MORE:
            return
        due = sum(ticks <= frame.dts for ticks in self._times_left)
        self._most_due = min(self._most_due or due, due)
        for _ in range(due - self._most_due):
            heappop(self._times_left)

    def _damage(self, error: Exception | None) -> None:
        """Note whether a packet could be decoded."""
        if error is not None:
            self.damaged += 1
            self.trouble = self.trouble or reason(error)


class Tail:
    """The packets that may still be in a decoder, from a keyframe on.

    Attributes:
        count: packets given to the decoder.
    """

    def __init__(self, threads: int) -> None:
        self._held = threads + KEPT_PACKETS
        self._least = self._held if threads > 1 else 0
        self._intervals: deque[list[Any]] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._intervals.clear()
        self.count = self._given = self._unanswered = 0
        self._seen = deque[int | None](maxlen=2 * MOST_KEPT)

    def sent(self, packet: Any) -> None:
        """Note a packet that is given to the decoder, unless it is the empty one at the end."""
        if not packet.size:
            return
        self.count += 1
        self._unanswered += 1
        if not self._least:
            return
        kept = self._intervals
        if packet.is_keyframe:
            kept.append([])
        if kept:
            kept[-1].append(packet)
            count = sum(map(len, kept))
            while count - len(kept[0]) >= self._least:
                count -= len(kept.popleft())
            if count > MOST_KEPT:
                kept.clear()

    def refused(self) -> None:
        """Note that the last packet was an error, so that it is not unanswered as well."""
        self._unanswered = max(0, self._unanswered - 1)

    def gave(self, frames: Sequence[Any], *, ended: bool) -> int:
        """Note frames that came out.

        Returns:
            Packets before them that no frame came of, if they are more than a decoder holds back.
        """
        self._given += len(frames)
        self._seen.extend(frame.pts for frame in frames)
        if not (frames or ended):
            return 0
        unanswered, self._unanswered = self._unanswered, 0
        return unanswered if unanswered > self._held else 0

    def is_new(self, frame: Any) -> bool:
        """Whether a frame did not come out before."""
        return frame.pts is not None and frame.pts not in self._seen

    @property
    def lacks(self) -> bool:
        """Whether fewer frames came out than packets were given."""
        return self._least > 0 and self._given < self.count

    def packets(self) -> list[Any]:
        """All that are kept."""
        return [packet for interval in self._intervals for packet in interval]


class Deinterlacer:
    """FFmpeg's deinterlacer for frames of one size and format, one picture for each.

    Args:
        frame: an `av.VideoFrame` of that size and format.
        always: whether frames that are not flagged interlaced are deinterlaced too.
    """

    def __init__(self, frame: Any, *, always: bool) -> None:
        self._kind = self._kind_of(frame)
        graph = Graph()
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(frame.time_base),
            pixel_aspect="1/1",
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        )
        which = "all" if always else "interlaced"
        filtered = graph.add(DEINTERLACER, f"mode=send_frame:parity=auto:deint={which}")
        graph.link_nodes(source, filtered, graph.add("buffersink")).configure()
        self._graph = graph

    def fits(self, frame: Any) -> bool:
        """Whether it can take such a frame."""
        return self._kind_of(frame) == self._kind

    def __call__(self, frame: Any) -> Iterator[Any]:
        """The pictures that are complete with this frame; each waits for the frame after it."""
        self._graph.push(frame)
        return self._pull()

    def finish(self) -> Iterator[Any]:
        """The last picture."""
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> Iterator[Any]:
        while True:
            try:
                yield self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return

    @staticmethod
    def _kind_of(frame: Any) -> tuple[Any, ...]:
        return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def header_of(stream: Any) -> Header:
    """What an `av.VideoStream` declares."""
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate
    tags = (0, 0, 0, 0)
    if context is not None:
        tags = (
            int(context.colorspace),
            int(context.color_primaries),
            int(context.color_trc),
            int(context.color_range),
        )
    return Header(
        stream.index,
        Fraction(rate) if rate else None,  # PyAV 19 has its own fraction type
        declared_count(stream),
        Fraction(stream.sample_aspect_ratio or 1),
        tags,
        float(stream.duration * stream.time_base) if stream.duration else length_of(stream),
    )


def declared_count(stream: Any) -> int | None:
    """The number of frames that an `av.VideoStream` declares, if it does.

    In that field of IVF, FFmpeg writes a duration in ticks.
    """
    rate = stream.average_rate
    if stream.container.format.name == "ivf" and rate and rate * stream.time_base != 1:
        return None
    return stream.frames or None


def length_of(stream: Any) -> float | None:
    """Seconds that the container of an `av.VideoStream` declares, of all its streams together."""
    container = stream.container
    return container.duration / av.time_base if container.duration else None


def end_of(stream: Any) -> float | None:
    """The time at which an `av.VideoStream` ends, as it declares; None if it does not."""
    if stream.duration is None or stream.start_time is None:
        return None
    return float((stream.start_time + stream.duration) * stream.time_base)


def not_a_video(name: str, why: str, target: str) -> SourceError:
    """The error for a file that FFmpeg cannot read."""
    asked, head = f"cannot play {name}", b""
    if "://" not in target:
        with suppress(OSError), Path(target).open("rb") as file:
            head = file.read(HEAD_BYTES)
    return dash_refused(asked, head) or SourceError(
        asked,
        found=f"it is not a video, or it is cut off ({why.lower()})",
        do="Check that it plays elsewhere",
    )


def without_frames(name: str, trouble: str) -> SourceError:
    """The error for a video of which nothing can be decoded."""
    return SourceError(
        f"cannot play {name}",
        found="none of its frames can be decoded" + (f" ({trouble})" if trouble else ""),
        # FFmpeg gives no other reason for frames beyond `max_pixels`
        do=f"If its frames have more than {VIDEO_PIXELS.value() / 1e6:.0f} megapixels, set "
        f"{VIDEO_PIXELS.variable} higher"
        if "Invalid argument" in trouble
        else "Check that it plays elsewhere",
    )
