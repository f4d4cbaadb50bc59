"""What a video file consists of: encoded pictures, and the audio of the source's file or stream,
copied or re-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from rtseg.contracts import SourceInfo
from rtseg.errors import SinkError
from rtseg.files import reason
from rtseg.sinks.encoding import CONTAINERS, Container, Encoder, colour_tags
from rtseg.yuv import FULL, LIMITED

WRITE_ERRORS = (av.FFmpegError, OSError)

LOOKAHEAD = 32
"""Frames that an encoder takes, at these settings, before the first packet comes out."""

AUDIO_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError)
"""What FFmpeg and PyAV raise for tracks that a container cannot hold."""

PREROLL_PACKETS = 2.5
"""Packets kept before the start if the container can hide them: an AAC packet is decoded with the
help of the one before, and encoders prime it with up to 2112 samples (just over two packets)."""

CLOSE_SECONDS = Fraction(1, 1000)
"""Audio that begins within this of the video needs no start time of its own."""

SEEK_FROM_SECONDS = 2.0
"""Below this, reading from the beginning is as fast as seeking."""

TIMEOUT_SECONDS = 10.0
"""Without a byte from a URL for this long, its audio is dropped."""


class Muxer:
    """A video file being written: encodes pictures, and interleaves their packets with audio.

    Args:
        path: the file, whose suffix is one of `CONTAINERS`.
        info: of the source, whose pixel shape and colours the file has.
        size: (width, height) of the pictures.
        rate: nominal frames per second.
        time_base: seconds per tick.

    Raises:
        av.FFmpegError, OSError, ValueError: the file cannot be written, or the encoder does not
            support the size. Audio that the container refuses is dropped.
    """

    def __init__(
        self,
        path: Path,
        encoder: Encoder,
        info: SourceInfo,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        audio: Audio | None,
    ) -> None:
        self._time_base, self._audio = time_base, audio
        self._held: Any = None  # a packet is written once the next is known, and so its duration
        self._frames = self._bytes = 0
        try:
            self._begin(path, encoder, info, size, rate)
        except AUDIO_ERRORS as error:
            if not audio:
                raise
            audio.drop(error)  # the container may refuse it alone
            self._begin(path, encoder, info, size, rate)

    def _begin(
        self, path: Path, encoder: Encoder, info: SourceInfo, size: tuple[int, int], rate: Fraction
    ) -> None:
        """Write the header, with a video stream and those of the audio."""
        suffix = path.suffix.lower()
        container = CONTAINERS[suffix]
        output = av.open(str(path), "w", container_options=dict(container.options))
        stream: Any = output.add_stream(encoder.library, rate=rate)
        (stream.width, stream.height), stream.pix_fmt = size, encoder.pix_fmt
        context = stream.codec_context
        context.options, context.bit_rate = dict(encoder.options), encoder.bit_rate
        context.time_base = stream.time_base = self._time_base
        context.sample_aspect_ratio = info.sample_aspect_ratio
        if encoder.library == "libx265" and suffix in (".mp4", ".mov"):
            context.codec_tag = "hvc1"  # Apple's players require it
        if encoder.pix_fmt.startswith("yuv"):
            tags = colour_tags(encoder, info)
            context.colorspace, context.color_primaries, context.color_trc = tags
            context.color_range = FULL if encoder.pix_fmt.startswith("yuvj") else LIMITED
        if self._audio:
            self._audio.add_to(output, container)
        output.start_encoding()
        self._output, self._stream = output, stream

    def encode(self, picture: Any, tick: int) -> Iterable[Any]:
        """Give the encoder an `av.VideoFrame`; returns the packets that come out."""
        picture.pts, picture.time_base = tick, self._time_base
        packets: Iterable[Any] = self._stream.encode(picture)
        self._frames += 1
        return packets

    def mux(self, packets: Iterable[Any]) -> None:
        """Write packets of the video, and the audio that is due with them."""
        for packet in packets:
            if self._held is not None:
                self._held.duration = packet.pts - self._held.pts
                self._write(self._held)
            self._held = packet

    def bytes_to_finish(self) -> int:
        """Bytes that `finish` may write: frames still in the encoder, and the index."""
        mean = self._bytes // max(1, self._frames - LOOKAHEAD)
        return LOOKAHEAD * mean + 64 * self._frames

    def finish(self, end: int) -> None:
        """Write what is left: packets, the last of which ends at tick `end`, audio, the index."""
        self.mux(self._stream.encode(None))
        if self._held is not None:
            self._held.duration = end - self._held.pts
            self._write(self._held)
            self._held = None
        if self._audio is not None:
            self._write_audio(self._audio.rest(Fraction(end) * self._time_base))
        self._output.close()

    def _write(self, packet: Any) -> None:
        due = (packet.pts + packet.duration) * self._time_base
        self._bytes += packet.size
        self._output.mux(packet)
        if self._audio is not None:
            self._write_audio(self._audio.until(due))

    def _write_audio(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            try:
                self._output.mux(packet)
            except ValueError as error:  # the container refuses the packet; not a full disk
                assert self._audio is not None
                self._audio.drop(error)
                return


def count_frames(path: Path) -> int:
    """Number of frames of a video, counted by reading it; 0 if it has no video stream.

    Raises:
        SinkError: it cannot be opened as a video.
    """
    try:
        with av.open(str(path)) as container:
            packets = container.demux(video=0) if container.streams.video else ()
            return sum(1 for packet in packets if packet.size)
    except WRITE_ERRORS as error:
        raise SinkError(
            f"what was written cannot be read back: {reason(error)}", do=f"It is kept as {path}."
        ) from error


class Audio:
    """All audio tracks of a file or URL; time 0 is `start` seconds after its first video frame.

    An error never loses the video: the audio ends, and `trouble` is the reason.

    Attributes:
        trouble: why the audio, or the rest of it, is missing; "" if it is complete.
    """

    def __init__(self, media: Path | str, start: float) -> None:
        self.trouble = ""
        self._tracks: dict[int, CopiedTrack | EncodedTrack] = {}
        self._media: Any = None
        self._next: Any = None
        self._origin = self._video_end = Fraction(0)
        try:
            first, self._video_end = _video_span(media)
            self._origin = first + Fraction(start).limit_denominator(1_000_000_000)
            self._begin(media, start)
        except Exception as error:  # here and below: whatever a broken track makes PyAV raise
            self._fail(error)

    def _begin(self, media: Path | str, start: float) -> None:
        """Read the first packet shortly before `start`, or the very first.

        Not every container or server can seek: where it lands too late, read from the beginning.
        """
        self._media = _open(media)
        audio = self._media.streams.audio
        if not audio:
            return
        if start > SEEK_FROM_SECONDS:
            with suppress(*AUDIO_ERRORS):
                self._media.seek(int((self._origin - 1) * av.time_base))
        self._packets = self._media.demux(*audio)
        self._next = next(self._packets, None)
        if start > SEEK_FROM_SECONDS and (self._next is None or _time(self._next) > self._origin):
            self._media.close()
            self._begin(media, 0.0)

    def __bool__(self) -> bool:
        """Whether there are packets left."""
        return self._next is not None

    def add_to(self, output: Any, container: Container) -> None:
        """Add a stream per track to the `av` container `output`, before its header is written."""
        for stream in self._media.streams.audio if self._media and self else ():
            try:
                if stream.codec_context is None:
                    self.trouble = "FFmpeg has no decoder for one of its tracks"
                    continue
                kind = CopiedTrack if self._may_copy(stream, container) else EncodedTrack
                self._tracks[stream.index] = kind(stream, output, container, self._origin)
            except Exception as error:
                self._fail(error)

    def until(self, seconds: Fraction | None, end: Fraction | None = None) -> Iterator[Any]:
        """Packets to write that are due before `seconds`, or all; none starts at `end` or later."""
        while self._next is not None and self._tracks:
            packet = self._next
            if seconds is not None and _time(packet) - self._origin >= seconds:
                return
            try:
                track = self._tracks.get(packet.stream_index)
                ready = list(track.take(packet, end)) if track else []
                self._next = next(self._packets, None)
            except Exception as error:
                self._fail(error)
                return
            yield from ready

    def rest(self, end: Fraction) -> Iterator[Any]:
        """The packets that are left, up to the end of the video; of a whole clip all of them."""
        is_whole = self._origin + end >= self._video_end - Fraction(1, 20)
        limit = None if is_whole else end
        yield from self.until(limit, limit)
        for track in self._tracks.values():
            try:
                yield from list(track.take(None, limit))
            except Exception as error:
                self._fail(error)

    def drop(self, error: Exception) -> None:
        """Drop all tracks: the output cannot hold them."""
        self._fail(error)
        self._tracks.clear()

    def close(self) -> None:
        """Close the file or connection."""
        self._next = None
        if self._media is not None:
            self._media.close()

    def _may_copy(self, stream: Any, container: Container) -> bool:
        if stream.codec_context.name.removesuffix("float") not in container.audio_codecs:
            return False
        if container.variable:
            return True
        return abs(_time(self._next) - self._origin) <= CLOSE_SECONDS

    def _fail(self, error: Exception) -> None:
        self.trouble = getattr(error, "strerror", None) or str(error)
        self._next = None


def has_audio(media: Path | str) -> bool:
    """Whether a file has an audio track; False if it cannot be opened."""
    try:
        with _open(media) as container:
            return bool(container.streams.audio)
    except AUDIO_ERRORS:
        return False


class CopiedTrack:
    """Copies packets, shifted in time; cut between packets, which last about 20 ms."""

    def __init__(self, stream: Any, output: Any, container: Container, origin: Fraction) -> None:
        self._stream = output.add_stream_from_template(stream)
        self._origin = round(origin / stream.time_base)
        self._early = container.early_audio
        self._last = -(1 << 62)

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """The packets to write for one packet of the media, None at its end; none from `end` on."""
        if packet is None or packet.pts is None:
            return
        pts, base = packet.pts - self._origin, packet.time_base
        early = (
            PREROLL_PACKETS * (packet.duration or 0) if self._early else CLOSE_SECONDS / base / 2
        )
        if pts < -early or (end is not None and pts * base >= end) or pts <= self._last:
            return
        self._last = pts
        packet.pts = packet.dts = pts if self._early else max(pts, 0)
        packet.stream = self._stream
        yield packet


class EncodedTrack:
    """Decodes, cuts to the sample, and encodes with a codec that the container can hold."""

    def __init__(self, stream: Any, output: Any, container: Container, origin: Fraction) -> None:
        source = stream.codec_context
        self._rate = 48_000 if container.audio_encoder == "libopus" else source.sample_rate
        self._layout = "mono" if source.layout.nb_channels == 1 else "stereo"
        self._input, self._origin, self._position = stream, origin, 0
        self._resampler = AudioResampler("fltp", self._layout, self._rate)
        self._stream = output.add_stream(container.audio_encoder, rate=self._rate)
        self._stream.codec_context.layout = self._layout

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """The packets to write for one packet of the media, None at its end; none from `end` on."""
        for frame in self._input.decode(packet):
            for part in self._resampler.resample(frame):
                yield from self._encode(part, end)
        if packet is None:
            yield from self._stream.encode(None)

    def _encode(self, part: Any, end: Fraction | None) -> Iterator[Any]:
        begin = self._position  # what a decoder returns at its end may have no time
        if part.pts is not None:
            begin = round((part.pts * part.time_base - self._origin) * self._rate)
        samples = self._aligned(part.to_ndarray(), begin)
        if end is not None:
            samples = samples[:, : max(0, round(end * self._rate) - self._position)]
        if samples.shape[1]:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples), "fltp", layout=self._layout
            )
            frame.sample_rate, frame.pts = self._rate, self._position
            frame.time_base = Fraction(1, self._rate)
            self._position += samples.shape[1]
            yield from self._stream.encode(frame)

    def _aligned(self, samples: NDArray[np.float32], begin: int) -> NDArray[np.float32]:
        """(channels, n) float32 to append, cut or padded in front so that it starts at `begin`.

        After the first samples, a difference below 50 ms is rounding of the container's clock.
        """
        gap = begin - self._position
        if self._position and abs(gap) < self._rate // 20:
            return samples
        if gap < 0:
            return samples[:, -gap:]
        return np.pad(samples, ((0, 0), (gap, 0)))


def _open(media: Path | str) -> Any:
    """Open the file, or a second connection to the URL: OpenCV reads the video."""
    return av.open(str(media), timeout=TIMEOUT_SECONDS if "://" in str(media) else None)


def _video_span(media: Path | str) -> tuple[Fraction, Fraction]:
    """Start of the first video frame and end of the last, in seconds by the file's clock."""
    with _open(media) as container:
        video = container.streams.video[0]
        packets = container.demux(video)
        first = _first_frame_time(packets, has_pts=container.format.name != "avi")
        if video.duration is not None:
            tick: Any = video.time_base
            return first, Fraction(((video.start_time or 0) + video.duration) * tick)
        # Matroska has the duration of the file, with audio, but not of its tracks
        if "://" in str(media) and container.duration:  # reading the packets would download it all
            return first, Fraction((container.start_time or 0) + container.duration, av.time_base)
        ends = [_packet_end(packet) for packet in packets if packet.size]
        return first, max(ends, default=first)


def _first_frame_time(packets: Iterator[Any], *, has_pts: bool) -> Fraction:
    """Seconds at which the first video frame is shown.

    Args:
        has_pts: whether the container has presentation times; AVI has decoding times, and the
            times that FFmpeg derives from them are late by the decoder's delay.
    """
    decoded: Fraction | None = None
    for packet in packets:
        if decoded is None and packet.size:
            decoded = Fraction(packet.dts or 0) * packet.time_base
        for picture in packet.decode():
            shown = Fraction(picture.pts or 0) * picture.time_base
            return shown if has_pts or decoded is None else decoded
    raise ValueError("it has no video frame to be timed by")


def _packet_end(packet: Any) -> Fraction:
    at = packet.pts if packet.pts is not None else packet.dts or 0
    return Fraction(at + (packet.duration or 0)) * packet.time_base


def _time(packet: Any) -> Fraction:
    """Seconds at which a packet is due; the empty one at the end is due at once."""
    return Fraction(packet.pts or 0) * packet.time_base if packet.size else Fraction(-1 << 40)
