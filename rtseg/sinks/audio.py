"""The sound of a source's file, carried into the file written from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from rtseg.sinks.encoders import Container

AUDIO_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError)
"""What a library says of tracks that it cannot put into a container."""

PREROLL_PACKETS = 2.5
"""Packets kept before the start where the container can hide them: AAC decodes each packet with
the help of the one before, and encoders prime it with up to 2112 samples (just over two)."""

CLOSE_SECONDS = Fraction(1, 1000)

SEEK_FROM_SECONDS = 2.0

SILENT_SECONDS = 10.0
"""After so long without a byte of a recording behind an address, its sound is given up."""


class Track(Protocol):
    """One audio stream on its way into the output."""

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """The packets to write for one packet of the media, None at its end; none after `end`."""


class Sound:
    """All audio tracks of a file, or behind an address.

    Time 0 is `start` seconds after its first picture.

    Whatever is wrong with the sound never loses the picture: it ends, and `trouble` says why.

    Attributes:
        trouble: why (the rest of) the sound is missing; "" when it is not.
    """

    def __init__(self, media: Path | str, start: float) -> None:
        self.trouble = ""
        self._tracks: dict[int, Track] = {}
        self._media: Any = None
        self._next: Any = None
        self._origin = self._video_end = Fraction(0)
        try:
            first, self._video_end = _picture_times(media)
            self._origin = first + Fraction(start).limit_denominator(1_000_000_000)
            self._begin(media, start)
        except Exception as error:  # whatever a library says of it, here and below
            self._fail(error)

    def _begin(self, media: Path | str, start: float) -> None:
        """Hold the first packet: from shortly before `start` on, or from the very first.

        Not every container, or server, can be read from its middle: a seek may land too late.
        """
        self._media = _opened(media)
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
        """Whether there is anything left to carry."""
        return self._next is not None

    def add_to(self, output: Any, container: Container) -> None:
        """Add a stream to `output` per track; before its header is written."""
        for stream in self._media.streams.audio if self._media and self else ():
            try:
                if stream.codec_context is None:
                    self.trouble = "FFmpeg has no decoder for one of its tracks"
                    continue
                kind = CopiedTrack if self._copies(stream, container) else EncodedTrack
                self._tracks[stream.index] = kind(stream, output, container, self._origin)
            except Exception as error:
                self._fail(error)

    def until(self, seconds: Fraction | None, end: Fraction | None = None) -> Iterator[Any]:
        """Packets that are due before `seconds`, or all; no sound starts at `end` or later."""
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
        """What is left, cut where the picture ends; a whole clip keeps a longer tail of sound."""
        whole = self._origin + end >= self._video_end - Fraction(1, 20)
        limit = None if whole else end
        yield from self.until(limit, limit)
        for track in self._tracks.values():
            try:
                yield from list(track.take(None, limit))
            except Exception as error:
                self._fail(error)

    def drop(self, error: Exception) -> None:
        """Give the sound up: the output cannot take it."""
        self._fail(error)
        self._tracks.clear()

    def close(self) -> None:
        """Close the media file."""
        self._next = None
        if self._media is not None:
            self._media.close()

    def _copies(self, stream: Any, container: Container) -> bool:
        if stream.codec_context.name.removesuffix("float") not in container.sounds:
            return False
        if container.variable:
            return True
        return abs(_time(self._next) - self._origin) <= CLOSE_SECONDS

    def _fail(self, error: Exception) -> None:
        self.trouble = getattr(error, "strerror", None) or str(error)
        self._next = None


class CopiedTrack:
    """Packets as they are, moved in time; cut between packets, which last about 20 ms."""

    def __init__(self, stream: Any, output: Any, container: Container, origin: Fraction) -> None:
        self._stream = output.add_stream_from_template(stream)
        self._origin = round(origin / stream.time_base)
        self._early = container.early_sound
        self._last = -(1 << 62)

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """The packet, if it lies within the cut."""
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
    """Decoded, cut to the sample, and encoded with what the container holds."""

    def __init__(self, stream: Any, output: Any, container: Container, origin: Fraction) -> None:
        source = stream.codec_context
        self._rate = 48_000 if container.sound == "libopus" else source.sample_rate
        self._layout = "mono" if source.layout.nb_channels == 1 else "stereo"
        self._input, self._origin, self._position = stream, origin, 0
        self._resampler = AudioResampler("fltp", self._layout, self._rate)
        self._stream = output.add_stream(container.sound, rate=self._rate)
        self._stream.codec_context.layout = self._layout

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """What the encoder gives for one packet of the media."""
        for frame in self._input.decode(packet):
            for part in self._resampler.resample(frame):
                yield from self._encode(part, end)
        if packet is None:
            yield from self._stream.encode(None)

    def _encode(self, part: Any, end: Fraction | None) -> Iterator[Any]:
        # what comes out of a decoder at its end may have no time: it goes on from what was
        timed = part.pts is not None
        begin = (
            round((part.pts * part.time_base - self._origin) * self._rate)
            if timed
            else self._position
        )
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
        """(channels, n) float32 to append: cut or led by silence so that `begin` is kept.

        Once it runs, differences below 50 ms are the rounding of the container's clock.
        """
        gap = begin - self._position
        if self._position and abs(gap) < self._rate // 20:
            return samples
        if gap < 0:
            return samples[:, -gap:]
        return np.pad(samples, ((0, 0), (gap, 0)))


def has_sound(media: Path | str) -> bool:
    """Whether a file has an audio track; False for what cannot be opened."""
    try:
        with _opened(media) as container:
            return bool(container.streams.audio)
    except AUDIO_ERRORS:
        return False


def _opened(media: Path | str) -> Any:
    """A second connection, where it is an address: the pictures are read by another library."""
    return av.open(str(media), timeout=SILENT_SECONDS if "://" in str(media) else None)


def _picture_times(media: Path | str) -> tuple[Fraction, Fraction]:
    """When the first picture of a file is shown, and the last one ends, in its own seconds."""
    with _opened(media) as container:
        video = container.streams.video[0]
        packets = container.demux(video)
        first = _first_time(packets, told=container.format.name != "avi")
        if video.duration is not None:
            tick: Any = video.time_base
            return first, Fraction(((video.start_time or 0) + video.duration) * tick)
        # Matroska tells how long the file is, sound and all, and of its tracks in a tag at most
        if "://" in str(media) and container.duration:  # reading on would fetch all of it first
            return first, Fraction((container.start_time or 0) + container.duration, av.time_base)
        ends = [_packet_end(packet) for packet in packets if packet.size]
        return first, max(ends, default=first)


def _first_time(packets: Iterator[Any], *, told: bool) -> Fraction:
    """When the first picture is shown.

    Args:
        told: whether the container says so; AVI says when it is decoded, and what FFmpeg makes of
            that is late by the decoder's delay.
    """
    decoded: Fraction | None = None
    for packet in packets:
        if decoded is None and packet.size:
            decoded = Fraction(packet.dts or 0) * packet.time_base
        for picture in packet.decode():
            shown = Fraction(picture.pts or 0) * picture.time_base
            return shown if told or decoded is None else decoded
    raise ValueError("there is no picture to time it by")


def _packet_end(packet: Any) -> Fraction:
    at = packet.pts if packet.pts is not None else packet.dts or 0
    return Fraction(at + (packet.duration or 0)) * packet.time_base


def _time(packet: Any) -> Fraction:
    """When a packet is due in its file; the flushing one at the end is due at once."""
    return Fraction(packet.pts or 0) * packet.time_base if packet.size else Fraction(-1 << 40)
