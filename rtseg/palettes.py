"""Colours for classes, by name, from a seed, or from a file. All colours are RGB."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import UsageError
from rtseg.frame import VOID
from rtseg.labels import Colour, voc_colours
from rtseg.palette_tables import ADE20K, CITYSCAPES

TABLES: dict[str, tuple[Colour, ...]] = {
    "voc": voc_colours(VOID),
    "cityscapes": CITYSCAPES.colours,
    "ade20k": ADE20K.colours,
    "ade": ADE20K.colours,
}

KNOWN = "voc, cityscapes, ade20k, random:SEED and colour files"


def palette(text: str, count: int) -> tuple[Colour, ...]:
    """`count` colours, by name (`voc`, `cityscapes`, `ade20k`), as `random:SEED`, or from a file.

    A colour file has one class per line, `r g b [name]` or `#rrggbb [name]`; blank lines and lines
    that start with `# ` say nothing. A file that ends in `.json` holds a list of `[r, g, b]` and
    `"#rrggbb"`.

    Raises:
        UsageError: there is no such palette, a line is no colour, or there are fewer than `count`.
    """
    name, _, seed = text.strip().partition(":")
    if name.casefold() == "random":
        return random_colours(_seed(seed or "0"), count)
    table = TABLES.get(text.strip().casefold())
    colours = _file_colours(Path(text).expanduser()) if table is None else table
    if len(colours) < count:
        raise UsageError(
            f"palette {text!r} for {count} classes",
            found=f"it has {len(colours)} colours",
            do="Add colours, or use random:0, which has as many as there are classes.",
        )
    return colours[:count]


def random_colours(seed: int, count: int) -> tuple[Colour, ...]:
    """Black, then colours that are far from all before them; the same for the same seed.

    Each is the candidate farthest from those already chosen, in the Oklab space of perceived
    colour (Ottosson, 2020), so the first n do not depend on how many follow.
    """
    generator = np.random.default_rng(seed)
    candidates = generator.integers(0, 256, (2048, 3))
    places = _oklab(candidates)
    bright = places[:, 0] > 0.45  # darker ones cannot be told from one another, nor from black
    candidates, places = candidates[bright], places[bright]
    nearest = np.full(len(places), np.inf)
    # grey, so that grey shades, which look like shadows of the picture, come late
    nearest = np.minimum(nearest, np.linalg.norm(places - _oklab(np.array([128] * 3)), axis=1))
    chosen = [int(generator.integers(len(places)))]
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    picked = [(int(r), int(g), int(b)) for r, g, b in candidates[chosen]]
    return ((0, 0, 0), *picked)[:count]


def _oklab(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 3) sRGB 0..255 as (..., 3) Oklab: lightness 0..1, and two axes of colour."""
    share = rgb / 255.0
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    cones = np.cbrt(linear @ _RGB_TO_CONES.T)
    return cones @ _CONES_TO_OKLAB.T


_RGB_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_CONES_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"palette random:{text}", found="a seed is a whole number, as random:7")
    return int(text)


def _file_colours(path: Path) -> tuple[Colour, ...]:
    try:
        if not path.is_file():
            raise UsageError(
                f"unknown palette {str(path)!r}", found=f"there are {KNOWN}, and no such file"
            )
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"colour file {str(path)!r}", found=f"cannot be read: {error}") from error
    colours = _json_colours(text, path) if path.suffix == ".json" else _line_colours(text, path)
    return tuple(colours)


def _line_colours(text: str, path: Path) -> Iterator[Colour]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0] == "#":
            continue
        yield _colour(words[0] if words[0].startswith("#") else words[:3], f"{path}:{number}")


def _json_colours(text: str, path: Path) -> Iterator[Colour]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"colour file {str(path)!r}", found=f"not JSON: {error}") from error
    if not isinstance(values, list):
        raise UsageError(f"colour file {str(path)!r}", found="not a JSON list of colours")
    for number, value in enumerate(values, 1):
        yield _colour(value, f"{path}, colour {number}")


def _colour(value: object, where: str) -> Colour:
    """A colour from `#rrggbb`, or from three numbers or their digits.

    Raises:
        UsageError: it is none; the message says `where`.
    """
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and len(value) == 3 and all(_is_level(part) for part in value):
        return int(value[0]), int(value[1]), int(value[2])
    shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    raise UsageError(
        f"bad colour at {where}",
        found=f"{shown!r}",
        do="Write r g b with numbers from 0 to 255, or #rrggbb.",
    )


def _is_level(part: object) -> bool:
    """Whether it is a whole number from 0 to 255, or the digits of one."""
    text = part if isinstance(part, str) else str(part) if type(part) is int else ""
    return text.isascii() and text.isdecimal() and int(text) <= 255
