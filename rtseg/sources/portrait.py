"""The clip of `rtseg demo`: a public-domain portrait, panned and zoomed."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from rtseg.contracts import Source, SourceInfo
from rtseg.errors import SourceError, UsageError
from rtseg.frame import Frame, Image
from rtseg.images import read_image
from rtseg.sources.options import SourceOptions
from rtseg.stats import Clock

WIDTH, HEIGHT = 1280, 720
FRAME_RATE = Fraction(30)
WIDENED = 896
"""Width of the portrait with its sides, in its own pixels."""


class PortraitSource(Source):
    """A slow pan and zoom over matplotlib's portrait of Grace Hopper (US Navy, public domain).

    Args:
        target: `demo:`, or `demo:SECONDS`.

    Raises:
        UsageError: what follows the colon is not a number of seconds.
    """

    def __init__(
        self,
        target: str = "demo:",
        options: SourceOptions = SourceOptions(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        count = max(1, round(_seconds(target) * FRAME_RATE))
        self.info = SourceInfo("portrait of Grace Hopper", WIDTH, HEIGHT, FRAME_RATE, count)
        # enlarged once with cubic interpolation, so that linear is enough for each frame
        wide = widened(load_portrait())
        self._portrait = cv2.resize(wide, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
        self._index = 0

    def _read(self) -> Frame | None:
        index, count = self._index, self.info.frame_count or 1
        if index >= count:
            return None
        self._index += 1
        image = view_at(self._portrait, index / max(1, count - 1))
        return Frame(image, index, float(index / FRAME_RATE), self.clock.now())


def load_portrait() -> Image:
    """(600, 512, 3) uint8 BGR."""
    package = find_spec("matplotlib")  # importing it would take half a second
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    return read_image(path, SourceError)


def widened(portrait: Image) -> Image:
    """The portrait between sides made of its own blurred background.

    The clip is wide and the portrait upright: without them only the face would fit.
    """
    width = portrait.shape[1]
    side = (WIDENED - width) // 2
    wide = cv2.copyMakeBorder(portrait, 0, 0, side, side, cv2.BORDER_REFLECT_101)
    blurred = cv2.GaussianBlur(wide, (0, 0), 30)
    blurred[:, side : side + width] = portrait
    return np.asarray(blurred, np.uint8)


def view_at(portrait: Image, progress: float) -> Image:
    """The view at `progress` (0..1): up to the face, closer, and back.

    Returns:
        (720, 1280, 3) uint8 BGR.
    """
    height, width = portrait.shape[:2]
    eased = 0.5 - 0.5 * math.cos(2 * math.pi * progress)
    view_width = width * (1.0 - 0.3 * eased)
    centre_x = width * (0.5 + 0.02 * math.sin(2 * math.pi * progress))
    centre_y = height * (0.575 - 0.23 * eased)
    scale = WIDTH / view_width
    shift = np.array(
        [
            [scale, 0, WIDTH / 2 - scale * centre_x],
            [0, scale, HEIGHT / 2 - scale * centre_y],
        ]
    )
    view = cv2.warpAffine(
        portrait, shift, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(view, np.uint8)


def _seconds(target: str) -> float:
    text = target.partition(":")[2].strip("/") or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise UsageError(f"cannot open {target!r}", do="Write demo: or demo:SECONDS")
    return seconds
