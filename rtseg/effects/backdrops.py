"""What lies behind what is kept: `blur`, a colour, a picture or a video, at the frame's size."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from rtseg.errors import UsageError
from rtseg.frame import Frame, Image

if TYPE_CHECKING:
    from rtseg.matte import Matte

Kind = Literal["none", "transparent", "blur", "colour", "file"]

Backdrop = Callable[[Frame, "Matte"], Image]
"""(frame, its matte) -> (H, W, 3) uint8 BGR of the frame's size; not to be changed, and valid until
the next call."""

USUAL_BLUR = 3.0
MOST_BLUR = 20.0

FORMS = f"none, blur, blur:1 to blur:{MOST_BLUR:g}, transparent, a colour, a picture or a video"


class Wanted(NamedTuple):
    """A background, as far as its words go.

    Attributes:
        strength: of a blur: its standard deviation in percent of the frame's shorter side.
        colour: BGR.
        path: of a picture or video that is there.
    """

    kind: Kind
    strength: float = 0.0
    colour: tuple[int, int, int] = (0, 0, 0)
    path: Path = Path()


def parse_background(text: str) -> Wanted:
    """Read what `--background` takes; of a file only whether it is there.

    Raises:
        UsageError: it is none of the forms.
    """
    word, _, rest = text.strip().lower().partition(":")
    if word in ("none", "transparent") and not rest:
        return Wanted("none" if word == "none" else "transparent")
    if word == "blur":
        return Wanted("blur", strength=_strength(text, rest))
    if (colour := _colour(text.strip())) is not None:
        return Wanted("colour", colour=colour)
    if Path(text).is_file():
        return Wanted("file", path=Path(text))
    found = "it is a folder" if text and Path(text).is_dir() else "no colour or file has this name"
    raise UsageError(f"background {text!r}", found=found, do=f"Give {FORMS}")


def open_backdrop(wanted: Wanted) -> Backdrop:
    """What draws it; black for "none", behind a cut-out.

    Raises:
        UsageError: the file cannot be read as a picture or a video.
    """
    if wanted.kind == "blur":
        from rtseg.effects.blur import Blur

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
    import cv2

    from rtseg.effects.film import Film

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
    import cv2

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


def _strength(text: str, number: str) -> float:
    try:
        strength = float(number) if ":" in text else USUAL_BLUR
    except ValueError:
        strength = 0.0
    if not 1 <= strength <= MOST_BLUR:
        raise UsageError(
            f"background {text!r}", found=f"a blur has a strength of 1 to {MOST_BLUR:g}"
        )
    return strength


def _colour(text: str) -> tuple[int, int, int] | None:
    """BGR of a name that CSS knows, or of #rgb or #rrggbb; None for anything else."""
    from PIL import ImageColor

    if text.lower() not in ImageColor.colormap and not re.fullmatch(
        r"#([0-9a-f]{3}|[0-9a-f]{6})", text.lower()
    ):
        return None
    red, green, blue = ImageColor.getrgb(text)[:3]
    return blue, green, red
