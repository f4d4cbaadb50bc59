"""What a person at the window has chosen: a value that actions replace, never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from rtseg.effects import VIEWS, ViewOptions
from rtseg.stats import Clock

OPACITY_STEP = 0.1

T = TypeVar("T")


class Look(NamedTuple):
    """All that a picture depends on, beside its frame.

    Attributes:
        view: what is drawn.
        solo: the one class that is shown; None shows all that were asked for.
        network: which one runs.
        refine: whether the edges of masks follow the picture's.
    """

    view: ViewOptions
    solo: str | None = None
    network: str = ""
    refine: bool = False


@dataclass(frozen=True)
class LiveState:
    """What is shown, and how.

    Attributes:
        look: what is drawn into the picture.
        hud: whether the figures are shown over it.
        help: whether the keys are listed over it.
        paused: whether it stands still.
        steps: how many frames more are due all the same.
        full_screen: whether it fills the screen.
        former_view: what `c` goes back to.
    """

    look: Look
    hud: bool = False
    help: bool = False
    paused: bool = False
    steps: int = 0
    full_screen: bool = False
    former_view: str = "overlay"

    @property
    def view(self) -> ViewOptions:
        """What is drawn."""
        return self.look.view

    def viewed(self, **changes: object) -> LiveState:
        """With other values of `ViewOptions`."""
        view = replace(self.view, **changes)  # type: ignore[arg-type]  # its own names and types
        return replace(self, look=self.look._replace(view=view))

    @property
    def rests(self) -> bool:
        """Whether it is paused, and no step is due."""
        return self.paused and not self.steps

    def pause(self) -> LiveState:
        """Standing still, or going on."""
        return replace(self, paused=not self.paused, steps=0)

    def step(self) -> LiveState:
        """Standing still after one frame more."""
        return replace(self, paused=True, steps=self.steps + 1)

    def stepped(self) -> LiveState:
        """With one frame less that is due, if any was."""
        return replace(self, steps=self.steps - 1) if self.steps else self

    def with_view(self, name: str) -> LiveState:
        """Another view of `VIEWS`; the one until now is what `c` goes back to."""
        former = self.view.view if self.view.view != "contours" else self.former_view
        return replace(self.viewed(view=name), former_view=former)

    def next_view(self) -> LiveState:
        """The view after this one."""
        return self.with_view(after(self.view.view, list(VIEWS)))

    def contours(self) -> LiveState:
        """Contours, or back to what was before them."""
        return self.with_view(self.former_view if self.view.view == "contours" else "contours")

    def with_background(self, value: str) -> LiveState:
        """Another background; the overlay's colours make way for one, and come back without."""
        changed = self.viewed(background=value)
        if value == "none":
            back = self.view.view == "cutout" and self.former_view == "overlay"
            return changed.with_view("overlay") if back else changed
        tinted = self.view.background == "none" and self.view.view == "overlay"
        return changed.with_view("cutout") if tinted else changed

    def opaque(self, steps: int) -> LiveState:
        """The colours heavier or lighter by so many steps, within 0..1."""
        return self.viewed(
            alpha=round(min(1.0, max(0.0, self.view.alpha + steps * OPACITY_STEP)), 2)
        )

    def with_edges(self) -> LiveState:
        """Edges that follow the picture, or the network's own."""
        return replace(self, look=self.look._replace(refine=not self.look.refine))

    def with_network(self, name: str) -> LiveState:
        """Another network; all of its classes."""
        return replace(self, look=self.look._replace(network=name, solo=None))

    def alone(self, name: str | None) -> LiveState:
        """One class alone; all of them for None, or if it was alone before."""
        return replace(self, look=self.look._replace(solo=None if self.look.solo == name else name))


def after(current: T, values: Sequence[T]) -> T:
    """The value after `current`, from the start at the end; the first where it is none of them."""
    if current not in values:
        return values[0]
    return values[(values.index(current) + 1) % len(values)]


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
