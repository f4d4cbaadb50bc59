"""The views, and how frames are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from rtseg.effects.backdrops import parse_background
from rtseg.errors import UsageError

VIEWS = {
    "overlay": "rtseg.effects.views:Overlay",
    "mask": "rtseg.effects.mask:MaskPicture",
    "side": "rtseg.effects.side:SideBySide",
    "contours": "rtseg.effects.contours:Contours",
    "cutout": "rtseg.effects.cutout:Cutout",
}
"""Each is built with `(labels, options)` and is an `Effect` that returns a new picture."""

MOST_FEATHER = 200


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
