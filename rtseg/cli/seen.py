"""Whether anything that was looked for was ever seen."""

from __future__ import annotations

from rtseg.contracts import Rendered, Sink
from rtseg.labels import LabelSet


class Seen(Sink):
    """Looks at masks until one of the wanted classes turns up; then costs nothing.

    Args:
        labels: the network's classes.
        selected: those a person asked for; None means all but the background.
    """

    wants_image = False

    def __init__(self, labels: LabelSet, selected: frozenset[int] | None) -> None:
        self._labels = labels
        self._sought = labels.sought(selected)
        self._found = not self._sought

    def write(self, rendered: Rendered) -> None:
        """Look at one frame."""
        if not self._found and rendered.segmentation.labels.names == self._labels.names:
            self._found = bool(self._sought & rendered.segmentation.shares.keys())

    def summary(self) -> str:
        """ "no pixels of: ..." when nothing of the wanted classes ever came; else ""."""
        return "" if self._found else f"no pixels of: {self._labels.listed(self._sought)}"
