"""Video files, encoded in a thread, checked when finished, and only then given their name."""

from __future__ import annotations

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import SinkError
from rtseg.files import OutputFile, cannot_write
from rtseg.frame import Frame, Picture
from rtseg.labels import LabelSet
from rtseg.sinks.audio import Audio
from rtseg.sinks.encoding import CONTAINERS, Encoder, Timeline, fitted_frame, open_encoder
from rtseg.sinks.muxing import WRITE_ERRORS, Muxer, count_frames
from rtseg.sinks.options import SinkOptions
from rtseg.stats import Clock
from rtseg.text import counted
from rtseg.threads import Writer

SIZE_ERRORS = (ValueError, av.error.ExternalError, NotImplementedError)
"""What encoders raise for a size that they do not support."""


class VideoSink(Sink):
    """Encodes the finished images, with the audio of `info.media` unless `options` drop it.

    Raises:
        UsageError: the container cannot hold the codec, or the file exists.
        SinkError: the file cannot be written; frames until then are kept.
    """

    medium = "file"

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        self._encoder_for = path, options, info
        self._alpha: bool | None = None  # whether the file has an alpha channel
        self._flattened = 0
        encoder, self._note = open_encoder(*self._encoder_for)
        self.takes_planes = encoder.takes_planes(info)
        self._file = VideoFile(path, info, encoder, overwrite=options.overwrite)

    def write(self, rendered: Rendered) -> None:
        """Encode one image; the first decides whether the file has an alpha channel.

        In a file without one, later images are laid over black where they are transparent.

        Raises:
            UsageError: the first image is transparent, and the file cannot be.
        """
        transparent = rendered.drawn.shape[2] == 4
        if self._alpha is None:
            if transparent:
                self._file.encoder, _ = open_encoder(*self._encoder_for, alpha=True)
            self._alpha, (_, options, info) = transparent, self._encoder_for
            if options.audio != "none" and info.media is not None and not info.live:
                start = info.media_start + rendered.frame.pts  # earlier frames may be left out
                self._file.audio = Audio(info.media, start, info.track)
        flat = transparent and not self._alpha
        self._flattened += flat
        self._file.add(rendered.image if flat else rendered.drawn, rendered.frame)

    def encoded(self) -> Iterable[float]:
        """Seconds that each image took."""
        return self._file.encoded()

    def close(self) -> None:
        """Finish the file, check it, and give it its name."""
        self._file.close()

    def summary(self) -> str:
        """What was written, and what is missing."""
        if (text := self._file.summary()) and self._note:
            text += f"; {self._note}"
        if text and self._flattened:
            text += f"; {self._flattened} of them transparent, over black, as the first was not"
        return text


class VideoFile:
    """Encodes images with the times of their frames in a thread; `close` finishes the file.

    The first image gives the size; later ones of another size are letterboxed. A container with a
    constant rate (AVI) repeats an image across a gap and leaves out those that come too fast.

    Attributes:
        encoder: may be replaced before the first image.
        frames: images encoded.
        audio: added to the file; set before the first image.
    """

    def __init__(self, path: Path, info: SourceInfo, encoder: Encoder, *, overwrite: bool) -> None:
        self._target = OutputFile(path, overwrite=overwrite)
        self._container = CONTAINERS[path.suffix.lower()]
        self._info, self.encoder = info, encoder
        self._timeline = Timeline(info)
        self._time_base = self._timeline.time_base
        if not self._container.variable:
            self._time_base = 1 / self._timeline.rate
        self._size: tuple[int, int] | None = None
        self._muxer: Muxer | None = None
        self._previous: Any = None
        self._left_out = self._end = 0
        self._thread = Writer(self._take, name="encode")
        self._clock, self._seconds = Clock(), deque[float]()
        self._closed = self._failed = False
        self.frames = 0
        self.audio: Audio | None = None

    def add(self, image: NDArray[np.uint8] | Picture, frame: Frame) -> None:
        """Encode BGR, BGRA, planes or (H, W) uint8 indices at the time of `frame`.

        Raises:
            SinkError: an earlier one could not be written; those before it are kept.
        """
        if self._size is None:
            self._size = image.shape[0], image.shape[1]
        # converted here: the image may be a buffer that its owner fills again
        picture = fitted_frame(image, self._size, self.encoder, self._info)
        self._thread.put((picture, self._timeline.tick(frame), self._timeline.end))

    def encoded(self) -> Iterator[float]:
        """Seconds that each image took to encode, since the last call."""
        while self._seconds:
            yield self._seconds.popleft()

    def close(self) -> None:
        """Finish, check and rename the file, or remove it if it has no frame. May be repeated.

        Raises:
            SinkError: an image could not be written, and those before it are kept; or the file is
                incomplete, and is kept under its temporary name.
        """
        try:
            self._thread.finish()
        finally:
            if not self._thread.working:
                self._close()

    def summary(self) -> str:
        """One line: number of frames, and what is missing."""
        if not self._target.named:
            return ""
        text = f"{counted(self.frames, 'frame')} to {self._target.path}"
        if self._left_out:
            text += f" ({self._left_out} left out: {self._target.path.suffix} has a constant rate)"
        return "; ".join([text, *(self.audio.faults if self.audio is not None else ())])

    # The rest runs in the thread, or after it has ended.

    def _take(self, item: tuple[Any, int, int]) -> None:
        """Encode (`av.VideoFrame`, its tick, the tick at which it ends)."""
        since, (picture, tick, end) = self._clock.now(), item
        try:
            self._target.check_space(self._muxer.bytes_to_finish() if self._muxer else 0)
            if self._muxer is None:
                self._muxer = self._open(picture.width, picture.height)
            scale = self._timeline.time_base / self._time_base
            put = self._encode if self._container.variable else self._fill
            put(self._muxer, picture, round(tick * scale) + self._muxer.lead)
            self._end = round(end * scale) + self._muxer.lead
        except WRITE_ERRORS as error:
            raise cannot_write(self._target.path, error, self._salvage()) from error
        self._seconds.append(self._clock.now() - since)

    def _fill(self, muxer: Muxer, picture: Any, slot: int) -> None:
        """Put a picture into its slot of a constant rate, and the previous one into any gap."""
        if slot < self.frames:
            self._left_out += 1
            return
        while self.frames < slot:
            self._encode(muxer, self._previous or picture, self.frames)
        self._encode(muxer, picture, slot)
        self._previous = picture

    def _encode(self, muxer: Muxer, picture: Any, tick: int) -> None:
        packets = muxer.encode(picture, tick)
        self.frames += 1
        muxer.mux(packets)

    def _open(self, width: int, height: int) -> Muxer:
        try:
            return Muxer(
                self._target.part,
                self.encoder,
                self._info,
                (width, height),
                self._timeline.rate,
                self._time_base,
                self.audio,
            )
        except SIZE_ERRORS as error:
            raise SinkError(
                f"cannot write {self._target.path}",
                found=f"{self.encoder.library} does not support {width}x{height}",
                do="Try another --codec or suffix, or write pictures: frames_%06d.png",
            ) from error

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
            # free the encoder's memory now, not when the cycle of this and its thread is collected
            self._muxer = self._previous = None
            if self.audio is not None:
                self.audio.close()

    def _finish(self, muxer: Muxer) -> None:
        try:
            if not self._container.variable and self.frames < self._end:
                self._fill(muxer, self._previous, self._end - 1)
            muxer.finish(self._end if self._container.variable else self.frames)
            found = count_frames(self._target.part)
        except WRITE_ERRORS as error:
            raise cannot_write(self._target.path, error, self._target.keep()) from error
        if found != self.frames:
            raise SinkError(
                f"{self._target.path} is incomplete",
                found=f"{found} of {self.frames} frames can be read back",
                do=self._target.keep(),
            )
        self._target.commit(whole=not self._failed)

    def _salvage(self) -> str:
        """After a failure, finish what was written; returns where it is."""
        self._failed = True
        try:
            self._close()
        except SinkError as error:
            return error.do or error.found
        return f"The {self.frames} frames until then are in it." if self.frames else ""
