"""What a finished frame looks like: a view, and over it the legend and the figures of the run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module

from rtseg.contracts import BackendInfo, Effect, Source
from rtseg.effects.backdrops import parse_background
from rtseg.errors import UsageError
from rtseg.labels import LabelSet
from rtseg.stats import Stats

VIEWS = {
    "overlay": "rtseg.effects.overlay:Overlay",
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


def open_view(options: ViewOptions, labels: LabelSet) -> Effect:
    """The bare view that `options` name, over the background that they name.

    Raises:
        UsageError: the background's file cannot be read.
    """
    module, _, name = VIEWS[options.view].partition(":")
    view: Effect = getattr(import_module(module), name)(labels, options)
    if options.background == "none" or options.view == "cutout":
        return view
    from rtseg.effects.background import Background

    return Background(options, view)


def open_effect(
    options: ViewOptions,
    labels: LabelSet,
    *,
    stats: Stats | None = None,
    source: Source | None = None,
    backend: BackendInfo | None = None,
    model: str = "",
    imgsz: tuple[int, int] | None = None,
) -> Effect:
    """The view, then the legend and the HUD over it, compiled and warm.

    Args:
        stats: of the run that the HUD shows.
        source: whose notices and outages the HUD shows.
        backend: what really runs.
        model: name of the network.
        imgsz: (height, width) of the network's input.
    """
    from rtseg.effects.finish import Finish
    from rtseg.effects.hud import hud_lines, mark_lines

    hud = partial(hud_lines, stats, source, backend, model, imgsz) if options.hud else None
    mark = partial(mark_lines, stats)
    finish = Finish(open_view(options, labels), labels, legend=options.legend, hud=hud, mark=mark)
    finish.warm_up()
    return finish
