"""What the controls need of a window; tests have one that shows nothing."""

from __future__ import annotations

from typing import Protocol

from rtseg.contracts import Rendered


class Window(Protocol):
    """What the controls need of a window."""

    def quit(self) -> None:
        """Close it."""

    def fill_screen(self, full: bool) -> None:
        """Fill the screen, or stop doing so."""

    def write(self, rendered: Rendered) -> None:
        """Show one picture."""
