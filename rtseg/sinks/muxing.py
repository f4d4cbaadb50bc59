"""A video file being written: encoded pictures, interleaved with audio."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av

from rtseg.contracts import SourceInfo
from rtseg.sinks.audio import AUDIO_ERRORS, Audio
from rtseg.sinks.encoding import CONTAINERS, Encoder, colour_tags
from rtseg.yuv import FULL, LIMITED

WRITE_ERRORS = (av.FFmpegError, OSError)

LOOKAHEAD = 32
"""Frames that an encoder takes, at these settings, before the first packet comes out."""


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

    Attributes:
        lead: tick at which the first picture is to be shown, as there is audio before it.
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
        if not encoder.square:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        if encoder.library == "libx265" and suffix in (".mp4", ".mov"):
            context.codec_tag = "hvc1"  # Apple's players require it
        if encoder.pix_fmt.startswith("yuv"):
            tags = colour_tags(encoder, info)
            context.colorspace, context.color_primaries, context.color_trc = tags
            context.color_range = FULL if encoder.pix_fmt.startswith("yuvj") else LIMITED
        self.lead = 0
        if self._audio:
            self.lead = self._audio.lead(self._time_base)
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
        try:
            self._output.close()
        except ValueError as error:
            if self._audio is None:
                raise
            self._audio.refuse(error)

    def _write(self, packet: Any) -> None:
        due = (packet.pts + packet.duration) * self._time_base
        self._bytes += packet.size
        self._mux(packet)
        if self._audio is not None:
            self._write_audio(self._audio.until(due))

    def _write_audio(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._mux(packet)

    def _mux(self, packet: Any) -> None:
        """Write a packet.

        What the container refuses (not a full disk) may be one of the audio that waited for this
        one of the video; whether all frames were written is checked in the end.
        """
        try:
            self._output.mux(packet)
        except ValueError as error:
            if self._audio is None:
                raise
            self._audio.refuse(error)


def count_frames(path: Path) -> int:
    """Number of frames of a video, counted by reading it; 0 if it has no video stream.

    Raises:
        av.FFmpegError, OSError: it cannot be opened as a video.
    """
    with av.open(str(path)) as container:
        packets = container.demux(video=0) if container.streams.video else ()
        return sum(1 for packet in packets if packet.size)
