"""A video as background: it plays at its own rate, by the time of the frames before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2  # noqa: F401  # isort: skip - ahead of av, see rtseg/sinks/window.py
import av
import numpy as np

from rtseg.effects.backdrops import cover_size, middle
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image
from rtseg.matte import Matte

_USUAL_SECONDS = 0.04
"""How long a picture of a video lasts that says neither its rate nor how long it lasts."""

_EARLY = 0.0005
"""Seconds by which times are rounded, here and there, which are meant to be the same."""

_LONGEST = 10.0
"""Seconds between two frames over which the film waits: the source was lost, or is another one."""


class Shot(NamedTuple):
    """A picture of the film, as decoded, and the seconds from the start at which it comes."""

    seconds: float
    picture: Any


class Film:
    """A video that covers the frame, again and again, from when it is chosen.

    Raises:
        UsageError: the file cannot be read as a video.
        SourceError: it breaks off later on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = self._seconds = 0.0
        self._length: float | None = None
        self._drawn: tuple[Any, tuple[int, int], Image] | None = None
        try:
            self._rewind()
        except (av.FFmpegError, OSError, StopIteration, IndexError) as error:
            raise UsageError(
                f"background {path}",
                found="it cannot be read as a picture or a video",
                do="Give another file",
            ) from error

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """The picture that is due: as much of the film passes as the pts of the frames do."""
        passed = frame.pts - self._last
        self._seconds += passed if 0 < passed <= _LONGEST else 0.0
        self._last = frame.pts
        try:
            shot = self._due(self._seconds)
            return self._fitted(shot.picture, frame.size)
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"background {self._path} breaks off", found=str(error)) from error

    def _rewind(self) -> None:
        self._container = av.open(str(self._path))
        self._shots = shots(self._container)
        self._shot: Shot = next(self._shots)
        self._next: Shot | None = next(self._shots, None)

    def _due(self, seconds: float) -> Shot:
        """The last picture that comes at or before `seconds`, which go on over the film's end."""
        at = seconds if self._length is None else (seconds + _EARLY) % self._length
        if at < self._shot.seconds:
            self._rewind()
        while self._next is not None and self._next.seconds <= at + _EARLY:
            self._shot, self._next = self._next, next(self._shots, None)
        if self._next is None and self._length is None:
            self._length = self._shot.seconds + self._lasting()
            return self._due(seconds)
        return self._shot

    def _lasting(self) -> float:
        """Seconds that the last picture is shown for."""
        stream, picture = self._container.streams.video[0], self._shot.picture
        if picture.duration and picture.time_base:
            return float(picture.duration * picture.time_base)
        return float(1 / stream.average_rate) if stream.average_rate else _USUAL_SECONDS

    def _fitted(self, picture: Any, size: tuple[int, int]) -> Image:
        if self._drawn is None or self._drawn[0] is not picture or self._drawn[1] != size:
            aspect = self._container.streams.video[0].sample_aspect_ratio or 1
            self._drawn = picture, size, drawn(picture, float(aspect), size)
        return self._drawn[2]


def shots(container: Any) -> Iterator[Shot]:
    """The pictures of a video, from 0 seconds on."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    first: float | None = None
    for number, picture in enumerate(container.decode(stream)):
        told = picture.time
        seconds = number / float(stream.average_rate or 25) if told is None else told
        first = seconds if first is None else first
        yield Shot(seconds - first, picture)


def drawn(picture: Any, aspect: float, size: tuple[int, int]) -> Image:
    """A decoded picture, upright and with square pixels, that covers `size` (height, width)."""
    turns = round((picture.rotation % 360) / 90)
    target = (size[1], size[0]) if turns % 2 else size
    height, width = cover_size((picture.height, picture.width * aspect), target)
    shrunk = picture.reformat(width=width, height=height, format="bgr24", interpolation="BILINEAR")
    return middle(np.rot90(shrunk.to_ndarray(), turns), size)
