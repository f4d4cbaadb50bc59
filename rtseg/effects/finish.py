"""What is written over a view: a word when nothing is there, the legend, the HUD."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from rtseg.blend import foreground
from rtseg.contracts import Effect
from rtseg.draw import legend, panel
from rtseg.frame import Frame, Image
from rtseg.labels import Colour, LabelSet
from rtseg.segmentation import Segmentation


class Finish:
    """Draws a view, then writes over its picture: nothing at all, where no words are asked for.

    Args:
        legend: name the classes in view.
        hud: gives the lines of the figures at this moment; None shows none.
        mark: gives the lines below them, on this very frame.
    """

    def __init__(
        self,
        view: Effect,
        labels: LabelSet,
        *,
        legend: bool = False,
        hud: Callable[[], list[str]] | None = None,
        mark: Callable[[Segmentation], list[str]] = lambda segmentation: [],
    ) -> None:
        self._view, self._labels, self._legend = view, labels, legend
        self._hud, self._mark = hud, mark

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """The view's picture, written over; where it is transparent too, so that it can be read."""
        picture = self._view(frame, segmentation)
        if picture.shape[2] == 3:
            self._write(picture, segmentation)
            return picture
        from rtseg.matte import write_over

        image = cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
        self._write(image, segmentation)
        write_over(picture, image)
        return picture

    def _write(self, image: Image, segmentation: Segmentation) -> None:
        """All words, over (H, W, 3) uint8 BGR, in place."""
        with_words = self._legend or self._hud is not None
        if with_words and (nothing := empty_line(segmentation)):
            panel(image, [nothing], "bottom left")
        if self._legend:
            legend(image, legend_rows(segmentation, self._labels))
        if self._hud is not None:
            panel(image, [*self._hud(), *self._mark(segmentation)])

    def warm_up(self) -> None:
        """Draw a picture of nothing, so that the first frame finds all code compiled."""
        frame = Frame(np.zeros((120, 160, 3), np.uint8), 0, 0.0, 0.0)
        scores = np.zeros((len(self._labels), 1, 1), np.float32)
        self(frame, Segmentation(scores, self._labels, frame.size))


def legend_rows(segmentation: Segmentation, labels: LabelSet) -> list[tuple[str, Colour]]:
    """Name, share of the frame, and colour of the classes in view, the largest first."""
    largest = sorted(segmentation.shares.items(), key=lambda item: -item[1])
    return [
        (f"{_one_cell(labels.names[index])}\t{percent(share)}", labels.colours[index])
        for index, share in largest
    ]


def percent(share: float) -> str:
    """A share of 1 in whole percent; what is there is never 0 %."""
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def empty_line(segmentation: Segmentation) -> str | None:
    """What to say when no pixel shows a class that was asked for; None when one does."""
    labels = segmentation.labels
    if segmentation.counts[foreground(labels)].any():
        return None
    sought = labels.sought(segmentation.selected)
    return f"no pixels of: {_one_cell(labels.listed(sought))}" if sought else None


def _one_cell(name: str) -> str:
    """A name without what a panel takes for columns."""
    return name.replace("\t", " ").strip()
