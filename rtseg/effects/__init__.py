"""What a finished frame looks like: a view, and over it the legend and the figures of the run."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from rtseg.effects.options import VIEWS, ViewOptions

if TYPE_CHECKING:
    from rtseg.contracts import BackendInfo, Effect, Source
    from rtseg.labels import LabelSet
    from rtseg.stats import Stats

__all__ = ["VIEWS", "ViewOptions", "open_effect", "open_view"]


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
    from rtseg.effects.hud import Finish, hud_lines, mark_lines

    hud = partial(hud_lines, stats, source, backend, model, imgsz) if options.hud else None
    mark = partial(mark_lines, stats)
    finish = Finish(open_view(options, labels), labels, legend=options.legend, hud=hud, mark=mark)
    finish.warm_up()
    return finish
