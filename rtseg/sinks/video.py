"""One video file in the making: opened by its first picture, checked before it gets its name."""

from __future__ import annotations

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import even, letterbox
from rtseg.errors import SinkError, counted
from rtseg.frame import Frame
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions
from rtseg.sinks.audio import AUDIO_ERRORS, Sound
from rtseg.sinks.encoders import CONTAINERS, Encoder, find_encoder
from rtseg.sinks.files import FileTarget, cannot_write, reason
from rtseg.stats import Clock
from rtseg.threads import Line
from rtseg.yuv import BT601, FULL, LIMITED, Tags, i420, luma, written

HELD_BACK = 32
"""Frames that an encoder may look ahead at before the first comes out, at these settings."""


class Muxer:
    """Encodes pictures and writes their packets, each with its duration, sound alongside.

    Args:
        output: the open `av` container, its header begun.
        stream: the one stream of pictures in it.
        time_base: seconds of one tick of the pictures' times.
        sound: what goes along, if anything does.
    """

    def __init__(self, output: Any, stream: Any, time_base: Fraction, sound: Sound | None) -> None:
        self._output, self._stream = output, stream
        self._time_base, self._sound = time_base, sound
        self._held: Any = None
        self._frames = self._written = 0

    def encoded(self, image: Any, tick: int) -> Iterable[Any]:
        """Give the encoder an `av.VideoFrame`, and return the packets that come out for it."""
        image.pts, image.time_base = tick, self._time_base
        packets: Iterable[Any] = self._stream.encode(image)
        self._frames += 1
        return packets

    def mux(self, packets: Iterable[Any]) -> None:
        """Write each packet once the next is known, and so its duration; sound goes alongside."""
        for packet in packets:
            if self._held is not None:
                self._held.duration = packet.pts - self._held.pts
                self._write(self._held)
            self._held = packet

    def bytes_to_finish(self) -> int:
        """Room that `finish` may need: for what the encoder still holds back, and the index."""
        mean = self._written // max(1, self._frames - HELD_BACK)
        return HELD_BACK * mean + 64 * self._frames

    def finish(self, end: int) -> None:
        """Write what is held back, the last picture until `end`, the sound's rest and the index."""
        self.mux(self._stream.encode(None))
        if self._held is not None:
            self._held.duration = end - self._held.pts
            self._write(self._held)
            self._held = None
        if self._sound is not None:
            self._write_sound(self._sound.rest(Fraction(end) * self._time_base))
        self._output.close()

    def _write(self, packet: Any) -> None:
        due = (packet.pts + packet.duration) * self._time_base
        self._written += packet.size
        self._output.mux(packet)
        if self._sound is not None:
            self._write_sound(self._sound.until(due))

    def _write_sound(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            try:
                self._output.mux(packet)
            except ValueError as error:  # a packet that the container refuses, not a full disk
                assert self._sound is not None
                self._sound.drop(error)
                return


JITTER_SECONDS = 0.00105
"""Containers that count milliseconds (Matroska, FLV) round a frame's time, and the first's."""

FINE_HZ = 90_000
USUAL_RATE, USUAL_LIVE_RATE = Fraction(25), Fraction(30)
"""Where none is told: that by which pictures and raw frames are timed; that of most cameras."""


class Timeline:
    """Turns the times of a source's frames into strictly increasing ticks.

    A frame within the jitter of a constant-rate grid is put on it, until the first that is not:
    from there on the source has a variable rate, and its own times are kept to the tick. Live
    sources are timed by the clock that stamped their frames.

    Attributes:
        rate: nominal frames per second.
        time_base: seconds per tick; a frame at `rate` lasts a whole number of ticks.
    """

    def __init__(self, info: SourceInfo) -> None:
        rate = info.frame_rate if info.frame_rate and info.frame_rate > 0 else None
        usual = USUAL_LIVE_RATE if info.live else USUAL_RATE
        self.rate = (rate or usual).limit_denominator(100_000)
        finer = max(1, -(-FINE_HZ // self.rate.numerator))
        self.time_base = Fraction(1, self.rate.numerator * finer)
        self._step = self.rate.denominator * finer
        self._live = info.live
        self._constant = rate is not None and not info.live
        self._first: float | None = None
        self._last = -1
        self._gap = self._step

    def tick(self, frame: Frame) -> int:
        """The time of the next frame, in ticks from the first."""
        seconds = frame.captured_at if self._live else frame.pts
        if self._first is None:
            self._first = seconds
        tick = max(self._snapped(seconds - self._first), self._last + 1)
        if self._last >= 0:
            self._gap = tick - self._last
        self._last = tick
        return tick

    @property
    def end(self) -> int:
        """The tick at which the last frame ends.

        It lasts one frame at a constant rate. At a variable one it lasts as long as the one
        before did, but a pause is not repeated: that is anything over a nominal frame, or, live,
        where the nominal rate may be far off, over a second.
        """
        if self._constant:
            return self._last + self._step
        return self._last + min(self._gap, self.time_base.denominator if self._live else self._step)

    def _snapped(self, seconds: float) -> int:
        if self._constant:
            nearest = round(seconds * self.rate)
            off = abs(seconds - float(nearest / self.rate))
            if off <= min(JITTER_SECONDS, 0.45 / float(self.rate)):
                return nearest * self._step
            self._constant = False
        return round(seconds / self.time_base)


def colours(info: SourceInfo, pix_fmt: str) -> Tags:
    """What is written of a source's colours; JPEG knows BT.601 alone."""
    return written(None if pix_fmt.startswith("yuvj") else info.colour_tags)


def encodable(image: NDArray[np.uint8], pix_fmt: str, matrix: int = BT601) -> Any:
    """(H, W, 3) uint8 BGR, (H, W, 4) BGRA, or (H, W) indices, as an `av.VideoFrame` for `pix_fmt`.

    Formats with halved chroma get an odd last row or column doubled. `matrix` is FFmpeg's number
    of the one that YUV is made by, as the source was read by it.
    """
    if image.ndim == 2:
        if pix_fmt == "gray":
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray")
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), "bgr24")
    if pix_fmt.startswith("yuv") and "444" not in pix_fmt:
        image = even(image)
    if pix_fmt == "yuv420p" and image.shape[2] == 3:
        if luma(matrix) != luma(BT601):
            return av.VideoFrame.from_ndarray(i420(image, matrix), pix_fmt)
        # twice as fast, and exact where a source's own 4:2:0 comes back
        return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), pix_fmt)
    order = "bgra" if image.shape[2] == 4 else "bgr24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), order)
    if not pix_fmt.startswith("yuv") or luma(matrix) == luma(BT601):
        return frame  # the encoder converts it, by that of BT.601
    return frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=LIMITED)


WRITE_ERRORS = (av.FFmpegError, OSError)

REFUSALS = (ValueError, av.error.ExternalError, NotImplementedError)
"""What encoders say of a size they cannot have: too large, too small, too thin."""


class VideoFile:
    """Takes pictures with their frames' times; `close` makes it a file, or leaves nothing.

    They are encoded in a thread of their own, so that the next one is drawn meanwhile; few wait.
    The first picture gives the size; later ones of another size are fitted into it. Containers
    that hold constant rates only (AVI) repeat a picture across a gap and leave out frames that
    come too fast, so that the wall clock is kept.

    Attributes:
        frames: pictures encoded.
        sound: what goes along; set before the first picture.
    """

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        encoder: Encoder,
        settings: dict[str, str],
        *,
        overwrite: bool,
    ) -> None:
        self._target = FileTarget(path, overwrite=overwrite)
        self._container = CONTAINERS[path.suffix.lower()]
        self._info, self._encoder, self._settings = info, encoder, settings
        self._timeline = Timeline(info)
        self._variable = self._container.variable
        self._time_base = self._timeline.time_base if self._variable else 1 / self._timeline.rate
        self._size: tuple[int, int] | None = None
        self._muxer: Muxer | None = None
        self._previous: Any = None
        self._closed = False
        self._left_out = self._end = 0
        self._line = Line(self._take, name="encode")
        self._clock, self._took = Clock(), deque[float]()
        self.frames = 0
        self.sound: Sound | None = None

    def encode_with(self, encoder: Encoder, settings: dict[str, str]) -> None:
        """Take another encoder, before the first picture."""
        self._encoder, self._settings = encoder, settings

    def add(self, picture: NDArray[np.uint8], frame: Frame) -> None:
        """Encode (H, W, 3) uint8 BGR, (H, W, 4) BGRA, or (H, W) indices, at the time of `frame`.

        Raises:
            SinkError: an earlier one could not be written; what was before it is finished and kept.
        """
        if self._size is None:
            self._size = picture.shape[0], picture.shape[1]
        # a copy: the picture may be a buffer that its maker fills again
        image = encodable(letterbox(picture, self._size), self._encoder.pix_fmt, self._colours[0])
        self._line.put((image, self._timeline.tick(frame), self._timeline.end))

    @property
    def _colours(self) -> Tags:
        return colours(self._info, self._encoder.pix_fmt)

    def took(self) -> Iterator[float]:
        """Seconds that pictures took to encode, of those done since this was last asked."""
        while self._took:
            yield self._took.popleft()

    def close(self) -> None:
        """Finish, check and put in place; without a frame leave nothing. May be called again.

        Raises:
            SinkError: a picture could not be written, and what was before it is kept; or the file
                is not what was written, and the temporary one stays and is named.
        """
        try:
            self._line.finish()
        finally:
            if not self._line.working:
                self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._muxer is None:
                self._target.discard()
            else:
                self._finish(self._muxer)
        finally:
            # an encoder's memory is freed with the last who knows it: now, not when somebody
            # collects the cycle of this and its line
            self._muxer = self._previous = None
            if self.sound is not None:
                self.sound.close()

    def summary(self) -> str:
        """One line: how many frames went where, and what did not."""
        if not self.frames:
            return ""
        text = f"{counted(self.frames, 'frame')} to {self._target.path}"
        if self._left_out:
            text += f" ({self._left_out} left out: {self._target.path.suffix} has a constant rate)"
        if self.sound is not None and self.sound.trouble:
            text += f"; sound incomplete: {self.sound.trouble}"
        return text

    def _take(self, one: tuple[Any, int, int]) -> None:
        since = self._clock.now()
        try:
            self._target.check_space(self._muxer.bytes_to_finish() if self._muxer else 0)
            self._add(*one)
        except WRITE_ERRORS as error:
            raise cannot_write(self._target.path, error, self._salvage()) from error
        self._took.append(self._clock.now() - since)

    def _add(self, image: Any, tick: int, end: int) -> None:
        if self._muxer is None:
            self._muxer = self._open(image.width, image.height)
        if self._variable:
            self._encode(self._muxer, image, tick)
            self._end = end
        else:
            slot = round(tick * self._timeline.time_base / self._time_base)
            self._fill(self._muxer, image, slot)

    def _fill(self, muxer: Muxer, image: Any, slot: int) -> None:
        """Put a picture into its slot of a constant rate, and the one before into any gap."""
        if slot < self.frames:
            self._left_out += 1
            return
        while self.frames < slot:
            self._encode(muxer, self._previous, self.frames)
        self._encode(muxer, image, slot)
        self._previous = image

    def _encode(self, muxer: Muxer, image: Any, tick: int) -> None:
        packets = muxer.encoded(image, tick)
        self.frames += 1
        muxer.mux(packets)

    def _open(self, width: int, height: int) -> Muxer:
        try:
            return self._started(width, height)
        except AUDIO_ERRORS as error:
            if not self.sound:
                raise self._refused(error, width, height) from error
            self.sound.drop(error)
            return self._open(width, height)

    def _refused(self, error: Exception, width: int, height: int) -> Exception:
        """What to raise when nothing could be opened: of the encoder, that it was the size."""
        if not isinstance(error, REFUSALS):
            return error
        return SinkError(
            f"cannot write {self._target.path}",
            found=f"{self._encoder.library} takes no pictures of {width}x{height}",
            do="Try another --codec or suffix, or write pictures: frames_%06d.png",
        )

    def _started(self, width: int, height: int) -> Muxer:
        """Write the header of a file with one picture stream, and the sound's."""
        output = av.open(
            str(self._target.part), "w", container_options=dict(self._container.options)
        )
        stream: Any = output.add_stream(self._encoder.library, rate=self._timeline.rate)
        context = stream.codec_context
        stream.width, stream.height = width, height
        stream.pix_fmt = self._encoder.pix_fmt
        context.options = dict(self._settings)
        context.time_base = stream.time_base = self._time_base
        context.bit_rate = self._encoder.bit_rate
        if self._encoder.library == "libx265" and self._target.path.suffix.lower() in (
            ".mp4",
            ".mov",
        ):
            context.codec_tag = "hvc1"  # what Apple's players ask for
        context.sample_aspect_ratio = self._info.sample_aspect_ratio
        if self._encoder.pix_fmt.startswith("yuv"):
            context.colorspace, context.color_primaries, context.color_trc = self._colours
            context.color_range = FULL if self._encoder.pix_fmt.startswith("yuvj") else LIMITED
        if self.sound:
            self.sound.add_to(output, self._container)
        output.start_encoding()
        return Muxer(output, stream, self._time_base, self.sound)

    def _finish(self, muxer: Muxer) -> None:
        """Write what is held back and the index; check; put in place."""
        part = self._target.part
        try:
            muxer.finish(self._end if self._variable else self.frames)
        except WRITE_ERRORS as error:
            kept = f"What could be written is kept as {part}."
            raise cannot_write(self._target.path, error, kept) from error
        found = count_pictures(part)
        if found != self.frames:
            raise SinkError(
                f"{self._target.path} is not whole",
                found=f"{found} of {self.frames} frames can be read back",
                do=f"It is kept as {part}.",
            )
        self._target.commit()

    def _salvage(self) -> str:
        """After a failure, finish what was written; say where it is."""
        try:
            self._close()
        except SinkError as error:
            return error.do or error.found
        return f"The {self.frames} frames until then are in it." if self.frames else ""


def count_pictures(path: Path) -> int:
    """How many pictures the video at `path` holds, counted by reading it; 0 where it has no stream.

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


class VideoSink(Sink):
    """Encodes the finished pictures; `info.media`'s audio goes along unless told otherwise.

    Raises:
        UsageError: the codec does not fit the container, or the file exists.
        SinkError: the file cannot be written; frames until then are kept.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._suffix, self._codec, self._crf = path.suffix.lower(), options.codec, options.crf
        encoder, settings = find_encoder(self._suffix, self._codec, self._crf)
        self._alpha: bool | None = None
        self._flattened = 0
        sound = None
        self._file = VideoFile(path, info, encoder, settings, overwrite=options.overwrite)
        if options.audio != "none" and info.media is not None and not info.live:
            sound = Sound(info.media, info.media_start)
        self._file.sound = sound

    def write(self, rendered: Rendered) -> None:
        """Encode one picture; the first decides whether the file has an alpha channel.

        In a file without one, later pictures lie over black where they are transparent.

        Raises:
            UsageError: the first picture is transparent, and the file cannot be.
        """
        transparent = rendered.picture.shape[2] == 4
        if self._alpha is None:
            if transparent:
                self._file.encode_with(
                    *find_encoder(self._suffix, self._codec, self._crf, alpha=True)
                )
            self._alpha = transparent
        self._flattened += transparent and not self._alpha
        self._file.add(rendered.picture if self._alpha else rendered.image, rendered.frame)

    def encoded(self) -> Iterable[float]:
        """Seconds of each picture."""
        return self._file.took()

    def close(self) -> None:
        """Finish the file, check it, and put it in place."""
        self._file.close()

    def summary(self) -> str:
        """What was written, and what is missing."""
        text = self._file.summary()
        if text and self._flattened:
            text += f"; {self._flattened} of them transparent, over black, as the first was not"
        return text
