"""What was found, cut out of the picture."""

from __future__ import annotations

from rtseg.effects.background import Background
from rtseg.effects.options import ViewOptions
from rtseg.labels import LabelSet


class Cutout(Background):
    """Keeps what is of a class that was asked for; behind it is the background that was chosen, or
    black.
    """

    def __init__(self, labels: LabelSet, options: ViewOptions) -> None:
        super().__init__(options)
