"""What lies over the window of a grid and nowhere else: help, what lasts, and notices."""

from __future__ import annotations

from typing import Literal

from rtseg.contracts import Rendered
from rtseg.draw import panel
from rtseg.frame import Image
from rtseg.live.notices import Notices
from rtseg.session import keys
from rtseg.session.grid_controls import Hands
from rtseg.session.overlay import PAUSED, recording, write_help


class GridGlass:
    """Writes over the pictures of one window, and knows when what it wrote is out of date."""

    def __init__(self, hands: Hands, notices: Notices) -> None:
        self._hands, self._notices = hands, notices
        self._written: tuple[object, ...] = ()

    def write(self, image: Image, rendered: Rendered) -> None:
        """Write over (H, W, 3) uint8 BGR, in place."""
        self._hands.last = rendered
        self._written = self._words()
        if self._hands.state.help:
            write_help(image, keys.lines(dir(Hands)))
        if lines := self._lines():
            panel(image, lines, "bottom left")

    def stale(self) -> Literal["", "glass", "picture"]:
        """Whether it would write something else now."""
        return "glass" if self._words() != self._written else ""

    def _words(self) -> tuple[object, ...]:
        return (self._hands.state.help, *self._lines())

    def _lines(self) -> list[str]:
        keeping, text = self._hands.keeping, self._notices.text
        return [
            *([PAUSED] if self._hands.state.paused else []),
            *(recording(keeping.recorder) if keeping is not None else []),
            *([text] if text else []),
        ]
