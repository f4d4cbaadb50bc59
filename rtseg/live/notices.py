"""What is said to a person: on the picture for a moment, and where it lasts, on stderr."""

from __future__ import annotations

from collections.abc import Callable

from rtseg.clock import Clock

NOTICE_SECONDS = 2.5
WARNING_SECONDS = 6.0
"""What went wrong stays longer, since it is longer, and nobody expects it."""

Tell = Callable[[str, str], None]
"""Takes a heading ("wrote", "warning") and a line, for a log."""


class Notices:
    """The line that stands on the picture, until its time is over.

    Args:
        tell: takes what shall outlast the picture.
    """

    def __init__(self, clock: Clock, tell: Tell = lambda heading, text: None) -> None:
        self._clock, self._tell = clock, tell
        self._text, self._until = "", 0.0

    def say(self, text: str, seconds: float = NOTICE_SECONDS) -> None:
        """On the picture alone."""
        self._text, self._until = text, self._clock.now() + seconds

    def wrote(self, text: str) -> None:
        """Something was written; here and there."""
        self.say(f"wrote {text}")
        self._tell("wrote", text)

    def warn(self, text: str) -> None:
        """Something went wrong; here and there."""
        self.say(f"!{text}", WARNING_SECONDS)
        self._tell("warning", text)

    @property
    def text(self) -> str:
        """What stands on the picture now, after a `!` if it is a warning; "" for nothing."""
        return self._text if self._clock.now() < self._until else ""
