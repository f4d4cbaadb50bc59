"""What a person at the window of a grid can do: of one source's keys, those that mean something
for all cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from rtseg.contracts import Effect, Rendered
from rtseg.draw import panel
from rtseg.effects import ViewOptions
from rtseg.errors import RtsegError
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.segmenter import Segmenter
from rtseg.session import keys
from rtseg.session.controls import Window
from rtseg.session.keys import find_key
from rtseg.session.overlay import PAUSED, LiveEffect, recording, write_help
from rtseg.session.recording import Keeping
from rtseg.session.state import LiveState, Look, Notices, after

BACKGROUNDS = ("none", "blur", "#00b140")

OpenView = Callable[[ViewOptions, LabelSet], Effect]


class Hands:
    """Every action is a method, which needs no window.

    Args:
        view: how all cells begin.
        hud: whether each has its figures.
        classes: names of those that the number keys show alone.
        segmenter: whose masks get other edges by a key; None where none can.
        window: what is closed, or fills the screen; None where there is none.
        keeping: keeps pictures and recordings of the grid; None where nothing is kept.
        tell: told of a look that cannot be drawn.

    Attributes:
        state: how it is now.
        last: the grid as it was last shown.
        stale: whether the cells are to be drawn anew.
    """

    def __init__(
        self,
        view: ViewOptions,
        *,
        hud: bool,
        classes: Sequence[str] = (),
        segmenter: Segmenter | None = None,
        window: Window | None = None,
        keeping: Keeping | None = None,
        tell: Callable[[RtsegError], None] = lambda error: None,
    ) -> None:
        refine = segmenter is not None and segmenter.refine
        self.state = LiveState(Look(view, refine=refine), hud=hud)
        self._segmenter = segmenter
        self.window, self.keeping = window, keeping
        self.last: Rendered | None = None
        self.stale = False
        self._tell = tell
        self._classes = classes
        self._backgrounds = tuple(dict.fromkeys((*BACKGROUNDS, view.background)))

    def effect(self, open_view: OpenView) -> LiveEffect:
        """Draws by what is chosen at the moment; one for each source."""
        return LiveEffect(
            lambda: self.state.look,
            lambda view, labels, network: open_view(view, labels),
            self._refused,
        )

    def press(self, name: str) -> None:
        """Do what a key means; nothing for those that are for one source."""
        key = find_key(name)
        action = None if key is None else getattr(self, key.action, None)
        if action is not None:
            action(*([int(name)] if action == self.solo_number else []))

    def quit(self) -> None:
        """Close the window."""
        if self.window is not None:
            self.window.quit()

    def pause(self) -> None:
        """Let all pictures stand still, or go on."""
        self.state = self.state.pause()

    def step(self) -> None:
        """Let each source show one frame more, and stand still."""
        self.state = self.state.step()

    def full_screen(self) -> None:
        """Fill the screen, or stop doing so."""
        self.state = replace(self.state, full_screen=not self.state.full_screen)
        if self.window is not None:
            self.window.fill_screen(self.state.full_screen)

    def help(self) -> None:
        """List the keys, or do not."""
        self.state = replace(self.state, help=not self.state.help)

    def screenshot(self) -> None:
        """Write the grid as it was last shown."""
        if self.keeping is not None and self.last is not None:
            self.keeping.screenshot(self.last, None)

    def record(self) -> None:
        """Record the grid from now on, or finish the file."""
        if self.keeping is not None:
            self.keeping.record(transparent=False)

    def turn(self) -> None:
        """Between pictures: tell of files that are finished."""
        if self.keeping is not None:
            self.keeping.turn()

    def hud(self) -> None:
        """Show the figures of all cells, or hide them."""
        self._become(replace(self.state, hud=not self.state.hud))

    def legend(self) -> None:
        """Name the classes, or do not."""
        self._become(self.state.viewed(legend=not self.state.view.legend))

    def next_view(self) -> None:
        """The view after this one."""
        self._become(self.state.next_view())

    def contours(self) -> None:
        """Contours, or back to what was before them."""
        self._become(self.state.contours())

    def more_opacity(self) -> None:
        """Heavier colours."""
        self._become(self.state.opaque(1))

    def less_opacity(self) -> None:
        """Lighter colours."""
        self._become(self.state.opaque(-1))

    def edges(self) -> None:
        """Edges of masks that follow the pictures, in what is written too, or the network's own."""
        self._become(self.state.with_edges())
        if self._segmenter is not None:
            self._segmenter.refine = self.state.look.refine

    def next_background(self) -> None:
        """The background after this one."""
        chosen = after(self.state.view.background, self._backgrounds)
        self._become(self.state.with_background(chosen))

    def solo_number(self, number: int) -> None:
        """Show one class alone in all cells, the n-th of those looked for; again, all of them."""
        if number <= len(self._classes):
            self._become(self.state.alone(self._classes[number - 1]))

    def _become(self, state: LiveState) -> None:
        self.state, self.stale = state, True

    def _refused(self, error: RtsegError, instead: Look) -> None:
        self._become(replace(self.state, look=instead))
        self._tell(error)


def keys_in_words(
    shown: Sequence[str] = ("q", "space", "Tab", "c", "b", "1-9", "f", "s", "r", "h"),
) -> str:
    """What to press, for the start of a run: "q: quit; Tab: next view"."""
    return "; ".join(f"{name}: {key.help}" for name in shown if (key := find_key(_typed(name))))


def _typed(name: str) -> str:
    return {"Tab": "\t", "1-9": "1", "space": " "}.get(name, name)


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
