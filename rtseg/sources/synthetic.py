"""The synthetic source, `test://?size=1280x720&fps=30`: known pixels, known masks, known faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from rtseg.clock import Clock
from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Mask
from rtseg.sources.options import MAX_SIDE, SourceOptions
from rtseg.sources.scene import MIN_HEIGHT, MIN_WIDTH, Scene, encode_number, read_number

__all__ = ["Pattern", "SyntheticSource", "encode_number", "parse_pattern", "read_number"]

HANG_SECONDS = 3600.0


@dataclass(frozen=True)
class Pattern:
    """What a `test://?name=value&...` address asks for.

    Attributes:
        size: (width, height) in pixels.
        fps: frames per second.
        frames: how many; None, the default of a live one, is without end.
        jitter: largest delay of a frame's time, in milliseconds.
        live: paced by the clock; a reader who is late misses frames, as with a camera.
        seed: of motion and jitter.
        hang: the number of the frame at which a read never returns.
        fail: the number of the frame at which a read fails for good.
    """

    size: tuple[int, int] = (1280, 720)
    fps: Fraction = Fraction(30)
    frames: int | None = None
    jitter: float = 0.0
    live: bool = False
    seed: int = 0
    hang: int | None = None
    fail: int | None = None


def parse_pattern(address: str) -> Pattern:
    """The pattern that an address asks for; 300 frames unless it says otherwise or is live.

    Raises:
        UsageError: it has an unknown name or a value that makes no sense.
    """
    place, _, query = address.partition("?")
    if place.removeprefix("test:").strip("/"):
        raise UsageError(f"cannot read {address}", do="Write test://?size=1280x720&fps=30")
    asked: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in PARSERS:
            raise UsageError(
                f"unknown setting {name!r} in {address}", found="there are " + ", ".join(PARSERS)
            )
        try:
            asked[name] = PARSERS[name](text)
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(f"{name}={text} in {address}", found=str(error)) from error
    pattern = Pattern(**asked)
    if pattern.frames is None and not pattern.live:
        pattern = replace(pattern, frames=300)
    return pattern


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if match is None:
        raise ValueError("a size is written WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2])
    if not (MIN_WIDTH <= width <= MAX_SIDE and MIN_HEIGHT <= height <= MAX_SIDE):
        raise ValueError(f"the least size is {MIN_WIDTH}x{MIN_HEIGHT}, the largest side {MAX_SIDE}")
    return width, height


def _rate(text: str) -> Fraction:
    rate = Fraction(text)
    if not 0 < rate <= 10_000:
        raise ValueError("a rate lies above 0, up to 10000")
    return rate


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it must be a whole number, 0 or more")
    return int(text)


def _some(text: str) -> int:
    if _count(text) == 0:
        raise ValueError("it must be 1 or more")
    return int(text)


def _milliseconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 60_000:
        raise ValueError("it must be 0 to 60000 milliseconds")
    return number


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("it must be 0 or 1")
    return text == "1"


PARSERS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "fps": _rate,
    "frames": _some,
    "jitter": _milliseconds,
    "live": _switch,
    "seed": _count,
    "hang": _count,
    "fail": _count,
}
assert list(PARSERS) == [field.name for field in fields(Pattern)]


class SyntheticSource(Source):
    """Moving shapes with known masks, the frame number readable from the pixels.

    `read_number(frame.image)` is `frame.index`, and `mask_of(frame.index)` its true mask in the
    classes of `SHAPE_LABELS`.

    Raises:
        UsageError: the address asks for what it does not have.
        SourceError: while reading, at the frame given by `fail`.
    """

    def __init__(
        self,
        target: str = "test://",
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        self.pattern = pattern = parse_pattern(target)
        self.scene = Scene(*pattern.size, pattern.seed)
        self._index = 0
        self._pts = 0.0
        self._started_at: float | None = None
        width, height = pattern.size
        name = f"test pattern {width}x{height}"
        rate, count, live = pattern.fps, pattern.frames, pattern.live
        self.info = SourceInfo(name, width, height, rate, None if live else count, live)

    def mask_of(self, index: int) -> Mask:
        """(H, W) uint8: the true class of every pixel of frame `index`."""
        return self.scene.mask_of(index)

    def _read(self) -> Frame | None:
        if self.pattern.live:
            self._keep_pace()
        index, pattern = self._index, self.pattern
        if self._interrupted or (pattern.frames is not None and index >= pattern.frames):
            return None
        if pattern.hang is not None and index >= pattern.hang:
            self._hang()
        if pattern.fail is not None and index >= pattern.fail:
            raise SourceError(f"{self.info.name} was lost", found=f"it fails at frame {index}")
        self._pts = max(self._pts, self._time_of(index))
        at = self._due(index) if pattern.live else self.clock.now()
        self._index = index + 1
        return Frame(self.scene.image_of(index), index, self._pts, at)

    def _keep_pace(self) -> None:
        """Wait for the next frame; or, being late, go to the newest one."""
        now = self.clock.now()
        if self._started_at is None:
            self._started_at = now
        newest = int((now - self._started_at) * self.pattern.fps)
        self._index = max(self._index, newest)
        self.wait(self._due(self._index) - now)

    def _due(self, index: int) -> float:
        return (self._started_at or 0.0) + self._time_of(index)

    def _time_of(self, index: int) -> float:
        """Seconds from the first frame at which frame `index` is due, its jitter included."""
        time = float(index / self.pattern.fps)
        if not self.pattern.jitter or index == 0:
            return time
        noise = np.random.default_rng((self.pattern.seed, index)).uniform(0, self.pattern.jitter)
        return time + float(noise) / 1000.0

    def _hang(self) -> None:
        """Block as a broken driver does: deaf to `interrupt`."""
        until = self.clock.now() + HANG_SECONDS
        while self.clock.now() < until:
            self.clock.sleep(1.0)
        raise SourceError(f"{self.info.name} was lost", found="it hung")
