"""The contracts of the four edges, on one page: Source, Backend, Effect, Sink.

Each edge is a folder with a table of records, an `open_...` function, and one file per kind. A new
kind is one file and one row of its table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtseg.draw import checked
from rtseg.errors import Closing
from rtseg.frame import Frame, HeldScores, Image, Picture, Segmentation
from rtseg.planes import Planes, in_planes
from rtseg.stats import Clock
from rtseg.zoo import ModelSpec


@dataclass(frozen=True)
class SourceInfo:
    """The properties of an open source.

    Attributes:
        name: for people: "camera 0", a file name, an address without its password.
        width, height: of the frames it yields, after rotation, in pixels.
        frame_rate: frames per second, exact; None if it has none or does not tell.
        frame_count: frames it will yield; None when unknown or endless.
        live: whether it goes on while nobody reads.
        replayed: whether it is a recording played as if live, which a pause can hold.
        pictures: the files that the frames come from, if any; no sink may replace them.
        media: the file, or the address of the recording, whose audio belongs to the frames.
        track: FFmpeg's number of the video stream of `media`; None for the one it chooses.
        media_start: seconds into `media`, from its first picture, at which pts 0 lies.
        sample_aspect_ratio: width of a pixel over its height.
        colour_tags: (colorspace, primaries, transfer, range) of the stream as FFmpeg numbers, so
            that a file written from it has the same colours; None if it is not a video.
        notes: what a person should know, such as what a camera was asked for and what it gave.
        seconds: for which it lasts, as a file declares; None when that is not known.
    """

    name: str
    width: int
    height: int
    frame_rate: Fraction | None = None
    frame_count: int | None = None
    live: bool = False
    replayed: bool = False
    pictures: tuple[Path, ...] = ()
    media: Path | str | None = None
    track: int | None = None
    media_start: float = 0.0
    sample_aspect_ratio: Fraction = Fraction(1)
    colour_tags: tuple[int, int, int, int] | None = None
    notes: tuple[str, ...] = ()
    seconds: float | None = None


class Source(Closing, ABC):
    """Yields frames, once. Its constructor opens it, or raises `SourceError`.

    A subclass gives `info`, `_read` and `_release`. `_read` returns within the read timeout:
    a frame, or None at the end, or raises `SourceError` when the source is lost for good. Ending
    is not failing: a camera never ends, a file that ends early says so in `warnings`.
    """

    info: SourceInfo
    clock: Clock
    notice: str | None = None
    """What a person should know while no frame comes; None if all is well."""
    outages: int = 0
    """How often the source was lost and came back, or is being waited for."""
    capped: int = 0
    """Frames left out because more came than `fps_cap` lets through."""
    keeps_cap: bool = False
    """Whether it leaves those out itself, before they are decoded."""
    planar: bool = False  # whether frames may come in planes; set before the first one

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.warnings: list[str] = []
        self._interrupted = False
        self._reading = self._closed = False

    @abstractmethod
    def _read(self) -> Frame | None:
        """The next frame; None at the end."""

    def _release(self) -> None:
        """Give back the device or file; called once."""

    def interrupt(self) -> None:
        """Make the iteration end soon; may be called from any thread, and again."""
        self._interrupted = True

    def hold(self, held: bool) -> None:
        """Stand still, or go on, if it is `replayed`; may be called from any thread."""

    @property
    def spent(self) -> bool:
        """Whether it was interrupted or closed: it gives no more frames."""
        return self._interrupted

    def close(self) -> None:
        """Release the device, unless a thread is still reading from it."""
        self._interrupted = True
        if not self._closed and not self._reading:
            self._closed = True
            self._release()

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until interrupted."""
        until = self.clock.now() + seconds
        while not self._interrupted and (left := until - self.clock.now()) > 0:
            self.clock.sleep(min(left, 0.05))

    def __iter__(self) -> Iterator[Frame]:
        while True:
            # set before the check, as `close` checks after interrupting: one of them sees the other
            self._reading = True
            try:
                frame = None if self._interrupted else self._read()
            finally:
                self._reading = False
            if frame is None:
                return
            yield frame

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.info.name}>"


@dataclass(frozen=True)
class BackendInfo:
    """What really runs, read back from the library; never what was requested.

    Attributes:
        name: a row of `backends.BACKENDS`, such as "torch".
        device: "cpu", "cuda:0 (NVIDIA ...)", "mps".
        precision: "fp32", "fp16", "bf16", "int8".
        provider: the library's own name for its executor: "CPUExecutionProvider", "ATen".
        notes: why it is not what was requested, one line each.
        kept: whether the device is the requested one; `--strict-device` refuses False.
    """

    name: str
    device: str
    precision: str
    provider: str = ""
    notes: tuple[str, ...] = ()
    kept: bool = True


class Backend(ABC):
    """One network on one device, loaded and warmed up by its constructor.

    It is used by one thread, or by as many at once as it has `lanes`.

    Attributes:
        spec: the network's identity.
        input_size: (height, width) of the batch it takes.
        info: what really runs.
        lanes: how many threads may call it at once; with more than one, frames of a recording are
            segmented side by side.
        gains_by_lanes: whether it takes any requested number of lanes, and is faster with them.
        batches: whether it is faster with several images at once than one after another; frames of
            several live sources then go through it together.
        frames_at_once: frames of a recording that are best given to one call of `segment`.
    """

    spec: ModelSpec
    input_size: tuple[int, int]
    info: BackendInfo
    lanes: int = 1
    gains_by_lanes: bool = False
    batches: bool = False
    frames_at_once: int = 1

    segment: Callable[[Sequence[Picture]], Sequence[HeldScores]] | None = None
    """Segments whole frames of any size, in memory or on a device, if the device shrinks, decodes
    and draws them itself; else None. Returns at once: a result waits. Raises BackendError."""

    def size_for(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the batch for frames of a (height, width)."""
        return self.input_size

    @abstractmethod
    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, h, w, 3) uint8 **RGB**, (h, w) being what `size_for` gives.

        Returns:
            (N, C, h/s, w/s) float32 scores at the network's own output stride, C at least 2.

        Raises:
            BackendError: the library failed.
            DeviceError: the device was lost, or has too little memory.
        """

    def device_seconds(self, passes: int) -> list[float] | None:
        """Seconds of each of `passes` runs of the network alone, on an image on the device, by the
        device's own clock; None if the processor's clock is right."""
        return None

    def close(self) -> None:  # noqa: B027 - most libraries free what is no longer referenced
        """Free the device; may be called again."""


Effect = Callable[[Frame, Segmentation], Image]
"""Draws: (frame, segmentation) -> (H', W', 3) uint8 BGR, or (H', W', 4) BGRA where some of it is
transparent, not premultiplied. Pure: it changes none of its inputs."""


@dataclass
class Rendered:
    """One frame at the end of the loop, from which sinks take what they need.

    Attributes:
        source: name of its source among several; "" if there is only one.
    """

    frame: Frame
    segmentation: Segmentation
    effect: Effect = field(repr=False)
    source: str = ""

    @cached_property
    def picture(self) -> Image:
        """(H', W', 3) uint8 BGR or (H', W', 4) BGRA: what the effect drew, drawn once and only on
        demand; for sinks that can keep transparency."""
        return checked(self.effect(self.frame, self.segmentation))

    @cached_property
    def drawn(self) -> Image | Planes:
        """As `picture`, or in planes if the frame is in planes and the effect can paint those."""
        return in_planes(self.effect, self.frame, self.segmentation) or self.picture

    @cached_property
    def image(self) -> Image:
        """(H', W', 3) uint8 BGR: the finished image, over black where it is transparent."""
        if self.picture.shape[2] == 3:
            return self.picture
        from rtseg.matte import over_black

        return over_black(self.picture)


class Sink(Closing, ABC):
    """Takes finished frames, in order, in the main thread.

    Its constructor checks everything that can be checked before a frame exists, or raises. `write`
    and `close` raise `SinkError`. `close` finishes the file and gives it its name; it is called
    once, after an error too. With `wants_image` False nothing is drawn for it."""

    wants_image: bool = True
    takes_planes: bool = False  # whether it uses `Rendered.drawn`
    medium: str = ""  # "file", or "pipe"; a run that writes files outlasts a closed pipe

    @property
    def alive(self) -> bool:
        """False once a person has closed it."""
        return True

    @abstractmethod
    def write(self, rendered: Rendered) -> None:
        """Take one frame."""

    def encoded(self) -> Iterable[float]:
        """Seconds that frames took in a thread of the sink, since the last call.

        `write` only hands them over; an error is raised by a later `write`, or by `close`."""
        return ()

    def idle(self, notice: str | None) -> None:
        """No frame came for a moment; `notice` tells why, if there is a reason to tell."""

    def summary(self) -> str:
        """One line for the end of the run: what was written where; "" for nothing."""
        return ""
