"""What a finished frame looks like: a view, and over it the legend and the figures of the run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module

from rtseg.contracts import BackendInfo, Effect, Source
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


@dataclass(frozen=True)
class ViewOptions:
    """How frames are drawn.

    Attributes:
        view: a name of `VIEWS`.
        alpha: weight of the class's colour over the picture: 0.4 is the 60/40 blend.
        legend: name the classes in view.
        hud: show the figures of the run.

    Raises:
        UsageError: there is no such view, or alpha is not within 0..1.
    """

    view: str = "overlay"
    alpha: float = 0.4
    legend: bool = False
    hud: bool = False

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UsageError(f"unknown view {self.view!r}", found="there are " + ", ".join(VIEWS))
        if not 0.0 <= self.alpha <= 1.0:
            raise UsageError(
                f"alpha {self.alpha}",
                found="it is the weight of the colours over the picture, from 0 to 1",
            )


def open_view(options: ViewOptions, labels: LabelSet) -> Effect:
    """The bare view that `options` name."""
    module, _, name = VIEWS[options.view].partition(":")
    view: Effect = getattr(import_module(module), name)(labels, options)
    return view


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
