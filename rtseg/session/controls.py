"""What a person at the window can do: every action is a method, which needs no window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Rendered
from rtseg.decode import cell_at
from rtseg.errors import RtsegError
from rtseg.matte.refine import with_edges
from rtseg.segmentation import Segmentation
from rtseg.session.keys import find_key
from rtseg.session.loop import Control
from rtseg.session.models import Arrived, Networks, Switch
from rtseg.session.recording import Keeping
from rtseg.session.state import LiveState, Look, Notices, after
from rtseg.stats import Clock


class Window(Protocol):
    """What the controls need of a window."""

    def quit(self) -> None:
        """Close it."""

    def fill_screen(self, full: bool) -> None:
        """Fill the screen, or stop doing so."""

    def write(self, rendered: Rendered) -> None:
        """Show one picture."""


Point = tuple[float, float]
"""(x, y), each 0..1: from the left and from the top of the finished picture."""

HOVER_SECONDS = 5.0


class Pointer:
    """Where a person points; one that has not moved for a while is not asking."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._since = clock, 0.0
        self._at: Point | None = None

    def move(self, at: Point | None) -> None:
        """It is there now; None is beside the picture."""
        self._at, self._since = at, self._clock.now()

    @property
    def asks(self) -> Point | None:
        """Where it is, if it moved of late."""
        return self._at if self._clock.now() - self._since < HOVER_SECONDS else None


class Found(NamedTuple):
    """A class, and how probable it is at a point, 0..1."""

    name: str
    number: int
    probability: float


def class_at(segmentation: Segmentation, x: int, y: int) -> Found:
    """The most probable of all classes at a pixel, whether it is drawn or not.

    The probability is the one that `Segmentation.probability` has there.

    Args:
        x, y: column and row of the frame.
    """
    corners, weights = cell_at(
        segmentation.scores, segmentation.size, x, y, align_corners=segmentation.align_corners
    )
    scores = (corners * weights).sum((1, 2))
    index = int(scores.argmax())
    if segmentation.kind == "probabilities":
        probability = float(np.clip(scores[index], 0, 1))
    else:
        margin = float((_margins(corners, index) * weights).sum())
        probability = 0.5 * (1 + float(np.tanh(0.5 * margin)))
    return Found(segmentation.labels.names[index], index, probability)


def class_under(rendered: Rendered, at: Point) -> Found:
    """The most probable class under a point of a finished picture."""
    column, row = pixel_at(at, rendered.image.shape[:2], rendered.frame.size)
    return class_at(rendered.segmentation, column, row)


def pixel_at(point: Point, picture: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """(column, row) of the frame that lies under a point of the finished picture.

    A picture that is as high as the frame and several times as wide shows it several times, side
    by side; any other shows it whole.

    Args:
        picture, frame: (height, width).
    """
    (height, width), (x, y) = frame, point
    times = picture[1] // width if picture[0] == height and picture[1] % width == 0 else 1
    column, row = int((x * times % 1.0) * width), int(y * height)
    return min(max(column, 0), width - 1), min(max(row, 0), height - 1)


def _margins(corners: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """(2, 2) logits of one class against all others together."""
    others = np.delete(corners, index, axis=0)
    top = others.max(0)
    rest = top + np.log(np.exp(others - top).sum(0))
    return np.asarray(corners[index] - rest, np.float32)


class Controls(Control):
    """The actions of a live run, and what came of them.

    Args:
        state: how it begins.
        clock: of the run.
        segmenter: whose network `m` replaces.
        networks: those that `m` goes through.
        keeping: writes screenshots and recordings.
        backgrounds: values of `ViewOptions.background` that `b` goes through.

    Attributes:
        state: how it is now.
        notices: what is said on the picture.
        ended: whether a person wants it to end.
        window: what shows it, if anything does.
        last: the last frame that was shown.
    """

    def __init__(
        self,
        state: LiveState,
        *,
        clock: Clock,
        segmenter: Switch,
        networks: Networks,
        keeping: Keeping,
        notices: Notices,
        backgrounds: Sequence[str] = ("none",),
    ) -> None:
        self.state, self.segmenter, self.networks = state, segmenter, networks
        self.keeping, self.notices = keeping, notices
        self.pointer = Pointer(clock)
        self.ended = False
        self.window: Window | None = None
        self.last: Rendered | None = None
        self._backgrounds = backgrounds
        self._hud_in_picture = state.view.hud

    def look(self) -> Look:
        """What is to be drawn now."""
        return self.state.look

    def rests(self) -> bool:
        """Whether it is paused, and no step is due."""
        return self.state.rests

    def shows(self, rendered: Rendered) -> None:
        """One more frame is shown now."""
        self.last = rendered
        self.state = self.state.stepped()

    def turn(self) -> None:
        """Between frames: tell of files that are finished, put a loaded network into its place."""
        self.keeping.turn()
        name = self.networks.coming or ""
        try:
            if (found := self.networks.arrived()) is not None:
                self.segmenter.replace_by(found.segmenter)
                self._now_runs(name, found)
        except RtsegError as error:
            self.notices.warn(f"{self.segmenter.spec.name} goes on, {name} cannot run: {error}")

    def close(self) -> bool:
        """End what runs beside the loop; False where something had to be left behind."""
        return self.networks.close()

    def press(self, name: str) -> None:
        """Do what a key means; `name` is the window's for it."""
        key = find_key(name)
        if key is None:
            called = repr(name) if len(name) == 1 and name.isprintable() else "that key"
            self.notices.say(f"{called} does nothing; h lists the keys")
            return
        try:
            getattr(self, key.action)(*([int(name)] if key.action == "solo_number" else []))
        except RtsegError as error:
            self.notices.warn(str(error))

    def quit(self) -> None:
        """End the run."""
        self.ended = True
        if self.window is not None:
            self.window.quit()

    def pause(self) -> None:
        """Let the picture stand still, or go on."""
        self.state = self.state.pause()

    def step(self) -> None:
        """Show one frame more, and stand still; of a live source the newest."""
        self.state = self.state.step()

    def next_view(self) -> None:
        """The next of the views."""
        self._show(self.state.next_view())

    def contours(self) -> None:
        """Contours, or back."""
        self._show(self.state.contours())

    def more_opacity(self) -> None:
        """More of the classes' colours."""
        self._show(self.state.opaque(1))

    def less_opacity(self) -> None:
        """More of the picture."""
        self._show(self.state.opaque(-1))

    def edges(self) -> None:
        """Let the edges of masks follow the picture's, in what is written too, or not."""
        self.state = self.state.with_edges()
        self.segmenter.refine = refine = self.state.look.refine
        if (last := self.last) is not None:
            seen = with_edges(last.segmentation, last.frame.picture, refine=refine)
            self.last = replace(last, segmentation=seen)
        self.notices.say(f"edges: {'refined' if refine else 'exact'}")

    def legend(self) -> None:
        """Name the classes in view, or not."""
        self.state = self.state.viewed(legend=not self.state.view.legend)

    def hud(self) -> None:
        """Show the figures of the run, or not."""
        if self._hud_in_picture:
            self.state = self.state.viewed(hud=not self.state.view.hud)
        else:
            self.state = replace(self.state, hud=not self.state.hud)

    def help(self) -> None:
        """List the keys over the picture, or not."""
        self.state = replace(self.state, help=not self.state.help)

    def full_screen(self) -> None:
        """Fill the screen, or stop doing so."""
        self.state = replace(self.state, full_screen=not self.state.full_screen)
        if self.window is not None:
            self.window.fill_screen(self.state.full_screen)

    def next_background(self) -> None:
        """The next of the backgrounds."""
        value = after(self.state.view.background, self._backgrounds)
        self.state = self.state.with_background(value)
        self.notices.say(f"background: {value}")

    def next_network(self) -> None:
        """Load the next network; it takes over once it is ready."""
        names = self.networks.names
        if self.networks.coming:
            self.notices.say(f"{self.networks.coming} is still being loaded")
        elif len(names) < 2:
            self.notices.say("no other network is here; name some with --models a,b,c")
        else:
            frame = self.last.frame if self.last is not None else None
            self.networks.start(after(self.networks.present, names), frame)

    def solo_number(self, number: int) -> None:
        """Show one class alone, the n-th of those looked for; again, all of them."""
        labels = self.segmenter.labels
        sought = sorted(labels.sought(self.segmenter.selected))
        if number > len(sought):
            self.notices.say(f"no class {number}: there are {labels.listed(sought)}")
            return
        self.solo(labels.names[sought[number - 1]])

    def solo(self, name: str | None) -> None:
        """Show one class alone; None, or the one that is alone, shows all."""
        self.state = self.state.alone(name)
        alone = self.state.look.solo
        if alone is None:  # else it is said for as long as it lasts
            self.notices.say("all classes")

    def screenshot(self) -> None:
        """Write the frame that is shown as picture, mask and overlay."""
        if self.last is None:
            self.notices.say("there is no picture yet")
            return
        rendered = replace(self.last)  # drawn anew, by the present look
        self.keeping.screenshot(rendered, self.state.view.view)

    def record(self) -> None:
        """Start to record, or finish the file."""
        self.keeping.record(transparent=self.state.view.background == "transparent")

    def point(self, at: Point | None) -> None:
        """The pointer is there, over the picture that is shown; None is beside it."""
        self.pointer.move(at)

    def click(self, at: Point) -> None:
        """Show the class under the pointer alone; its background, or the same again, shows all."""
        if self.last is not None:
            found = class_under(self.last, at)
            background = found.number == self.segmenter.labels.background
            self.solo(None if background else found.name)

    def pointed(self) -> tuple[Point, Found] | None:
        """Where the pointer is, and what lies there; None when it is not asking."""
        at = self.pointer.asks
        return None if at is None or self.last is None else (at, class_under(self.last, at))

    def refused(self, error: RtsegError, instead: Look) -> None:
        """A look cannot be drawn; the one that can is kept."""
        self.state = replace(self.state, look=instead)
        self.notices.warn(str(error))

    def _show(self, state: LiveState) -> None:
        self.state = state
        self.notices.say(f"{state.view.view}, opacity {state.view.alpha:.1f}")

    def _now_runs(self, name: str, found: Arrived) -> None:
        self.state = self.state.with_network(name)
        info = found.segmenter.info
        self.notices.say(f"network: {name} ({info.name} on {info.device})")
        last = self.last
        if last is not None and last.frame is found.frame and found.segmentation is not None:
            self.last = replace(last, segmentation=found.segmentation)  # it stands still
            if self.window is not None:
                self.window.write(self.last)
