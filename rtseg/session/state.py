"""What a person at the window has chosen, and the messages shown there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

from rtseg.effects import VIEWS, ViewOptions
from rtseg.stats import Clock

OPACITY_STEP = 0.1

Hud = Literal["line", "all", "none"]
"""How many figures are shown over the image: one line, everything, nothing."""

HUDS: tuple[Hud, ...] = ("line", "all", "none")

T = TypeVar("T")


class Appearance(NamedTuple):
    """Everything that decides how a frame is drawn.

    Attributes:
        view: the view and its options.
        solo: the only class shown; None shows all that were asked for.
        model: name of the model.
        refine: whether mask edges are refined from image colours.
    """

    view: ViewOptions
    solo: str | None = None
    model: str = ""
    refine: bool = False


@dataclass(frozen=True)
class ViewState:
    """What is shown, and how; actions replace it.

    Attributes:
        appearance: how frames are drawn.
        hud: the figures over the window's image.
        help: whether the keys are listed over it.
        paused: whether it stands still.
        steps: frames still to be shown although it is paused.
        full_screen: whether it fills the screen.
        former_view: the view that `c` returns to.
    """

    appearance: Appearance
    hud: Hud = "none"
    help: bool = False
    paused: bool = False
    steps: int = 0
    full_screen: bool = False
    former_view: str = "overlay"

    @property
    def view(self) -> ViewOptions:
        """The view and its options."""
        return self.appearance.view

    def viewed(self, **changes: object) -> ViewState:
        """With other values of `ViewOptions`."""
        view = replace(self.view, **changes)  # type: ignore[arg-type]  # its own names and types
        return self._drawn(view=view)

    @property
    def rests(self) -> bool:
        """Whether it is paused and no step is due."""
        return self.paused and not self.steps

    def pause(self) -> ViewState:
        """Paused, or running again."""
        return replace(self, paused=not self.paused, steps=0)

    def step(self) -> ViewState:
        """Paused after one frame more."""
        return replace(self, paused=True, steps=self.steps + 1)

    def stepped(self) -> ViewState:
        """With one due step less, if any was."""
        return replace(self, steps=self.steps - 1) if self.steps else self

    def with_view(self, name: str) -> ViewState:
        """With another view of `VIEWS`; `c` returns to the one before."""
        former = self.view.view if self.view.view != "contours" else self.former_view
        return replace(self.viewed(view=name), former_view=former)

    def next_view(self) -> ViewState:
        """With the view after this one."""
        return self.with_view(after(self.view.view, list(VIEWS)))

    def contours(self) -> ViewState:
        """With contours, or the view before them."""
        return self.with_view(self.former_view if self.view.view == "contours" else "contours")

    def with_background(self, value: str) -> ViewState:
        """With another background; a plain overlay becomes a cut-out, and returns without one."""
        changed = self.viewed(background=value)
        if value == "none":
            back = self.view.view == "cutout" and self.former_view == "overlay"
            return changed.with_view("overlay") if back else changed
        tinted = self.view.background == "none" and self.view.view == "overlay"
        return changed.with_view("cutout") if tinted else changed

    def opaque(self, steps: int) -> ViewState:
        """With colours this many steps heavier, or lighter if negative, within 0 to 1."""
        alpha = self.view.alpha + steps * OPACITY_STEP
        return self.viewed(alpha=round(min(1.0, max(0.0, alpha)), 2))

    def with_edges(self) -> ViewState:
        """With refined edges, or the network's own."""
        return self._drawn(refine=not self.appearance.refine)

    def with_model(self, name: str) -> ViewState:
        """With another model and all of its classes."""
        return self._drawn(model=name, solo=None)

    def alone(self, name: str | None) -> ViewState:
        """With one class alone; with all for None, or if it was alone before."""
        return self._drawn(solo=None if self.appearance.solo == name else name)

    def next_hud(self) -> ViewState:
        """With one line of figures, everything, nothing."""
        return replace(self, hud=after(self.hud, HUDS))

    def _drawn(self, **changes: object) -> ViewState:
        return replace(self, appearance=self.appearance._replace(**changes))  # type: ignore[arg-type]


def after(current: T, values: Sequence[T]) -> T:
    """The value after `current`, or the first: after the last, or if it is not among them."""
    if current not in values:
        return values[0]
    return values[(values.index(current) + 1) % len(values)]


NOTICE_SECONDS = 2.5
WARNING_SECONDS = 6.0
"""Warnings stay longer: they are longer, and nobody expects them."""

Log = Callable[[str, str], None]
"""Receives a heading ("wrote", "warning") and a line."""


class Notices:
    """The message on the image, for as long as it is shown.

    Args:
        log: receives messages that should remain after the window closes.
    """

    def __init__(self, clock: Clock, log: Log = lambda heading, text: None) -> None:
        self._clock, self._log = clock, log
        self._text, self._until = "", 0.0

    def show(self, text: str, seconds: float = NOTICE_SECONDS) -> None:
        """Show a message on the image only."""
        self._text, self._until = text, self._clock.now() + seconds

    def wrote(self, text: str) -> None:
        """Report a written file, on the image and in the log."""
        self.show(f"wrote {text}")
        self._log("wrote", text)

    def warn(self, text: str) -> None:
        """Report a problem, on the image and in the log."""
        self.show(f"!{text}", WARNING_SECONDS)
        self._log("warning", text)

    @property
    def text(self) -> str:
        """The message shown now, after a `!` if it is a warning; "" for none."""
        return self._text if self._clock.now() < self._until else ""
