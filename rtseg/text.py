"""Letters on pictures: measured and drawn in one size that is given in pixels.

OpenCV 5 draws TrueType letters of most alphabets; OpenCV 4 has the strokes of ASCII alone. A
letter that neither has is spelled, so that two names never look the same for want of letters.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from rtseg.frame import Image

Bgr = tuple[int, int, int]

TRUETYPE = hasattr(cv2, "FontFace")
"""Whether this OpenCV draws TrueType letters."""

_HERSHEY = cv2.FONT_HERSHEY_SIMPLEX
_HERSHEY_PIXELS = 30.0  # at scale 1 its capitals are 21 pixels high, 0.7 of the size
_WEIGHT = 480
_PLAIN = str.maketrans(
    {"\u2013": "-", "\u2014": "-", "\u00b7": "|", "\u00d7": "x", "\u2019": "'", "ß": "ss"}
)


def text_width(text: str, size: int) -> int:
    """Pixels that `text` takes from left to right at `size`."""
    text = drawable(text)
    if TRUETYPE:
        return int(cv2.getTextSize((0, 0), text, (0, 0), _face(), size, _WEIGHT)[2])
    scale, thickness = _hershey(size)
    return int(cv2.getTextSize(text, _HERSHEY, scale, thickness)[0][0])


def put_text(
    image: Image, text: str, left: int, middle: int, size: int, colour: Bgr, *, bold: bool = False
) -> None:
    """Draw one line in place.

    Args:
        left: the column at which it starts.
        middle: the row through the middle of its capitals.
        size: from line to line without extra space, in pixels; capitals are 0.7 of it.
    """
    text, at = drawable(text), (left, middle + round(0.35 * size))
    if TRUETYPE:
        cv2.putText(image, text, at, colour, _face(), size, 640 if bold else _WEIGHT)
        return
    scale, thickness = _hershey(size)
    cv2.putText(image, text, at, _HERSHEY, scale, colour, thickness + bold, cv2.LINE_AA)


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """`text` in letters that can be drawn: others lose their accents, or are spelled as `u4eba`."""
    return "".join(map(_letter, unicodedata.normalize("NFC", text)))


@lru_cache(maxsize=4096)
def _letter(char: str) -> str:
    if not char.isprintable():
        return " "
    if char.isascii() or (TRUETYPE and _has_glyph(char)):
        return char
    plain = unicodedata.normalize("NFKD", char.translate(_PLAIN)).encode("ascii", "ignore").decode()
    return plain or f"u{ord(char):04x}"


def _has_glyph(char: str) -> bool:
    """Whether the letter comes out as itself; OpenCV draws a question mark for one it lacks."""
    return not np.array_equal(_drawn(char), _drawn("?"))


def _drawn(char: str) -> Image:
    image = np.zeros((48, 64, 3), np.uint8)
    cv2.putText(image, char, (8, 32), (255, 255, 255), _face(), 24, _WEIGHT)
    return image


@lru_cache(maxsize=1)
def _face() -> Any:
    return cv2.FontFace("sans")


def _hershey(size: int) -> tuple[float, int]:
    """Scale and thickness of the stroke font."""
    return size / _HERSHEY_PIXELS, max(1, round(size / 18))
