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
        wanted = frozenset(range(len(labels))) if selected is None else selected
        self._labels = labels
        self._wanted = wanted - {labels.background}
        self._found = not self._wanted

    def write(self, rendered: Rendered) -> None:
        """Look at one frame."""
        self._found = self._found or bool(self._wanted & rendered.segmentation.shares.keys())

    def summary(self) -> str:
        """ "no pixels of: ..." when nothing of the wanted classes ever came; else ""."""
        if self._found:
            return ""
        names = [self._labels.names[index] for index in sorted(self._wanted)]
        more = f", ... ({len(names)} classes)" if len(names) > _MANY else ""
        return f"no pixels of: {', '.join(names[:_MANY])}{more}"


_MANY = 6
