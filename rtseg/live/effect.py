"""The effect of a live run: it draws by what a person has chosen at this moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from rtseg.contracts import Effect
from rtseg.effects import ViewOptions
from rtseg.errors import RtsegError
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.matte.refine import with_edges
from rtseg.segmentation import Segmentation
from rtseg.session.state import Look

Open = Callable[[ViewOptions, LabelSet, str], Effect]
"""Opens the effect for a view, and a network's classes and name; raises RtsegError."""


class LiveEffect:
    """Draws the look that `look` gives, opening the view it needs; keeps to the last that worked,
    and to the plain overlay where that fails too.

    Args:
        refused: told of a look that cannot be drawn, with the one that is drawn instead.

    Attributes:
        drawn: the look of the last picture.
    """

    def __init__(
        self,
        look: Callable[[], Look],
        open_view: Open,
        refused: Callable[[RtsegError, Look], None],
    ) -> None:
        self.drawn: Look = look()
        self._look, self._refused = look, refused
        # two: pictures of the last network are still on their way when the next one draws
        self._opened = lru_cache(maxsize=2)(open_view)

    def open(self, labels: LabelSet) -> None:
        """Open the view that is drawn first, so that no frame waits for it.

        Raises:
            RtsegError: it cannot be drawn.
        """
        self._opened(self.drawn.view, labels, self.drawn.network)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H', W', 3) uint8 BGR."""
        look = self._look()
        try:
            image = self._draw(look, frame, segmentation)
        except RtsegError as error:
            instead = self.drawn if look != self.drawn else plain(look)
            if instead == look:
                raise
            self._refused(error, instead)
            look, image = instead, self._draw(instead, frame, segmentation)
        self.drawn = look
        return image

    def _draw(self, look: Look, frame: Frame, segmentation: Segmentation) -> Image:
        effect = self._opened(look.view, segmentation.labels, look.network)
        segmentation = with_edges(segmentation, frame.picture, refine=look.refine)
        return effect(frame, alone(segmentation, look.solo))


def plain(look: Look) -> Look:
    """What can be drawn when what was drawn until now no longer can: it needs no file."""
    return look._replace(view=ViewOptions(legend=look.view.legend, hud=look.view.hud))


def alone(segmentation: Segmentation, name: str | None) -> Segmentation:
    """The same scores with one class alone; the same object where there is no such class."""
    labels = segmentation.labels
    if name is None or name not in labels.names:
        return segmentation
    return segmentation.selecting(frozenset({labels.names.index(name)}))
