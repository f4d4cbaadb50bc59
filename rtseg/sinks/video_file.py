"""One video file in the making: opened by its first picture, checked before it gets its name."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np
from numpy.typing import NDArray

from rtseg.clock import Clock
from rtseg.contracts import SourceInfo
from rtseg.errors import SinkError
from rtseg.frame import Frame
from rtseg.sinks.audio import AUDIO_ERRORS, Sound
from rtseg.sinks.containers import CONTAINERS, Encoder
from rtseg.sinks.files import FileTarget, cannot_write, reason
from rtseg.sinks.fit import letterbox
from rtseg.sinks.muxer import Muxer
from rtseg.sinks.pixels import colours, encodable
from rtseg.sinks.timeline import Timeline
from rtseg.threads import Line
from rtseg.words import counted
from rtseg.yuv import FULL, LIMITED, Tags

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
