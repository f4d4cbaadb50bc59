"""One source's part of the grid: its last picture, its figures, and what became of it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rtseg.contracts import Effect, Rendered
from rtseg.draw import banner, panel
from rtseg.frame import Image
from rtseg.many.feed import Feed
from rtseg.many.layout import Size, fitted
from rtseg.session.many import Look
from rtseg.shrink import resized
from rtseg.sinks.fit import letterbox
from rtseg.words import counted

PATIENCE_SECONDS = 1.0
"""A live source that gives nothing for so long is said to give nothing."""

BLANK_GREY = 32


class Words(NamedTuple):
    """What is said of a source: a word in its HUD, a warning below, large letters over all."""

    state: str
    warning: str = ""
    large: str = ""


class Cell:
    """Draws one source at the size of a cell, its mask decoded at that very size.

    Args:
        effect: draws a look; without figures, which are the cell's own.
        hud: whether name, speed, age, drops and state are written over it.

    Attributes:
        hud: may be changed before `redraw`.
        picture: (h, w, 3) uint8 BGR, of the cell's size.
    """

    def __init__(self, feed: Feed, effect: Effect, size: Size, *, hud: bool) -> None:
        self._feed, self._effect, self._size, self.hud = feed, effect, size, hud
        self._drawn: Image | None = None
        self._came_at = feed.stats.clock.now()
        self._look: Look | None = None
        self._said: Words | None = None
        self.picture: Image = np.full((*size, 3), BLANK_GREY, np.uint8)

    def show(self, look: Look) -> None:
        """Draw a look."""
        self._look, self._came_at = look, self._feed.stats.clock.now()
        self._draw(look)
        self._finish(self._words())

    def redraw(self) -> None:
        """Draw the last look again, by what its effect and the HUD have become."""
        if self._look is not None:
            self._draw(self._look)
        self._finish(self._words())

    def _draw(self, look: Look) -> None:
        ratio = float(self._feed.source.info.sample_aspect_ratio)
        size = fitted(look.frame.size, self._size, ratio)
        frame = replace(look.frame, picture=resized(look.frame.image, size))
        picture = Rendered(frame, look.segmentation.at_size(size), self._effect).image
        self._drawn = letterbox(picture, self._size)

    def refresh(self) -> bool:
        """Draw again if there is something else to say; whether there was."""
        words = self._words()
        if words == self._said:
            return False
        self._finish(words)
        return True

    def _finish(self, words: Words) -> None:
        """Write figures and state over what was drawn."""
        self._said = words
        blank = np.full((*self._size, 3), BLANK_GREY, np.uint8)
        picture = blank if self._drawn is None else self._drawn
        self.picture = banner(picture, words.large) if words.large else picture.copy()
        if self.hud:
            name = f"{self._feed.name} · {words.state}"
            warning = [f"!{words.warning}"] if words.warning else []
            panel(self.picture, [name, self._figures(), *warning])

    def _figures(self) -> str:
        stats = self._feed.stats
        speed = f"{stats.fps_now:.1f}" if stats.fps_now else "-"
        age = f"{1e3 * stats.recent['age']:.0f} ms" if "age" in stats.recent else "-"
        return f"fps\t{speed}\tage\t{age}\tdropped\t{stats.dropped}"

    def _words(self) -> Words:
        feed, kind = self._feed, "live" if self._feed.source.info.live else "recording"
        if feed.error is not None:
            text = str(feed.error)
            return Words("lost", large=text if feed.name in text else f"{feed.name}: {text}")
        if feed.ended:
            return self._at_the_end()
        if feed.source.notice:
            return Words("waiting", large=feed.source.notice)
        if self._drawn is None:
            return Words("waiting", large="waiting for the first frame")
        waited = feed.stats.clock.now() - self._came_at
        late = feed.source.info.live and waited > PATIENCE_SECONDS
        rests = self._look is not None and self._look.segmentation.carried is not None
        state = f"{kind}, network rests" if rests else kind
        return Words(state, warning=f"no frame for {int(waited)} s" if late else "")

    def _at_the_end(self) -> Words:
        """A single picture stays as it is; of anything else one must see that it stands."""
        if self._feed.source.info.frame_count == 1:
            return Words("picture")
        return Words("ended", large=f"ended after {counted(self._feed.stats.shown, 'frame')}")
