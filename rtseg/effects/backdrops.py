"""What lies behind what is kept: a blur, a colour, a picture or a video, at the frame's size."""

from __future__ import annotations

import cv2  # isort: skip - ahead of av, see rtseg/sinks/window.py
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from rtseg.effects.options import Wanted
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image
from rtseg.matte import Matte
from rtseg.matte.fit import behind

Backdrop = Callable[[Frame, "Matte"], Image]
"""(frame, its matte) -> (H, W, 3) uint8 BGR of the frame's size; not to be changed, and valid until
the next call."""


def open_backdrop(wanted: Wanted) -> Backdrop:
    """What draws it; black for "none", behind a cut-out.

    Raises:
        UsageError: the file cannot be read as a picture or a video.
    """
    if wanted.kind == "blur":
        return Blur(wanted.strength)
    if wanted.kind == "file":
        return _open_file(wanted.path)
    return Still(np.full((1, 1, 3), wanted.colour, np.uint8))


def check_background(wanted: Wanted) -> None:
    """Look into the file of a background, if it is one.

    Raises:
        UsageError: it cannot be read as a picture or a video.
    """
    if wanted.kind == "file":
        _open_file(wanted.path)


def _open_file(path: Path) -> Backdrop:
    # OpenCV says of a picture that it cannot read a word on stderr, of its own; and a name that is
    # no text crashes it unless it comes as bytes
    is_picture = cv2.haveImageReader(os.fsencode(path))  # type: ignore[arg-type]
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if is_picture else None
    return Film(path) if picture is None else Still(picture)


class Still:
    """One picture that covers the frame: as large as need be, its middle."""

    def __init__(self, picture: Image) -> None:
        self._picture = self._fitted = picture

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """The picture, fitted once for each size of frames."""
        if self._fitted.shape[:2] != frame.size:
            self._fitted = covering(self._picture, frame.size)
        return self._fitted


def covering(picture: Image, size: tuple[int, int]) -> Image:
    """(H, W, 3) uint8 enlarged or shrunk, undistorted, to cover `size` (height, width), and
    cropped to its middle.
    """
    height, width = cover_size((picture.shape[0], picture.shape[1]), size)
    how = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_LINEAR
    return middle(cv2.resize(picture, (width, height), interpolation=how), size)


def cover_size(picture: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a picture of any size just covers `size` (height, width)."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    return max(size[0], round(picture[0] * scale)), max(size[1], round(picture[1] * scale))


def middle(picture: Image, size: tuple[int, int]) -> Image:
    """The middle of a picture that covers `size` (height, width)."""
    top, left = (picture.shape[0] - size[0]) // 2, (picture.shape[1] - size[1]) // 2
    return np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])


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


_PLENTY = 2.0
"""Pixels of standard deviation that a shrunk picture keeps: fewer show its pixels."""


class Blur:
    """A Gaussian of what is not kept alone: what is kept does not shine into it.

    It is the blur of the picture times the weight of each pixel, over the blur of the weights
    (normalised convolution, Knutsson & Westin 1993).

    Args:
        strength: standard deviation in percent of the frame's shorter side.
    """

    def __init__(self, strength: float) -> None:
        self._strength = strength
        self._picture = np.empty((0, 0, 3), np.uint8)
        self._planes = np.empty((0, 0, 4), np.float32)

    def __call__(self, frame: Frame, matte: Matte) -> Image:
        """(H, W, 3) uint8 BGR of the frame's size; valid until the next call."""
        if self._picture.shape[:2] != frame.size:
            self._picture = np.empty((*frame.size, 3), np.uint8)
            self._planes = np.empty((*matte.small_alpha.shape, 4), np.float32)
        behind(matte.small, matte.small_alpha, self._planes)
        blurred = _blurred(self._planes, self._strength / 100 * min(matte.small_alpha.shape))
        return cv2.resize(blurred, frame.size[::-1], dst=self._picture)


def _blurred(planes: NDArray[np.float32], deviation: float) -> Image:
    """Blur colours times their weight, and weights, (h, w, 4), over one another.

    Returns:
        uint8 BGR, smaller where the blur is wide.
    """
    if (halvings := int(math.log2(max(1.0, deviation / _PLENTY)))) > 0:
        factor = 2**halvings
        size = max(1, planes.shape[1] // factor), max(1, planes.shape[0] // factor)
        planes = cv2.resize(planes, size, interpolation=cv2.INTER_AREA)
        deviation /= factor
    planes = cv2.GaussianBlur(planes, (0, 0), max(deviation, 0.1))
    return np.rint(planes[..., :3] / planes[..., 3:]).astype(np.uint8)
