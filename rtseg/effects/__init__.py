"""How a finished frame looks: a view, and over it the legend and the HUD.

A new view is one file with a class, and one row of `VIEWS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rtseg.errors import UsageError
from rtseg.options import check, imported, option

if TYPE_CHECKING:
    from rtseg.contracts import BackendInfo, Effect, Source
    from rtseg.frame import Frame, Image, Segmentation
    from rtseg.labels import LabelSet
    from rtseg.planes import Planes
    from rtseg.stats import Stats

MAX_FEATHER = 200


@dataclass(frozen=True)
class ViewKind:
    """A row of `VIEWS`.

    Attributes:
        open: "module:class", imported when needed; called as (labels, options), makes an `Effect`
            that returns a new image.
        is_matte: it replaces the background itself, with or without `ViewOptions.background`.
        covers: its image shows nothing of the frame, and so no background.
        own_alpha: the opacity of its colours is not `ViewOptions.alpha`.
        widths: width of its image in widths of the frame.
    """

    open: str
    is_matte: bool = False
    covers: bool = False
    own_alpha: bool = False
    widths: int = 1


VIEWS: dict[str, ViewKind] = {
    "overlay": ViewKind("rtseg.effects:Overlay"),
    "mask": ViewKind("rtseg.effects.views:MaskPicture", covers=True, own_alpha=True),
    "side": ViewKind("rtseg.effects.views:SideBySide", widths=2),
    "contours": ViewKind("rtseg.effects.contours:Contours", own_alpha=True),
    "cutout": ViewKind("rtseg.effects.views:Cutout", is_matte=True, own_alpha=True),
}


@dataclass(frozen=True)
class ViewOptions:
    """How frames are drawn.

    Attributes:
        view: What to draw; default overlay, or cutout with --background.
        alpha: Opacity of the colours, 0 to 1.
        legend: List the visible classes.
        hud: Draw frame rate, age and device; default in a window only.
        background: Replace the background: none, blur, blur:1 to blur:20, transparent, a colour
            (name or '#rrggbb'), an image or a video.
        feather: With --background: fade the edge inwards over this many more pixels.
        matte_threshold: With --background: least probability to keep, 0 to 1; lower keeps more.

    Raises:
        UsageError: there is no such view or background, or a number is out of range.
    """

    view: str = option("overlay", choices=VIEWS)
    alpha: float = option(0.4, least=0, most=1)
    legend: bool = False
    hud: bool = False
    background: str = "none"
    feather: float = option(0.0, least=0, most=MAX_FEATHER)
    matte_threshold: float = option(0.5, least=0, most=1)

    def __post_init__(self) -> None:
        check(self)
        if self.matte_threshold in (0, 1):
            found = "it is a probability, above 0 and below 1"
            raise UsageError(f"--matte-threshold {self.matte_threshold:g}", found=found)
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

    def in_planes(self, picture: Planes, segmentation: Segmentation) -> Planes:
        """The same in planes, for `Rendered.drawn`."""
        return picture.painted(segmentation.mask, self._table)


def open_view(options: ViewOptions, labels: LabelSet) -> Effect:
    """The view without legend and HUD, over the background of `options`.

    Raises:
        UsageError: the background's file cannot be read.
    """
    kind = VIEWS[options.view]
    view: Effect = imported(kind.open)(labels, options)
    if options.background == "none" or kind.is_matte:
        return view
    from rtseg.effects.background import Background
    from rtseg.matte import MatteOptions

    matte = MatteOptions(options.matte_threshold, options.feather)
    return Background(options.background, matte, view)


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
    view = open_view(options, labels)
    effect = Captioned(view, labels, legend=options.legend, hud=hud, mark=mark)
    effect.warm_up()
    return effect
