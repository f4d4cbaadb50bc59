"""The views, and how frames are drawn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rtseg.errors import UsageError

VIEWS = {
    "overlay": "rtseg.effects.views:Overlay",
    "mask": "rtseg.effects.views:MaskPicture",
    "side": "rtseg.effects.views:SideBySide",
    "contours": "rtseg.effects.contours:Contours",
    "cutout": "rtseg.effects.views:Cutout",
}
"""Each is built with `(labels, options)` and is an `Effect` that returns a new picture."""

MOST_FEATHER = 200

Kind = Literal["none", "transparent", "blur", "colour", "file"]

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


@dataclass(frozen=True)
class ViewOptions:
    """How frames are drawn.

    Attributes:
        view: a name of `VIEWS`.
        alpha: weight of the class's colour over the picture: 0.4 is the 60/40 blend.
        legend: name the classes in view.
        hud: show the figures of the run.
        background: what replaces all that is of no class: "none", "blur", "blur:1" to "blur:20",
            "transparent", a colour's name or #rrggbb, or the path of a picture or a video. "none"
            leaves the picture, and puts black behind the view "cutout".
        feather: pixels over which the edge of what is kept fades, on top of its own softness.
        matte_threshold: probability at which something is kept: below 0.5 keeps more.

    Raises:
        UsageError: there is no such view or background, or a number is out of its range.
    """

    view: str = "overlay"
    alpha: float = 0.4
    legend: bool = False
    hud: bool = False
    background: str = "none"
    feather: float = 0.0
    matte_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UsageError(f"unknown view {self.view!r}", found="there are " + ", ".join(VIEWS))
        if not 0.0 <= self.alpha <= 1.0:
            raise UsageError(
                f"alpha {self.alpha}",
                found="it is the weight of the colours over the picture, from 0 to 1",
            )
        if not 0.0 <= self.feather <= MOST_FEATHER:
            raise UsageError(f"feather {self.feather}", found=f"it is 0 to {MOST_FEATHER} pixels")
        if not 0.0 < self.matte_threshold < 1.0:
            raise UsageError(
                f"matte threshold {self.matte_threshold}",
                found="it is a probability, above 0 and below 1",
            )
        parse_background(self.background)


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
