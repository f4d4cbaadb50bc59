"""The synthetic source, `test://?size=1280x720&fps=30`: moving shapes with known masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import pairwise
from math import pi, sin
from typing import Any
from urllib.parse import parse_qsl

import cv2
import numpy as np

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image, Mask
from rtseg.labels import SHAPE_COLOURS, SHAPE_LABELS
from rtseg.sources.options import MAX_SIDE, SourceOptions
from rtseg.stats import Clock

__all__ = ["Pattern", "Scene", "SyntheticSource", "encode_number", "parse_pattern", "read_number"]

NUMBER_BITS = 20
CHECK_BITS = 4
BLOCKS = NUMBER_BITS + CHECK_BITS
MAX_NUMBER = (1 << NUMBER_BITS) - 1

MIN_WIDTH, MIN_HEIGHT = 2 * BLOCKS, 32
"""Smaller frames have no room for the shapes and the number."""

MIDDLE_GREY = 127.5
"""Under 40 % of any colour, black stays below 102 and white above 153."""

HANG_SECONDS = 3600.0


@dataclass(frozen=True)
class Pattern:
    """The settings of a `test://?name=value&...` address.

    Attributes:
        size: (width, height) in pixels.
        fps: frames per second.
        frames: how many; None, the default of a live one, is endless.
        jitter: largest delay of a frame's time, in milliseconds.
        live: paced by the clock; a late reader misses frames, as with a camera.
        seed: of motion and jitter.
        hang: frame number at which a read never returns.
        fail: frame number at which the source is lost for good.
    """

    size: tuple[int, int] = (1280, 720)
    fps: Fraction = Fraction(30)
    frames: int | None = None
    jitter: float = 0.0
    live: bool = False
    seed: int = 0
    hang: int | None = None
    fail: int | None = None


class SyntheticSource(Source):
    """Moving shapes with known masks, and the frame number in the pixels.

    `read_number(frame.image)` is `frame.index`, and `mask_of(frame.index)` its true mask in the
    classes of `SHAPE_LABELS`.

    Raises:
        UsageError: the address has an unknown name or a value that makes no sense.
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
        """Wait for the next frame; when late, go to the newest one."""
        now = self.clock.now()
        if self._started_at is None:
            self._started_at = now
        newest = int((now - self._started_at) * self.pattern.fps)
        self._index = max(self._index, newest)
        self.wait(self._due(self._index) - now)

    def _due(self, index: int) -> float:
        return (self._started_at or 0.0) + self._time_of(index)

    def _time_of(self, index: int) -> float:
        """Seconds from the first frame at which frame `index` is due, with its jitter."""
        time = float(index / self.pattern.fps)
        if not self.pattern.jitter or index == 0:
            return time
        noise = np.random.default_rng((self.pattern.seed, index)).uniform(0, self.pattern.jitter)
        return time + float(noise) / 1000.0

    def _hang(self) -> None:
        """Block like a broken driver, ignoring `interrupt`."""
        until = self.clock.now() + HANG_SECONDS
        while self.clock.now() < until:
            self.clock.sleep(1.0)
        raise SourceError(f"{self.info.name} was lost", found="it hung")


class Scene:
    """A circle, a square and a triangle, each on its path; the same for the same seed.

    Args:
        width, height: in pixels.
        seed: of the paths.
    """

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        self.width, self.height = width, height
        self._top = strip_height(width)
        self._background = self._paint_background()
        rng = np.random.default_rng(seed)
        # periods of 2 to 10 seconds at 30 frames per second, in both directions
        self._paths = [
            (rng.uniform(60, 300), rng.uniform(60, 300), *rng.uniform(0, 2 * pi, 2))
            for _ in SHAPE_COLOURS
        ]

    def _paint_background(self) -> Image:
        """A grey gradient with a chequerboard, which makes motion and shifts visible."""
        ys, xs = np.mgrid[: self.height, : self.width]
        side = max(4, self.width // 20)
        grey = 150 - 50 * xs // self.width + 16 * ((xs // side + ys // side) % 2)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)

    def image_of(self, index: int) -> Image:
        """(H, W, 3) uint8 BGR: the scene at frame `index`, with that number at its top."""
        image = self._background.copy()
        for label, colour in SHAPE_COLOURS.items():
            self._draw(image, index, label, colour)
        encode_number(image, index)
        return image

    def mask_of(self, index: int) -> Mask:
        """(H, W) uint8: the class in `SHAPE_LABELS` of every pixel of `image_of(index)`."""
        mask = np.full((self.height, self.width), SHAPE_LABELS.background, np.uint8)
        for label in SHAPE_COLOURS:
            self._draw(mask, index, label, (label, label, label))
        mask[: self._top] = 0
        return mask

    def _draw(
        self, image: Image | Mask, index: int, label: int, colour: tuple[int, int, int]
    ) -> None:
        x, y, radius = self._place(index, label)
        if SHAPE_LABELS.names[label] == "circle":
            cv2.circle(image, (x, y), radius, colour, cv2.FILLED)
        elif SHAPE_LABELS.names[label] == "square":
            corner, opposite = (x - radius, y - radius), (x + radius, y + radius)
            cv2.rectangle(image, corner, opposite, colour, cv2.FILLED)
        else:
            corners = [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
            cv2.fillPoly(image, [np.array(corners, np.int32)], colour)

    def _place(self, index: int, label: int) -> tuple[int, int, int]:
        """Centre and radius in whole pixels; the shape stays inside, below the number."""
        period_x, period_y, phase_x, phase_y = self._paths[label - 1]
        room = self.height - self._top
        radius = max(3, min(room, self.width) // 6)
        x = self.width / 2 + (self.width / 2 - radius - 1) * sin(
            2 * pi * index / period_x + phase_x
        )
        middle = self._top + room / 2
        y = middle + (room / 2 - radius - 1) * sin(2 * pi * index / period_y + phase_y)
        return round(x), round(y), radius


def encode_number(image: Image, number: int) -> None:
    """Paint `number` into the top of `image`, in place, as a row of black and white blocks.

    20 bits and 4 of checksum, each block a 24th of the width and about as high. It survives
    H.264 from blocks of about 8 pixels, and blending with up to 40 % of any colour.
    """
    number &= MAX_NUMBER
    height, width = strip_height(image.shape[1]), image.shape[1]
    bits = (number << CHECK_BITS) | _check(number)
    values = [255 if bits >> (BLOCKS - 1 - i) & 1 else 0 for i in range(BLOCKS)]
    columns = np.arange(width) * BLOCKS // width
    image[:height] = np.array(values, np.uint8)[columns][None, :, None]


def read_number(image: Image) -> int:
    """The number painted into an (H, W, 3) image, also after scaling.

    Raises:
        ValueError: there is none, or its checksum is wrong.
    """
    height, width = strip_height(image.shape[1]), image.shape[1]
    edges = [-(-i * width // BLOCKS) for i in range(BLOCKS + 1)]
    bits = 0
    for left, right in pairwise(edges):
        block = image[_core(0, height), _core(left, right)]
        bits = bits << 1 | int(block.size and block.mean() > MIDDLE_GREY)
    number = bits >> CHECK_BITS
    if _check(number) != bits & ((1 << CHECK_BITS) - 1):
        raise ValueError(f"no frame number in this image (read {bits:0{BLOCKS}b})")
    return number


def strip_height(width: int) -> int:
    """Rows that the number takes in an image of this width."""
    return max(2, width // BLOCKS)


def _core(low: int, high: int) -> slice:
    """The middle half of a block: compression mixes its edges with its neighbours."""
    trim = (high - low) // 4
    return slice(low + trim, high - trim)


def _check(number: int) -> int:
    """Four bits; one wrong bit, all black and all white do not match them."""
    return 14 - number % 15


def parse_pattern(address: str) -> Pattern:
    """The settings of an address; 300 frames by default, unless it is live.

    Raises:
        UsageError: it has an unknown name or a value that makes no sense.
    """
    place, _, query = address.partition("?")
    if place.removeprefix("test:").strip("/"):
        raise UsageError(f"cannot read {address}", do="Write test://?size=1280x720&fps=30")
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in PARSERS:
            raise UsageError(
                f"unknown setting {name!r} in {address}", found="there are " + ", ".join(PARSERS)
            )
        try:
            values[name] = PARSERS[name](text)
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(f"{name}={text} in {address}", found=str(error)) from error
    pattern = Pattern(**values)
    if pattern.frames is None and not pattern.live:
        pattern = replace(pattern, frames=300)
    return pattern


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if match is None:
        raise ValueError("a size is written WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2])
    if not (MIN_WIDTH <= width <= MAX_SIDE and MIN_HEIGHT <= height <= MAX_SIDE):
        raise ValueError(f"sizes are {MIN_WIDTH}x{MIN_HEIGHT} to {MAX_SIDE}x{MAX_SIDE}")
    return width, height


def _rate(text: str) -> Fraction:
    rate = Fraction(text)
    if not 0 < rate <= 10_000:
        raise ValueError("it must be above 0, up to 10000")
    return rate


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it must be a whole number, 0 or more")
    return int(text)


def _positive(text: str) -> int:
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
    "frames": _positive,
    "jitter": _milliseconds,
    "live": _switch,
    "seed": _count,
    "hang": _count,
    "fail": _count,
}
assert list(PARSERS) == [field.name for field in fields(Pattern)]
