"""Drawing on images: resizing, class colours, and panels of text.

Colours on a full frame are blended by compiled code (`rtseg.decode`). Panels are dark,
translucent plates, so that text can be read over any image; text grows with the image, and what
does not fit is left out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.decode import ONE, PERIOD, BlendTable, paint, start_painting
from rtseg.errors import UsageError
from rtseg.frame import Image, Mask
from rtseg.labels import VOID, Colour, LabelSet

Bgr = tuple[int, int, int]
Corner = Literal["top left", "top right", "bottom left", "bottom right", "centre"]

BRIGHT: Bgr = (255, 255, 255)
DIM: Bgr = (200, 196, 190)
WARNING: Bgr = (70, 200, 255)

MIN_TEXT = 9
"""Pixels; smaller letters cannot be read."""

TRUETYPE = hasattr(cv2, "FontFace")
"""Whether this OpenCV draws TrueType letters."""

HERSHEY = cv2.FONT_HERSHEY_SIMPLEX
HERSHEY_PIXELS = 30.0
"""Text size at scale 1: capitals are 21 pixels high, 0.7 of the size."""

WEIGHT = 480

SUBSTITUTES = str.maketrans(
    {"\u2013": "-", "\u2014": "-", "\u00b7": "|", "\u00d7": "x", "\u2019": "'", "ß": "ss"}
)
"""For letters that a font lacks."""


def resized(image: Image, size: tuple[int, int]) -> Image:
    """The image at `size` (height, width), not keeping its aspect.

    Each side is halved by averaging as often as possible, then interpolated: nearly as free of
    aliasing as an area filter, in a fraction of its time (0.5 ms against 3 ms from 1280x720 to
    512x288).
    """
    height, width = size
    while (tall := image.shape[0] >= 2 * height) | (wide := image.shape[1] >= 2 * width):
        half = (image.shape[1] >> wide, image.shape[0] >> tall)
        # when one side alone is halved, bilinear is the same mean in a quarter of the time
        how = cv2.INTER_AREA if wide and tall else cv2.INTER_LINEAR
        image = cv2.resize(image, half, interpolation=how)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def halving_factor(large: int, small: int) -> int:
    """Number of pixels of a side that `resized` averages before it interpolates: 1, 2, 4, ..."""
    count = 1
    while large >= 2 * small:
        large, count = large >> 1, 2 * count
    return count


def letterbox(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W[, n]) uint8 fitted into (height, width), undistorted, with bars around it.

    Bars are black, of BGRA transparent, and of an index mask (H, W) VOID; its indices are kept.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    scale = min(size[0] / height, size[1] / width)
    inner_h = max(1, min(size[0], round(height * scale)))
    inner_w = max(1, min(size[1], round(width * scale)))
    mask = image.ndim == 2
    how = cv2.INTER_NEAREST if mask else cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (size[0] - inner_h) // 2, (size[1] - inner_w) // 2
    shape = (*size, *image.shape[2:])
    fitted = np.full(shape, VOID if mask else 0, np.uint8)
    inner = cv2.resize(image, (inner_w, inner_h), interpolation=how)
    fitted[top : top + inner_h, left : left + inner_w] = inner
    return fitted


def with_square_pixels(image: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    """(H, W, C) uint8, enlarged so that pixels whose width is `aspect` of their height are square.

    For what cannot state the shape of its pixels.
    """
    if abs(aspect - 1) < 1e-3 or aspect <= 0:
        return image
    height, width = image.shape[:2]
    size = round(width * max(1, aspect)), round(height * max(1, 1 / aspect))
    return cv2.resize(image, size).astype(np.uint8, copy=False)


def even(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, n) uint8 with an odd last row or column doubled, which 4:2:0 would lose."""
    bottom, right = image.shape[0] % 2, image.shape[1] % 2
    if not (bottom or right):
        return image
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


def blend_table(colours: NDArray[np.uint8], alphas: NDArray[np.float64]) -> BlendTable:
    """A table that mixes each class's colour into the image with the class's alpha.

    Args:
        colours: (256, 3) uint8 BGR.
        alphas: (256,) float in 0..1: 0 leaves the image as it is, 1 replaces it, exactly.
    """
    parts = np.rint(alphas * ONE).astype(np.int32)
    offset = colours.astype(np.int32) * parts[:, np.newaxis] + ONE // 2
    repeated = np.tile(offset, (1, PERIOD // 3))
    return BlendTable((ONE - parts).astype(np.float32), repeated.astype(np.float32))


def overlay_table(labels: LabelSet, alpha: float) -> BlendTable:
    """Every class in its colour with the same alpha; background and VOID are transparent."""
    return blend_table(bgr_colours(labels), np.where(foreground(labels), alpha, 0.0))


def bgr_colours(labels: LabelSet) -> NDArray[np.uint8]:
    """(256, 3) uint8 BGR: the colour of each class; black for other indices."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(labels)] = np.array(labels.colours, np.uint8)[:, ::-1]
    return colours


def foreground(labels: LabelSet) -> NDArray[np.bool_]:
    """(256,) bool: which values of a mask are classes other than the background."""
    index = np.arange(256)
    found = (index < len(labels)) & (index != VOID)
    return found if labels.background is None else found & (index != labels.background)


def blend(
    image: Image, mask: Mask, table: BlendTable, canvas: Image | None = None, left: int = 0
) -> Image:
    """Blend the colours of `mask` over `image`.

    With alpha a, a channel becomes `image * (1 - a) + colour * a`, rounded to the nearest level,
    halves up; a is held in 1/65536, so the sum is off by less than 0.004 levels before rounding.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (H, W) uint8.
        canvas: (H, at least left + W, 3) uint8 to draw into, C-contiguous; None makes a new one.
        left: column of the canvas at which the image starts.

    Returns:
        The canvas.

    Raises:
        ValueError: mask and image differ in size, or the canvas is too small.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} does not fit an image of {image.shape[:2]}")
    painting, canvas = start_painting(image, table, canvas, left)
    paint(mask, painting)
    return canvas


def text_width(text: str, size: int) -> int:
    """Width of `text` in pixels at `size`."""
    text = drawable(text)
    if TRUETYPE:
        return int(cv2.getTextSize((0, 0), text, (0, 0), _face(), size, WEIGHT)[2])
    scale, thickness = _hershey(size)
    return int(cv2.getTextSize(text, HERSHEY, scale, thickness)[0][0])


def put_text(image: Image, text: str, left: int, middle: int, size: int, colour: Bgr) -> None:
    """Draw one line in place.

    Args:
        left: column at which it starts.
        middle: row through the middle of its capitals.
        size: line height in pixels; capitals are 0.7 of it.
    """
    text, at = drawable(text), (left, middle + round(0.35 * size))
    if TRUETYPE:
        cv2.putText(image, text, at, colour, _face(), size, WEIGHT)
        return
    scale, thickness = _hershey(size)
    cv2.putText(image, text, at, HERSHEY, scale, colour, thickness, cv2.LINE_AA)


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """`text` in letters that the font has: others lose accents, or are spelled like `u4eba`."""
    return "".join(map(_letter, unicodedata.normalize("NFC", text)))


@lru_cache(maxsize=4096)
def _letter(char: str) -> str:
    if not char.isprintable():
        return " "
    if char.isascii() or (TRUETYPE and _has_glyph(char)):
        return char
    plain = (
        unicodedata.normalize("NFKD", char.translate(SUBSTITUTES))
        .encode("ascii", "ignore")
        .decode()
    )
    return plain or f"u{ord(char):04x}"


def _has_glyph(char: str) -> bool:
    """Whether the font has the letter; OpenCV draws a question mark instead of one it lacks."""
    return not np.array_equal(_glyph(char), _glyph("?"))


def _glyph(char: str) -> Image:
    image = np.zeros((48, 64, 3), np.uint8)
    cv2.putText(image, char, (8, 32), (255, 255, 255), _face(), 24, WEIGHT)
    return image


@lru_cache(maxsize=1)
def _face() -> Any:
    return cv2.FontFace("sans")


def _hershey(size: int) -> tuple[float, int]:
    """Scale and thickness of the Hershey font."""
    return size / HERSHEY_PIXELS, max(1, round(size / 18))


class Plate(NamedTuple):
    """Where text lies, in pixels of the image."""

    left: int
    top: int
    right: int
    bottom: int


class Row(NamedTuple):
    """One line of a panel: its cells, and a square of colour before them.

    A single cell spans the panel. Of several, the first, third, ... are names, aligned left and
    dim; the second, fourth, ... are their values, aligned right and bright.
    """

    cells: tuple[str, ...]
    swatch: Colour | None = None
    warning: bool = False


class _Layout(NamedTuple):
    """A panel's measures in pixels."""

    rows: list[Row]
    size: int
    columns: tuple[int, ...]
    width: int
    height: int


def text_size(image: Image) -> int:
    """Size of a panel's text on this picture, in pixels: 17 on 720 rows, 25 on 1080."""
    return max(10, round(0.023 * min(image.shape[:2])))


def panel(
    image: Image,
    lines: Sequence[str],
    corner: Corner = "top left",
    *,
    scale: float = 1.0,
    below: Plate | None = None,
) -> Plate | None:
    """Draw lines of text on a plate, in place; returns where, None if there is no room.

    Tabs separate names and values, which are aligned in columns. A line without tabs is wrapped. A
    line that starts with `!` is a warning.

    Args:
        image: (H, W, 3) uint8 BGR, changed.
        scale: of the text, relative to `text_size`.
        below: a plate at the top that is not to be covered.
    """
    rows = [Row(tuple(line.removeprefix("!").split("\t")), None, line[:1] == "!") for line in lines]
    return _draw(image, rows, corner, scale, share=1.0, below=below)


def legend(
    image: Image, rows: Sequence[tuple[str, Colour]], corner: Corner = "bottom right"
) -> None:
    """Draw names beside squares of their colours, in place.

    Takes at most 0.6 of the picture's height; a last line counts the rows left out.

    Args:
        image: (H, W, 3) uint8 BGR, changed.
        rows: name and RGB colour; a tab in the name separates a value.
    """
    _draw(image, [Row(tuple(name.split("\t")), colour) for name, colour in rows], corner, 1.0, 0.6)


def banner(image: Image, text: str) -> Image:
    """A new image: `image` dimmed, as it is not live, with `text` large over it.

    Args:
        image: (H, W, 3) uint8 BGR, unchanged.
    """
    dimmed = cv2.convertScaleAbs(image, alpha=0.6)
    panel(dimmed, text.splitlines(), "centre", scale=1.5)
    return dimmed


def _draw(
    image: Image,
    rows: list[Row],
    corner: Corner,
    scale: float,
    share: float,
    below: Plate | None = None,
) -> Plate | None:
    """Lay out and draw as many rows as fit into a share of the image's height."""
    largest = max(MIN_TEXT, round(text_size(image) * scale))
    margin = round(0.6 * largest)
    widest = image.shape[1] - 2 * margin
    size, layout = _fitted(rows, largest, widest)
    if layout.width > widest:
        size, layout = _fitted([pair for row in rows for pair in _pairs(row)], largest, widest)
    fitting = int((image.shape[0] * share - 2 * margin - 2 * _pad(size)) // _line(size))
    if widest < 4 * size or fitting < 1 or not rows:
        return None
    if len(layout.rows) > fitting:
        layout = _layout(_shortened(layout.rows, fitting), size, widest)
    left, top = _place(image, layout, corner, margin)
    width = min(layout.width, widest)
    if below is not None and left < below.right and top < below.bottom:
        lowest = max(top, image.shape[0] - margin - layout.height)
        top = min(below.bottom + margin // 2, lowest)
    _darken(image[top : top + layout.height, left : left + width], round(0.45 * size))
    _write(image[:, : left + width], layout, left + _pad(size), top + _pad(size))
    return Plate(left, top, left + width, top + layout.height)


def _fitted(rows: list[Row], size: int, widest: int) -> tuple[int, _Layout]:
    """The largest text size, up to `size`, at which no row is wider than `widest`, if any."""
    layout = _layout(rows, size, widest)
    while layout.width > widest and size > MIN_TEXT:
        size -= 1
        layout = _layout(rows, size, widest)
    return size, layout


def _pairs(row: Row) -> Iterator[Row]:
    """A row of several names and values as one row per name."""
    for start in range(0, len(row.cells), 2):
        yield row._replace(cells=row.cells[start : start + 2])


def _layout(rows: list[Row], size: int, widest: int) -> _Layout:
    """Measure rows at a text size, wrapping single cells that are wider than the image."""
    indent = _indent(rows, size)
    inner = widest - 2 * _pad(size) - indent
    wrapped = [line for row in rows for line in _wrap(row, size, inner)]
    cells = [row.cells for row in wrapped if len(row.cells) > 1]
    columns = tuple(
        max(text_width(row[i], size) for row in cells if i < len(row))
        for i in range(max(map(len, cells), default=0))
    )
    grid = sum(columns) + sum(_gap(i, size) for i in range(1, len(columns)))
    spans = (text_width(row.cells[0], size) for row in wrapped if len(row.cells) == 1)
    needed = max([grid, *spans], default=0) + indent + 2 * _pad(size)
    # in steps, so that the width does not change with every number
    width = -(-needed // size) * size if needed <= widest - size else needed
    if columns and needed == grid + indent + 2 * _pad(size):
        columns = (*columns[:-1], columns[-1] + width - needed)
    return _Layout(wrapped, size, columns, width, len(wrapped) * _line(size) + 2 * _pad(size))


def _wrap(row: Row, size: int, inner: int) -> Iterator[Row]:
    """A row of one cell in lines of at most `inner` pixels, broken at spaces."""
    if len(row.cells) > 1 or text_width(row.cells[0], size) <= inner:
        yield row
        return
    line_text = ""
    for word in row.cells[0].split(" "):
        longer = f"{line_text} {word}".strip()
        if line_text and text_width(longer, size) > inner:
            yield row._replace(cells=(line_text,))
            longer = word
        line_text = longer
    yield row._replace(cells=(line_text,))


def _shortened(rows: list[Row], fitting: int) -> list[Row]:
    """The first rows; the last line of a legend counts those left out."""
    if rows[0].swatch is None or fitting < 2:
        return rows[:fitting]
    return [*rows[: fitting - 1], Row((f"+ {len(rows) - fitting + 1} more",))]


def _write(image: Image, layout: _Layout, left: int, top: int) -> None:
    size, line = layout.size, _line(layout.size)
    indent = _indent(layout.rows, size)
    for number, row in enumerate(layout.rows):
        middle = top + number * line + line // 2
        if row.swatch is not None:
            _square(image, left, middle, size, row.swatch)
        at = left + indent
        for i, cell in enumerate(row.cells):
            at += _gap(i, size)
            value = i % 2 == 1
            start = at + (layout.columns[i] - text_width(cell, size) if value else 0)
            put_text(image, cell, start, middle, size, _ink(row, value))
            at += layout.columns[i] if len(row.cells) > 1 else 0


def _ink(row: Row, value: bool) -> Bgr:
    if row.warning:
        return WARNING
    return BRIGHT if value or len(row.cells) == 1 or row.swatch is not None else DIM


def _square(image: Image, left: int, middle: int, size: int, colour: Colour) -> None:
    """A square with a light rim, so that dark colours are visible on the dark plate."""
    half = max(2, round(0.36 * size))
    top_left, bottom_right = (left, middle - half), (left + 2 * half, middle + half)
    cv2.rectangle(image, top_left, bottom_right, colour[::-1], cv2.FILLED)
    cv2.rectangle(image, top_left, bottom_right, DIM, max(1, round(size / 24)))


def _place(image: Image, layout: _Layout, corner: Corner, margin: int) -> tuple[int, int]:
    """(left, top) of a panel."""
    height, width = image.shape[:2]
    right = max(margin, width - margin - layout.width)
    bottom = max(margin, height - margin - layout.height)
    if corner == "centre":
        return max(margin, (width - layout.width) // 2), (height - layout.height) // 2
    return right if "right" in corner else margin, bottom if "bottom" in corner else margin


def _darken(plate: Image, radius: int) -> None:
    """Darken a part of an image, in place, with round corners."""
    dark = cv2.convertScaleAbs(plate, alpha=0.22, beta=8)
    cover = _rounded(plate.shape[0], plate.shape[1], radius)
    plate[:] = cv2.blendLinear(dark, np.ascontiguousarray(plate), cover, 1 - cover)


@lru_cache(maxsize=32)
def _rounded(height: int, width: int, radius: int) -> NDArray[np.float32]:
    """(H, W) float32: 1 inside a rectangle with round corners, 0 outside, smooth on its edge."""

    def beyond(count: int) -> NDArray[np.float32]:
        """Distance of each pixel's centre to the straight part of a side."""
        at = np.arange(count, dtype=np.float32) + 0.5
        return np.maximum(0, np.maximum(radius - at, at - (count - radius)))

    distance = np.hypot(beyond(height)[:, np.newaxis], beyond(width)[np.newaxis])
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def _indent(rows: list[Row], size: int) -> int:
    """Pixels for the squares, if any row has one."""
    return round(1.2 * size) if any(row.swatch is not None for row in rows) else 0


def _gap(column: int, size: int) -> int:
    """Pixels before a column: fewer before a value than before the next name."""
    return 0 if column == 0 else round(0.6 * size) if column % 2 else round(1.4 * size)


def _line(size: int) -> int:
    return round(1.4 * size)


def _pad(size: int) -> int:
    return round(0.55 * size)


def checked(drawn: Any) -> Image:
    """What an effect returned.

    Raises:
        UsageError: it is not (H, W, 3) or (H, W, 4) uint8.
    """
    is_array = isinstance(drawn, np.ndarray)
    if is_array and drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.size:
        image: Image = drawn
        if image.shape[2] in (3, 4):
            return image
    what = f"{drawn.shape} {drawn.dtype}" if is_array else type(drawn).__name__
    raise UsageError(
        f"the effect returned {what}",
        found="an effect returns an image, (H, W, 3) uint8 BGR or (H, W, 4) uint8 BGRA",
    )
