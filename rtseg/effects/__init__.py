"""How a finished frame looks: a view, and over it the legend and the HUD.

A new view is one file with a class, and one row of `VIEWS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from rtseg.errors import UsageError

if TYPE_CHECKING:
    from rtseg.contracts import BackendInfo, Effect, Source
    from rtseg.frame import Frame, Image
    from rtseg.labels import LabelSet
    from rtseg.segmentation import Segmentation
    from rtseg.stats import Stats

MAX_FEATHER = 200


@dataclass(frozen=True)
class ViewKind:
    """A row of `VIEWS`.

    Attributes:
        open: "module:class", imported when needed; called as (labels, options), makes an `Effect`
            that returns a new image.
        is_matte: it replaces the background itself, with or without `ViewOptions.background`.
        widths: width of its image in widths of the frame.
    """

    open: str
    is_matte: bool = False
    widths: int = 1


VIEWS: dict[str, ViewKind] = {
    "overlay": ViewKind("rtseg.effects:Overlay"),
    "mask": ViewKind("rtseg.effects.views:MaskPicture"),
    "side": ViewKind("rtseg.effects.views:SideBySide", widths=2),
    "contours": ViewKind("rtseg.effects.contours:Contours"),
    "cutout": ViewKind("rtseg.effects.background:Cutout", is_matte=True),
}


@dataclass(frozen=True)
class ViewOptions:
    """How frames are drawn.

    Attributes:
        view: a key of `VIEWS`.
        alpha: weight of the class colours over the image: 0.4 is a 60/40 blend.
        legend: name the classes in view.
        hud: show speed, age and device.
        background: what replaces the background: "none", "blur", "blur:1" to "blur:20",
            "transparent", a colour's name or #rrggbb, or the path of an image or a video. "none"
            keeps it, except in the view "cutout", where it is black.
        feather: pixels over which the edge of the matte fades inwards, in addition to its own
            softness.
        matte_threshold: probability from which a pixel is kept; lower keeps more.

    Raises:
        UsageError: there is no such view or background, or a number is out of range.
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
            raise UsageError(f"alpha {self.alpha}", found="it must be from 0 to 1")
        if not 0.0 <= self.feather <= MAX_FEATHER:
            raise UsageError(
                f"feather {self.feather}", found=f"it must be from 0 to {MAX_FEATHER} pixels"
            )
        if not 0.0 < self.matte_threshold < 1.0:
            raise UsageError(
                f"matte threshold {self.matte_threshold}",
                found="it is a probability, above 0 and below 1",
            )
        if self.background != "none":
            from rtseg.effects.background import parse_background

            parse_background(self.background)


class Overlay:
    """Blends each class's colour into the image; background and VOID are left unchanged."""

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        from rtseg.draw import overlay_table

        self._table = overlay_table(labels, options.alpha)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H, W, 3) uint8 BGR, of the frame's size."""
        return segmentation.over(frame.picture, self._table)


def open_view(options: ViewOptions, labels: LabelSet) -> Effect:
    """The view without legend and HUD, over the background of `options`.

    Raises:
        UsageError: the background's file cannot be read.
    """
    kind = VIEWS[options.view]
    module, _, name = kind.open.partition(":")
    view: Effect = getattr(import_module(module), name)(labels, options)
    if options.background == "none" or kind.is_matte:
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
    """The view with the legend and the HUD over it, compiled and warm.

    Args:
        stats: of the run, for the HUD.
        source: whose notices and outages the HUD shows.
        backend: what really runs.
        model: name of the network.
        imgsz: (height, width) of the network's input.
    """
    from rtseg.effects.hud import Captioned, hud_lines, mark_lines

    hud = partial(hud_lines, stats, source, backend, model, imgsz) if options.hud else None
    mark = partial(mark_lines, stats)
    effect = Captioned(
        open_view(options, labels), labels, legend=options.legend, hud=hud, mark=mark
    )
    effect.warm_up()
    return effect
