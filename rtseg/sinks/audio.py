"""Audio of the source's file or stream, copied or re-encoded into the file written from it."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.bitstream import BitStreamFilterContext
from numpy.typing import NDArray

from rtseg.files import reason
from rtseg.media import (
    TRACK_ERRORS,
    Joiner,
    audio_tracks,
    choose_video,
    is_joined,
    open_media,
    sound_formats,
)
from rtseg.player import LOOKED_AHEAD
from rtseg.sinks.encoding import FRAGMENTS, Container
from rtseg.text import counted

AUDIO_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError)
"""What FFmpeg and PyAV raise for tracks that a container cannot hold."""

PREROLL_PACKETS = {"mp3": 10, "opus": 5}
"""Packets kept before the start if the container can hide them: those of MP3 borrow bits from
earlier ones, and a decoder of Opus needs 80 ms (RFC 7845, 4.6)."""

DEFAULT_PREROLL = 2.5
"""Of other codecs: an AAC packet is decoded with the help of the one before, and encoders prime it
with up to 2112 samples (just over two packets)."""

PREROLL_SECONDS = 1
"""No packet that ends earlier before the start is needed."""

CLOSE_SECONDS = Fraction(1, 1000)
"""Audio that begins within this of the video needs no start time of its own."""

EARLY_SECONDS = Fraction(1, 20)
"""What begins less than this before the first picture is an encoder's priming."""

MOST_EARLY_SECONDS = 3600
"""What begins more than this before the first picture has a wrong time."""

MOST_LATE_SECONDS = 3600
"""What begins more than this after the last picture has a wrong time."""

LOOKED_AHEAD_SECONDS = 2
"""A track that does not begin within this much of the video does not begin before it."""

TAIL_SECONDS = Fraction(1, 20)
"""Pictures that end within this of the last one written do not make the output a part."""

SEEK_FROM_SECONDS = 2.0
"""Below this, reading from the beginning is as fast as seeking."""

TIMEOUT_SECONDS = 10.0
"""Without a byte from a URL for this long, its audio is dropped."""

WRONG_SECONDS = 1
"""A single packet whose time is further from those around it has a wrong time."""

MOST_AHEAD = 1000
"""Packets that are read ahead to see that."""

READ_TRIES = 8
"""Failures in a row after which a damaged file counts as ended."""

JITTER_SECONDS = Fraction(1, 20)
"""Times that swing by less than this are rounded, and mark no gaps."""

TAGS = (
    ("language", "language"),
    ("handler_name", "handler_name"),
    ("title", "name"),  # as FFmpeg reads it from MP4
    ("title", "title"),
)
"""Metadata that a track keeps, and what it is called when it is read."""

LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""What so many channels are where their track does not name a layout."""

LANGUAGE, CODEC_DELAY = b"\x22\xb5\x9c\x83und", b"\x56\xaa"
CODEC_PRIVATE, VOID = b"\x63\xa2", 0xEC
EMPTY_CLUSTER = bytes.fromhex("1f43b675 83 e78100")
OPUS_HEAD = re.compile(rb"(OpusHead..)..", re.DOTALL)

STANDARD = ("mono", "stereo", "2.1", "3.0", "4.0", "quad", "5.0", "5.1", "7.1")
"""Layouts that every decoder of AAC and Opus knows, if its encoder takes them."""


class Audio:
    """The audio tracks that belong to a video, in time with the pictures that are written.

    `start` is the time of the first of these, in seconds after the first picture of the media. At 0
    audio from before it is kept, and the picture begins later: see `lead`.

    An error never loses the video: the track ends, or has a gap, and `faults` has the reason.
    """

    def __init__(self, media: Path | str, start: float, track: int | None = None) -> None:
        self._trouble = ""
        self._refused, self._refusal = 0, ""
        self._tracks: dict[int, Track] = {}
        self._numbers: dict[int, int] = {}
        self._reader: Reader | None = None
        self._zero = self._early = Fraction(0)
        self._is_part = bool(start)
        try:
            self._reader = reader = Reader(media, track)
            self._numbers = {each.index: n for n, each in enumerate(reader.tracks, 1)}
            if start:
                reader.seek(start)
            self._zero = reader.origin + Fraction(start).limit_denominator(1_000_000_000)
            if not start:
                self._early = self._kept_early(reader.early)
            formats = sound_formats(reader.container)
            if max(map(len, formats)) > len(formats[0]):
                self._trouble = "its first part has none, or fewer tracks than a later one"
        except Exception as error:  # here and below: whatever a broken track makes PyAV raise
            self._fail(error)

    def _kept_early(self, early: Fraction) -> Fraction:
        if early > MOST_EARLY_SECONDS:
            self._trouble = f"it begins {float(early):.0f} s before the picture"
            return Fraction(0)
        return early if early > EARLY_SECONDS else Fraction(0)

    def __bool__(self) -> bool:
        """Whether there are packets left."""
        reader = self._reader
        return reader is not None and bool(reader.tracks) and reader.peek() is not None

    @property
    def faults(self) -> list[str]:
        """What is missing of it, for people."""
        found = [f"sound incomplete: {self._trouble}"] if self._trouble else []
        if self._refused:
            packets = counted(self._refused, "packet")
            found.append(f"sound incomplete: {packets} left out ({self._refusal})")
        for index, track in self._tracks.items():
            name = f"sound track {self._numbers[index]}" if len(self._numbers) > 1 else "sound"
            if track.trouble:
                found.append(f"{name} incomplete: {track.trouble}")
            if track.behind:
                left_out = f"{counted(track.behind, 'packet')} left out, whose times jump back"
                found.append(f"{name} incomplete: {left_out}")
            if track.gaps:
                found.append(f"{name} has {_described(track.gaps)}")
        return found

    def lead(self, time_base: Fraction) -> int:
        """Ticks at which the first picture is to be shown, as there is audio before it.

        Call it once, before `add_to`.
        """
        ticks = ceil(self._early / time_base) if self else 0
        self._zero -= ticks * time_base
        return ticks

    def add_to(self, output: Any, container: Container) -> None:
        """Add a stream per track to the `av` container `output`, before its header is written."""
        assert self._reader is not None
        title = self._reader.container.metadata.get("title")
        if title:
            output.metadata["title"] = title
        for stream in self._reader.tracks:
            try:
                self._tracks[stream.index] = self._add(stream, output, container)
            except Exception as error:
                self._tracks[stream.index] = Track(reason(error))

    def _add(self, stream: Any, output: Any, container: Container) -> Track:
        """Add a track in the best way that the container takes."""
        if stream.codec_context is None:
            return Track("FFmpeg has no decoder for it")
        trouble: Exception | None = None
        for plan in self._plans(stream, container):
            try:
                source = stream
                if plan.encoder is None and container.codec_delay:
                    source = with_codec_delay(stream, self._preroll(stream))
                trial = av.open(io.BytesIO(), "w", format=output.format.name)
                try:
                    plan.add(source, trial)
                    trial.start_encoding()
                finally:
                    with suppress(*AUDIO_ERRORS):
                        trial.close()
            except Exception as error:
                trouble = trouble or error
            else:
                added = plan.add(source, output)
                if plan.encoder is None and not stream.codec_context.extradata:
                    added.codec_context.extradata = None  # made up from an empty header
                for key, read_as in TAGS:
                    if read_as in stream.metadata:
                        added.metadata[key] = stream.metadata[read_as]
                added.disposition = stream.disposition
                if plan.encoder is None:
                    return CopiedTrack(stream, added, container, self._zero)
                return EncodedTrack(stream, added, self._zero)
        assert trouble is not None
        raise trouble

    def _preroll(self, stream: Any) -> Fraction:
        """Seconds of the packets of a track that are kept before the start."""
        assert self._reader is not None
        for packet in self._reader.around(self._zero, stream.index):
            begin = _time(packet) - self._zero
            if begin >= -_most_preroll(packet):
                return max(-begin, Fraction(0))
        return Fraction(0)

    def _plans(self, stream: Any, container: Container) -> Iterator[Plan]:
        """Ways to write a track, best first."""
        name = stream.codec_context.name.removesuffix("float")
        holds = name in container.audio_codecs and self._is_alike(stream)
        pcm = holds and name.startswith("pcm_")  # coded anew without loss, gaps as silence
        if holds and not pcm and (container.variable or self._fits_untimed(stream)):
            yield Plan(None)
        encoder = name if pcm else container.audio_encoder
        for layout in dict.fromkeys(_layouts(stream.codec_context.layout, exact=pcm)):
            yield Plan(encoder, layout)

    def _is_alike(self, stream: Any) -> bool:
        """Whether all of a track can be copied behind one header."""
        assert self._reader is not None
        media = self._reader.container
        number = list(media.streams.audio).index(stream)
        return len({part[number] for part in sound_formats(media) if number < len(part)}) == 1

    def _fits_untimed(self, stream: Any) -> bool:
        """Whether a copy is in time in a container that has no times: it has no gaps."""
        assert self._reader is not None
        if self._is_part or (
            # copied from AVI, their header would count bytes for packets
            self._reader.container.format.name == "avi"
            and not stream.codec_context.name.startswith(("mp2", "mp3"))
        ):
            return False
        return self._reader.is_gapless(stream.index, self._zero)

    def until(self, seconds: Fraction) -> Iterator[Any]:
        """Packets to write that are due before `seconds`."""
        while (packet := self._peek()) is not None and _time(packet) - self._zero < seconds:
            assert self._reader is not None
            self._reader.pop()
            yield from self._taken(packet.stream_index, packet, None)

    def rest(self, end: Fraction) -> Iterator[Any]:
        """The packets that are left, up to the end of the video; of a whole clip all of them."""
        left: list[Any] = []
        limit = None
        while (packet := self._peek()) is not None:
            assert self._reader is not None
            late = _time(packet) - self._zero - end
            if late >= 0 and self._reader.shows_after(self._zero + end):
                limit = end
                break
            if late > MOST_LATE_SECONDS:
                self.refuse(ValueError(f"it begins {float(late):.0f} s after the picture"))
                self._reader.pop()
                continue
            left.append(packet)
            self._reader.pop()
        for packet in left:
            yield from self._taken(packet.stream_index, packet, limit)
        for index in self._tracks:
            yield from self._taken(index, None, limit)

    def _peek(self) -> Any:
        if self._reader is None or all(track.trouble for track in self._tracks.values()):
            return None
        try:
            return self._reader.peek()
        except Exception as error:
            self._fail(error)
            return None

    def _taken(self, index: int, packet: Any, end: Fraction | None) -> list[Any]:
        """What one packet of a track becomes; None is its end."""
        track = self._tracks.get(index)
        if track is None or track.trouble:
            return []
        try:
            return list(track.take(packet, end))
        except Exception as error:
            track.trouble = reason(error)
            return []

    def refuse(self, error: Exception) -> None:
        """Note that the output did not take a packet."""
        self._refused, self._refusal = self._refused + 1, reason(error)

    def drop(self, error: Exception) -> None:
        """Drop all tracks: the output cannot hold them."""
        self.close()
        self._fail(error)
        self._tracks.clear()

    def close(self) -> None:
        """Close the file or connection."""
        if self._reader is not None:
            if self._reader.trouble and not self._trouble:
                self._trouble = self._reader.trouble
            self._reader.close()
            self._reader = None

    def _fail(self, error: Exception) -> None:
        self._trouble = reason(error)


def has_audio(media: Path | str) -> bool:
    """Whether a file has an audio track; False if it cannot be opened."""
    try:
        with _open(media) as container:
            return bool(container.streams.audio)
    except AUDIO_ERRORS:
        return False


class Plan(NamedTuple):
    """A way to write a track: copied, or by an encoder with a channel layout."""

    encoder: str | None
    layout: str = ""

    def add(self, stream: Any, output: Any) -> Any:
        """Add the output's stream; its rate is the nearest one that the encoder takes."""
        if self.encoder is None:
            return output.add_stream_from_template(stream)
        rate = stream.codec_context.sample_rate
        rates = av.codec.Codec(self.encoder, "w").audio_rates or [rate]
        rate = min(rates, key=lambda each: abs(each - rate))
        added = output.add_stream(self.encoder, rate=rate)
        added.codec_context.layout = self.layout
        return added


class Track:
    """A track that is written; by itself, one that cannot be.

    Attributes:
        trouble: why it ended; "" as long as it goes on.
        gaps: (seconds at which it begins, its seconds) of each piece that could not be decoded.
        behind: packets left out because their times are far behind what is written.
    """

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        self.behind = 0
        self.gaps: list[tuple[float, float]] = []

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """The packets to write for one packet of the media, None at its end; none from `end` on."""
        return iter(())

    def _fall_behind(self, seconds: Fraction) -> None:
        """Count a packet whose time is behind what is written, once that of one is far behind."""
        self.behind += seconds > (0 if self.behind else WRONG_SECONDS)


class CopiedTrack(Track):
    """Copies packets, shifted in time; cut between packets, which last about 20 ms."""

    def __init__(self, stream: Any, output: Any, container: Container, zero: Fraction) -> None:
        super().__init__()
        self._stream, self._zero = output, round(zero / stream.time_base)
        self._early = container.early_audio
        # MP4 needs AAC without the headers that streams have; its muxer takes them off only where
        # the index is written first
        context = stream.codec_context
        headers = container.options is FRAGMENTS and context.name == "aac"
        headers = headers and not context.extradata
        self._filter = BitStreamFilterContext("aac_adtstoasc", stream) if headers else None
        self._last = -(1 << 62)

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """As `Track`."""
        if packet is None or packet.pts is None:
            return
        pts, base = packet.pts - self._zero, packet.time_base
        early = (_most_preroll(packet) if self._early else CLOSE_SECONDS) / base
        self._fall_behind((self._last - pts) * base)
        if pts < -early or (end is not None and pts * base >= end) or pts <= self._last:
            return
        if packet.is_discard and self._last >= 0:  # an edit list leaves it out
            return
        self._last = pts
        packet.pts = packet.dts = pts if self._early else max(pts, 0)
        for plain in [packet] if self._filter is None else self._filter.filter(packet):
            plain.time_base, plain.stream = base, self._stream
            yield plain


class Damage(NamedTuple):
    """What could not be decoded: where it begins, for how long by its packets, and why."""

    at: int
    samples: int
    reason: str


class EncodedTrack(Track):
    """Decodes, cuts to the sample, and encodes with a codec that the container can hold.

    Silence stands for what cannot be decoded, and for gaps of the media.
    """

    def __init__(self, stream: Any, output: Any, zero: Fraction) -> None:
        super().__init__()
        self._input, self._stream, self._zero = stream, output, zero
        self._rate: int = output.codec_context.sample_rate
        self._layout: str = output.codec_context.layout.name
        self._channels: int = output.codec_context.layout.nb_channels
        self._position = self._decoded = 0
        self._kind: tuple[Any, ...] = ()
        self._resampler: AudioResampler | None = None
        self._damage: Damage | None = None  # since the last good frame
        self._shift, self._swings = 0, 0
        self._begins = True  # the next samples are the first ones, or those of another part

    def take(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        """As `Track`."""
        if packet is not None and packet.opaque not in (None, self._input):
            yield from self._decode(None, end)  # the part before of a joined file
            yield from self._flush(end)
            self._input, self._begins = packet.opaque, True
        yield from self._decode(packet, end)
        if packet is None:
            yield from self._flush(end)
            if self._damage is not None and not self._decoded:
                self.trouble = f"nothing of it can be decoded ({self._damage.reason})"
            elif self._damage is not None and end is None:
                yield from self._pad(self._damage.samples, end)
            yield from self._stream.encode(None)

    def _decode(self, packet: Any, end: Fraction | None) -> Iterator[Any]:
        try:
            frames = self._input.decode(packet)
        except TRACK_ERRORS as error:
            yield from self._flush(end)
            self._note(packet, error)
            frames = ()
        for frame in frames:
            yield from self._resample(frame, end)

    def _note(self, packet: Any, error: Exception) -> None:
        """Remember a packet that cannot be decoded; None is what a decoder held back."""
        at, lasts = self._position, 0
        if packet is not None:
            lasts = round((packet.duration or 0) * packet.time_base * self._rate)
            if packet.pts is not None:
                at = max(at, round((_time(packet) - self._zero) * self._rate))
        if self._damage is not None:
            at, lasts = self._damage.at, self._damage.samples + lasts
        self._damage = Damage(at, lasts, reason(error))

    def _resample(self, frame: Any, end: Fraction | None) -> Iterator[Any]:
        """In the format of the encoder; formats may change within a track."""
        frame = _with_layout(frame)
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind:
            yield from self._flush(end)
            self._kind = kind
        if self._resampler is None:
            self._resampler = AudioResampler("flt", self._layout, self._rate)
        self._decoded += frame.samples
        for part in self._resampler.resample(frame):
            yield from self._encode(part, end)

    def _flush(self, end: Fraction | None) -> Iterator[Any]:
        """What the resampler holds back."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None and self._kind != ("flt", self._layout, self._rate):
            for part in resampler.resample(None):
                yield from self._encode(part, end)

    def _encode(self, part: Any, end: Fraction | None) -> Iterator[Any]:
        samples = part.to_ndarray().reshape(-1, self._channels)
        ahead = self._ahead(part)
        if self._position:
            self._fall_behind(Fraction(-ahead, self._rate))
        if ahead > 0:
            yield from self._pad(ahead, end)
        self._damage = None
        kept = samples[max(0, -ahead) :]
        self._begins = self._begins and not len(kept)
        yield from self._append(kept, end)

    def _ahead(self, part: Any) -> int:
        """Samples that are missing before the next ones; negative where they overlap.

        After the first, a small difference is rounding of the container's clock. One of most of a
        packet is a missing packet, unless the times swing back later.
        """
        if part.pts is None:  # as a decoder may return at its end
            return 0 if self._damage is None else self._damage.samples
        ahead = round((part.pts * part.time_base - self._zero) * self._rate) - self._position
        if self._begins or self._damage is not None:
            return ahead
        jitter = JITTER_SECONDS * self._rate
        steady = max(self._rate // 500, part.samples * 3 // 5)
        if abs(ahead) < (jitter if self._swings > 1 else min(jitter, steady)):
            return 0
        if abs(ahead) < jitter:
            self._swings += self._shift * ahead < 0
            self._shift = ahead
        return ahead

    def _pad(self, missing: int, end: Fraction | None) -> Iterator[Any]:
        """Silence, and a note if it stands for what could not be decoded."""
        if self._damage is not None:
            at = max(self._position, self._damage.at)
            lost = self._position + missing - at
            if lost > 0:
                self.gaps.append((at / self._rate, lost / self._rate))
        while missing > 0:
            piece = min(missing, self._rate)
            yield from self._append(np.zeros((piece, self._channels), np.float32), end)
            missing -= piece

    def _append(self, samples: NDArray[np.float32], end: Fraction | None) -> Iterator[Any]:
        """Encode (n, channels) float32 up to `end`."""
        if end is not None:
            samples = samples[: max(0, round(end * self._rate) - self._position)]
        if not len(samples):
            return
        # packed, as PyAV does not show the planes of eight channels
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples).reshape(1, -1), "flt", layout=self._layout
        )
        frame.sample_rate, frame.pts = self._rate, self._position
        frame.time_base = Fraction(1, self._rate)
        self._position += len(samples)
        yield from self._stream.encode(frame)


class Reader:
    """Reads a video and the audio tracks that belong to it, and gives the packets of these.

    The times of joined files go on where they would jump, as those of the pictures do.

    Attributes:
        container: the open media.
        tracks: the audio streams.
        origin: seconds of its clock at which the first picture is shown.
        begins: seconds at which the audio begins, by the number of the stream; only of tracks
            that begin near the picture.
        trouble: why it could not be read to its end; "" if it could.

    Raises:
        av.FFmpegError, OSError, ValueError, SourceError: it cannot be opened, or has no picture.
    """

    def __init__(self, media: Path | str, track: int | None) -> None:
        self._media, self._track = media, track
        self.trouble = ""
        self.begins: dict[int, Fraction] = {}
        self._read: deque[Any] = deque()
        self._first: dict[int, Any] = {}
        self._untimed: list[Fraction] = []  # of packets whose pictures have no time of their own
        self._expected: dict[int, Fraction] = {}  # when the next packet of each track is due
        self._last = self._shown_until = Fraction(-1 << 40)
        self._start()
        try:
            self.origin = self._look()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.container = container = _open(self._media)
        self.video = (
            choose_video(container, str(self._media))
            if self._track is None
            else container.streams[self._track]
        )
        self.tracks = audio_tracks(container, self.video)
        self._own = {track.index for track in self.tracks}
        self._joined = is_joined(container)
        self._read_on()

    def _read_on(self) -> None:
        """Read from where the container is now."""
        self._read.clear()
        self._expected.clear()
        self._packets = self._demux()

    @property
    def early(self) -> Fraction:
        """Seconds of audio before the first picture."""
        return max((self.origin - begin for begin in self.begins.values()), default=Fraction(0))

    def peek(self) -> Any:
        """The next packet of an audio track; None at the end."""
        if not self._read and not self._fill():
            return None
        self._mend(self._read[0])
        return self._read[0]

    def pop(self) -> None:
        """Go on to the next packet."""
        packet = self._read.popleft()
        self._expected[packet.stream_index] = _end(packet)

    def around(self, seconds: Fraction, index: int) -> list[Any]:
        """The packets of a track up to the first that ends after `seconds` of the media's clock.

        Earlier packets than these, of any track, are dropped: see `PREROLL_SECONDS`.
        """
        while True:
            own = [packet for packet in self._read if packet.stream_index == index]
            if own and _end(own[-1]) > seconds:
                return own
            if self._last > seconds + LOOKED_AHEAD_SECONDS or not self._fill():
                return own
            while (first := self.peek()) is not None and _end(first) < seconds - PREROLL_SECONDS:
                self.pop()

    def _fill(self) -> bool:
        """Read up to the next packet of an audio track; False at the end."""
        count = len(self._read)
        while len(self._read) == count:
            packet = next(self._packets, None)
            if packet is None:
                return False
            self._sort(packet)
        return True

    def _mend(self, packet: Any) -> None:
        """Correct a time that jumps, if that of the packet after it does not: it is damaged."""
        expected = self._expected.get(packet.stream_index)
        if expected is None or abs(_time(packet) - expected) <= WRONG_SECONDS:
            return
        follows = self._follower(packet)
        if follows is None or abs(_time(follows) - expected) <= WRONG_SECONDS:
            packet.pts = packet.dts = round(expected / packet.time_base)

    def _follower(self, packet: Any) -> Any:
        """The packet after the next one of its track; None at the end, itself if it is far away."""
        at = 1
        while at < len(self._read) or self._fill():
            if self._read[at].stream_index == packet.stream_index:
                return self._read[at]
            at += 1
            if at > MOST_AHEAD:
                return packet
        return None

    def seek(self, start: float) -> None:
        """Go on with a packet before `start` seconds from the first picture.

        Not every container or server can seek: where it lands too late, read from the beginning. A
        joined file is always read from there, as its times depend on all packets before.
        """
        if start <= SEEK_FROM_SECONDS or self._joined:
            return
        aim = self.origin + Fraction(start)
        with suppress(*AUDIO_ERRORS):
            self.container.seek(int((aim - 1) * av.time_base))
        self._read_on()
        first = self.peek()
        if first is None or _time(first) > aim:
            self.close()
            self._start()

    def shows_after(self, seconds: Fraction) -> bool:
        """Whether a picture is known that begins at this time of the media's clock or later."""
        return self._last >= seconds - CLOSE_SECONDS and self._shown_until > seconds + TAIL_SECONDS

    def is_gapless(self, index: int, begin: Fraction) -> bool:
        """Whether the packets of a track follow each other from `begin` on; reads the file.

        Of an address False, as that would be a download.
        """
        if "://" in str(self._media):
            return False
        end, slack = begin, CLOSE_SECONDS
        with _open(self._media) as container:
            for packet in container.demux(container.streams[index]):
                if not packet.size:
                    continue
                if packet.pts is None or not packet.duration or abs(_time(packet) - end) > slack:
                    return False
                end = _time(packet) + packet.duration * packet.time_base
                slack = 10 * CLOSE_SECONDS  # times and durations are rounded
        return True

    def close(self) -> None:
        """Close the file or connection."""
        self.container.close()

    def _demux(self) -> Iterator[Any]:
        """Packets of the video and of its audio; after an error it goes on, but not for ever."""
        failed, join = 0, Joiner()
        tries = 1 if "://" in str(self._media) else READ_TRIES
        # the times depend on those of all tracks, as in the player
        tracks = self.container.streams.audio if self._joined else self.tracks
        while failed < tries:
            try:
                for packet in self.container.demux(self.video, *tracks):
                    if self._joined:
                        join(packet)
                    failed = 0
                    if packet.size:
                        yield packet
                return
            except TRACK_ERRORS as error:
                failed, self.trouble = failed + 1, reason(error)

    def _sort(self, packet: Any) -> None:
        """Keep a packet of the audio, and the time of one of the video."""
        if packet.stream_index in self._own:
            self._read.append(packet)
        elif packet.stream_index == self.video.index and not packet.is_discard:
            at = _time(packet)
            self._last = max(self._last, at)
            self._shown_until = max(
                self._shown_until, at + (packet.duration or 0) * packet.time_base
            )

    def _look(self) -> Fraction:
        """Read until the first picture is decoded and each track has begun; returns its time.

        AVI has decoding times only, and the times that FFmpeg derives from them are late by the
        decoder's delay.
        """
        untimed = self.container.format.name == "avi"
        origin: Fraction | None = None
        for packet in self._packets:
            self._sort(packet)
            if packet.stream_index in self._own and not packet.is_discard:
                self._note_begin(packet)
            if packet.stream_index == self.video.index and origin is None:
                decoded_at = Fraction(packet.dts or 0) * packet.time_base
                origin = decoded_at if untimed else self._shown(packet)
            if origin is not None:
                if len(self._expected) == len(self._own):  # two packets of each are known
                    break
                if self._last > origin + LOOKED_AHEAD_SECONDS:
                    break
        if origin is None:
            origin = self._shown(None)
        if origin is None:
            raise ValueError("it has no video frame to be timed by")
        self._mend_priming(origin)
        return origin

    def _mend_priming(self, origin: Fraction) -> None:
        """Let the packet that primes a decoder end where the next one begins, not last until then.

        Fragmented MP4 without an edit list declares it so where the picture begins later than 0;
        as many samples would be hidden as it is declared to last, and it has fewer.
        """
        for index, first in self._first.items():
            second = next(
                (p for p in self._read if p.stream_index == index and p is not first), None
            )
            if second is None or first.pts is None or _time(second) > origin + CLOSE_SECONDS:
                continue
            lasts, declared = second.duration or 0, first.duration or 0
            if second.pts == first.pts + declared and 0 < lasts < declared:
                first.pts = first.dts = second.pts - lasts
                self.begins[index] = _heard(first)

    def _note_begin(self, packet: Any) -> None:
        """Note where a track begins, by its first packet unless the second one tells otherwise."""
        index = packet.stream_index
        if index not in self.begins:
            self.begins[index], self._first[index] = _heard(packet), packet
        elif index not in self._expected:
            first = self._first[index]
            if abs(_time(packet) - _end(first)) > WRONG_SECONDS:
                begin = _time(packet) - (_end(first) - _time(first))
                first.pts = first.dts = round(begin / first.time_base)
                self.begins[index] = begin
            self._expected[index] = _time(first)

    def _shown(self, packet: Any) -> Fraction | None:
        """The time of the first picture, None if it is not known by this packet; None at the end.

        Pictures without a time, as the player counts them, come before one that has a time.
        """
        if self.video.codec_context is None:
            return None if packet is None else _time(packet)
        at = Fraction(0) if packet is None else _time(packet)
        with suppress(*TRACK_ERRORS):
            for picture in self.video.decode(packet):
                if picture.pts is not None:
                    first = picture.pts - len(self._untimed) * (picture.duration or 0)
                    return Fraction(first * picture.time_base)
                self._untimed.append(at)
        is_last = packet is None or len(self._untimed) >= LOOKED_AHEAD
        return self._untimed[0] if self._untimed and is_last else None


def _open(media: Path | str) -> Any:
    """Open the file, or a second connection to the URL: the player reads the video."""
    return open_media(str(media), TIMEOUT_SECONDS if "://" in str(media) else None)


def _time(packet: Any) -> Fraction:
    """Seconds at which a packet is due."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return Fraction(ticks or 0) * packet.time_base


def _end(packet: Any) -> Fraction:
    return _time(packet) + (packet.duration or 0) * packet.time_base


def _heard(packet: Any) -> Fraction:
    """Seconds at which the sound of a first packet begins: without the priming of its encoder."""
    hidden = 0
    if packet.has_sidedata("skip_samples"):
        hidden = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[:4], "little")
    codec = packet.stream.codec_context
    rate = codec.sample_rate if codec is not None else 0
    return _time(packet) + (Fraction(hidden, rate) if rate else 0)


def _most_preroll(packet: Any) -> Fraction:
    """Seconds before the start within which a packet is kept, where the container can hide it."""
    codec = packet.stream.codec_context.name.removesuffix("float")
    lasts = (packet.duration or 0) * packet.time_base
    return max(CLOSE_SECONDS, Fraction(PREROLL_PACKETS.get(codec, DEFAULT_PREROLL)) * lasts)


def with_codec_delay(stream: Any, seconds: Fraction) -> Any:
    """A stream like an audio stream, to copy it to Matroska or WebM with its beginning hidden.

    PyAV does not show what FFmpeg's muxer takes the delay from, but its demuxer sets it: this reads
    a header that has it, in the place of the language.

    Source: the elements CodecDelay, Language and Void of RFC 9559, and for Opus RFC 7845, 5.1.
    """
    file = io.BytesIO()
    file.close = lambda: None  # type: ignore[method-assign]
    with av.open(file, "w", format="matroska") as written:
        written.add_stream_from_template(stream)
        written.start_encoding()
        head = file.getvalue() + EMPTY_CLUSTER
    at = head.index(LANGUAGE)
    private = head.find(CODEC_PRIVATE, at)
    if (old := head.find(CODEC_DELAY, at, private if private >= 0 else None)) >= 0:
        size = head[old + 2] - 0x80
        head = head[:old] + bytes([VOID, 0x81 + size]) + bytes(1 + size) + head[old + 3 + size :]
    delay = CODEC_DELAY + b"\x84" + round(seconds * 10**9).to_bytes(4, "big")
    head = head.replace(LANGUAGE, delay, 1)
    samples = round(seconds * 48_000).to_bytes(2, "little")
    head = re.sub(OPUS_HEAD, lambda found: found[1] + samples, head, count=1)
    return av.open(io.BytesIO(head)).streams.audio[0]


def _layouts(layout: Any, *, exact: bool) -> Iterator[str]:
    """Channel layouts to encode one as, best first; `exact` where an encoder takes any."""
    default = LAYOUTS.get(layout.nb_channels, "stereo")
    name = layout.name if _is_known(layout) else default
    if exact or name in STANDARD:
        yield name
    if layout.nb_channels > 6:
        yield "7.1"
    elif default in STANDARD:
        yield default
    if layout.nb_channels > 1:
        yield "stereo"


def _is_known(layout: Any) -> bool:
    return not layout.name.endswith("channels")


def _with_layout(frame: Any) -> Any:
    """A decoded frame in a known layout; more than eight channels become left and right in turn."""
    if _is_known(frame.layout):
        return frame
    channels = frame.layout.nb_channels
    kind = frame.format.packed.name
    (packed,) = AudioResampler(kind, frame.layout, frame.sample_rate).resample(frame)
    samples: NDArray[Any] = packed.to_ndarray()
    layout = LAYOUTS.get(channels)
    if layout is None:
        several = samples.reshape(-1, channels)
        sides = [several[:, side::2].mean(1) for side in (0, 1)]
        samples, layout = np.stack(sides, 1).astype(samples.dtype).reshape(1, -1), "stereo"
    named = av.AudioFrame.from_ndarray(samples, kind, layout)
    named.sample_rate = frame.sample_rate
    if frame.pts is not None:
        named.pts, named.time_base = frame.pts, frame.time_base
    return named


def _described(gaps: list[tuple[float, float]]) -> str:
    (at, _), total = gaps[0], round(1000 * sum(lasts for _, lasts in gaps))
    if len(gaps) == 1:
        return f"a gap of {total} ms at {at:.1f} s"
    return f"{len(gaps)} gaps from {at:.1f} s on, {total} ms together"
