"""A video file being written: encoded pictures, interleaved with audio."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np

from rtseg.contracts import SourceInfo
from rtseg.files import RESERVE_BYTES, atomic, free_bytes
from rtseg.sinks.audio import AUDIO_ERRORS, Audio
from rtseg.sinks.encoding import CONTAINERS, FRAGMENTS, Encoder, colour_tags
from rtseg.yuv import FULL, LIMITED

WRITE_ERRORS = (av.FFmpegError, OSError)

COPY_BYTES = 1 << 20

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
        self._path, self._time_base, self._audio = path, time_base, audio
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
        # small parts reach the disk when they are whole, too
        options = {**container.options, "flush_packets": "1"}
        output = av.open(str(path), "w", container_options=options)
        stream: Any = output.add_stream(encoder.library, rate=rate)
        (stream.width, stream.height), stream.pix_fmt = size, encoder.pix_fmt
        context = stream.codec_context
        context.options, context.bit_rate = dict(encoder.options), encoder.bit_rate
        context.time_base = stream.time_base = self._time_base
        if not encoder.square:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        if encoder.library == "libx265" and suffix in (".mp4", ".mov"):
            context.codec_tag = "hvc1"  # Apple's players require it
        if encoder.is_yuv:
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
        if CONTAINERS[self._path.suffix.lower()].options is FRAGMENTS:
            index_first(self._path)

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


def index_first(path: Path) -> None:
    """Move the index of an MP4 or MOV file to its beginning, so that it plays while it loads.

    Tracks of audio of which there was no packet are left out.

    The file stays as it is, with the index at its end, if that fails: if the disk has no room for a
    second copy, or the positions of its samples would need more bytes.

    Source: the boxes `moov`, `stco` and `co64` of ISO/IEC 14496-12.
    """
    size = path.stat().st_size
    if free_bytes(path.parent) < size + RESERVE_BYTES:
        return
    with suppress(OSError):
        with path.open("rb") as file:
            places = {kind: (start, end) for kind, start, end in _boxes(file, 0, size)}
            _, head = places.get("ftyp", (0, 0))
            start, end = places.get("moov", (0, 0))
            file.seek(start)
            index = _without_empty_tracks(file.read(end - start))
        if not head or end != size or not _shift(index, len(index)):
            return
        # Windows replaces no file that is open
        with atomic(path) as whole, path.open("rb") as file, whole.open("wb") as copy:
            copy.write(file.read(head))
            copy.write(index)
            while block := file.read(min(COPY_BYTES, start - file.tell())):
                copy.write(block)


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of the boxes in a part of a file."""
    while start + 8 <= end:
        file.seek(start)
        length, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = {0: end - start, 1: large}.get(length, length)
        yield kind.decode("latin-1"), start, start + length
        start += max(8, length)


def _leaves(index: bytes | bytearray, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Kind and start of the boxes in a part of an index that hold no other boxes."""
    for kind, first, last in _boxes(io.BytesIO(index), start, end):
        if kind in ("trak", "mdia", "minf", "stbl"):
            yield from _leaves(index, first + 8, last)
        else:
            yield kind, first


def _without_empty_tracks(index: bytes) -> bytearray:
    """An index without the tracks that have no sample."""
    kept = bytearray(index[:8])
    for kind, first, last in _boxes(io.BytesIO(index), 8, len(index)):
        counts = [
            struct.unpack_from(">I", index, start + 16)[0]
            for leaf, start in _leaves(index, first + 8, last if kind == "trak" else first)
            if leaf == "stsz"
        ]
        if counts != [0]:
            kept += index[first:last]
    struct.pack_into(">I", kept, 0, len(kept))
    return kept


def _shift(index: bytearray, by: int) -> bool:
    """Add to all positions of samples in an index; False if one becomes too large."""
    for kind, first in _leaves(index, 8, len(index)):
        if kind in ("stco", "co64"):
            (count,) = struct.unpack_from(">I", index, first + 12)
            digits = ">u4" if kind == "stco" else ">u8"
            positions = np.frombuffer(index, digits, count, first + 16)
            if int(positions.max(initial=0)) + by > np.iinfo(positions.dtype).max:
                return False
            positions += by
    return True


def count_frames(path: Path) -> int:
    """Number of frames of a video, counted by reading it; 0 if it has no video stream.

    Raises:
        av.FFmpegError, OSError: it cannot be opened as a video.
    """
    with av.open(str(path)) as container:
        packets = container.demux(video=0) if container.streams.video else ()
        return sum(1 for packet in packets if packet.size)
