"""What lies over the window's picture and nowhere else: figures, notices, help, the class at hand.

It is written in the window's own pixels, so that letters are sharp at any size, and neither
recordings nor other outputs have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

from rtseg.contracts import Effect, Rendered, Source
from rtseg.draw import panel, text_size
from rtseg.effects import ViewOptions
from rtseg.effects.hud import percent
from rtseg.errors import RtsegError
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.matte.refine import with_edges
from rtseg.segmentation import Segmentation
from rtseg.session import keys
from rtseg.session.controls import Controls, Found, Point
from rtseg.session.recording import Recorder
from rtseg.session.state import Look
from rtseg.stats import Stats

LATE_SECONDS = 0.15
"""A picture older than this is seen to be late."""

FEW_A_SECOND = 2.0
"""Frames that may be left out without a word."""

BUSY_STAGES = {
    "infer": "the network",
    "preprocess": "preparing the picture",
    "draw": "drawing",
    "write": "showing and writing",
    "decode": "decoding the mask",
    "smooth": "smoothing",
}
"""What each stage is to a person; the largest of them is what a late picture waited for."""


class Captions:
    """Looks at the figures of a run now and then, and says what they mean.

    Args:
        interval: seconds over which drops are looked at.
    """

    def __init__(self, source: Source, stats: Stats, interval: float = 2.0) -> None:
        self._source, self._stats, self._interval = source, stats, interval
        self._next = 0.0
        self._before: dict[str, int] = {}
        self._dropping: dict[str, int] = {}

    def lines(self) -> list[str]:
        """None, one or two sentences for `draw.panel`; only of live sources, whose age counts."""
        if not self._source.info.live:
            return []
        self._look()
        return [line for line in (self._late(), self._dropped()) if line]

    def _look(self) -> None:
        now = self._stats.clock.now()
        if now < self._next:
            return
        self._next = now + self._interval
        counts = dict(self._stats.dropped_by)
        self._dropping = {c: n - self._before.get(c, 0) for c, n in counts.items()}
        self._before = counts

    def _late(self) -> str:
        recent = self._stats.recent
        age = recent.get("age", 0.0)
        if age < LATE_SECONDS:
            return ""
        slowest = max(BUSY_STAGES, key=lambda stage: recent.get(stage, 0.0))
        takes = recent.get(slowest, 0.0)
        return f"late by {_ms(age)}: {BUSY_STAGES[slowest]} takes {_ms(takes)}"

    def _dropped(self) -> str:
        """What most frames were lost to of late; few are no news."""
        cause = max(self._dropping, key=lambda each: self._dropping[each], default="")
        rate = self._dropping.get(cause, 0) / self._interval
        if rate < FEW_A_SECOND or cause not in REASONS:
            return ""
        return f"{rate:.0f} frames a second left out: {REASONS[cause](self._stats)}"


def _network(stats: Stats) -> str:
    return f"the network manages {stats.fps_now:.0f} a second"


REASONS: dict[str, Callable[[Stats], str]] = {
    "capture": _network,
    "display": lambda stats: "drawing, showing and writing take too long",
    "camera": lambda stats: "the camera skips them",
}
"""Why frames are lost, by the cause that `Stats` counts them under."""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


Open = Callable[[ViewOptions, LabelSet, str], Effect]
"""Opens the effect for a view, and a network's classes and name; raises RtsegError."""


class LiveEffect:
    """Draws the look that `look` gives, opening the view it needs; keeps to the last that worked,
    and to the plain overlay where that fails too.

    Args:
        refused: told of a look that cannot be drawn, with the one that is drawn instead.

    Attributes:
        drawn: the look of the last picture.
    """

    def __init__(
        self,
        look: Callable[[], Look],
        open_view: Open,
        refused: Callable[[RtsegError, Look], None],
    ) -> None:
        self.drawn: Look = look()
        self._look, self._refused = look, refused
        # two: pictures of the last network are still on their way when the next one draws
        self._opened = lru_cache(maxsize=2)(open_view)

    def open(self, labels: LabelSet) -> None:
        """Open the view that is drawn first, so that no frame waits for it.

        Raises:
            RtsegError: it cannot be drawn.
        """
        self._opened(self.drawn.view, labels, self.drawn.network)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H', W', 3) uint8 BGR."""
        look = self._look()
        try:
            image = self._draw(look, frame, segmentation)
        except RtsegError as error:
            instead = self.drawn if look != self.drawn else plain(look)
            if instead == look:
                raise
            self._refused(error, instead)
            look, image = instead, self._draw(instead, frame, segmentation)
        self.drawn = look
        return image

    def _draw(self, look: Look, frame: Frame, segmentation: Segmentation) -> Image:
        effect = self._opened(look.view, segmentation.labels, look.network)
        segmentation = with_edges(segmentation, frame.picture, refine=look.refine)
        return effect(frame, alone(segmentation, look.solo))


def plain(look: Look) -> Look:
    """What can be drawn when what was drawn until now no longer can: it needs no file."""
    return look._replace(view=ViewOptions(legend=look.view.legend, hud=look.view.hud))


def alone(segmentation: Segmentation, name: str | None) -> Segmentation:
    """The same scores with one class alone; the same object where there is no such class."""
    labels = segmentation.labels
    if name is None or name not in labels.names:
        return segmentation
    return segmentation.selecting(frozenset({labels.names.index(name)}))


PAUSED = "paused: space goes on, . shows one more"

Lines = Callable[[Segmentation], list[str]]
"""Gives the figures of the run at this moment."""


class Glass:
    """Writes over the pictures of one window, and knows when what it wrote is out of date."""

    def __init__(self, controls: Controls, effect: LiveEffect, figures: Lines) -> None:
        self._controls, self._effect, self._figures = controls, effect, figures
        self._written: tuple[object, ...] = ()

    def write(self, image: Image, rendered: Rendered) -> None:
        """Write over (H, W, 3) uint8 BGR, in place."""
        controls = self._controls
        controls.last = rendered
        self._written = self._words()
        if controls.state.help:
            write_help(image, keys.lines())
        elif controls.state.hud:
            panel(image, self._figures(rendered.segmentation))
        if lines := [*status(controls), *notice(controls)]:
            panel(image, lines, "top right")
        if (pointed := controls.pointed()) is not None and not controls.state.help:
            write_label(image, *pointed)

    def stale(self) -> Literal["", "glass", "picture"]:
        """What has changed since the last picture, apart from the figures."""
        if self._controls.look() != self._effect.drawn:
            return "picture"
        return "glass" if self._words() != self._written else ""

    def _words(self) -> tuple[object, ...]:
        controls = self._controls
        state = controls.state
        lines = (*status(controls), *notice(controls))
        return (state.hud, state.help, lines, controls.pointed())


def status(controls: Controls) -> list[str]:
    """What lasts: paused, recording, loading, a class alone."""
    solo = controls.state.look.solo
    return [
        *([PAUSED] if controls.state.paused else []),
        *recording(controls.keeping.recorder),
        *([f"loading {controls.networks.coming} ..."] if controls.networks.coming else []),
        *([f"only {solo}"] if solo else []),
    ]


def recording(recorder: Recorder) -> list[str]:
    """How long it has been recording, if it has."""
    minutes, seconds = divmod(int(recorder.seconds), 60)
    return [f"!recording {minutes}:{seconds:02}"] if recorder.recording else []


def notice(controls: Controls) -> list[str]:
    """What is said for a moment."""
    return [controls.notices.text] if controls.notices.text else []


def write_help(image: Image, pressed: Sequence[tuple[str, str]]) -> None:
    """List keys in the middle of a picture, in two columns where one is too high.

    Args:
        pressed: what to press, and what it does.
    """
    lines = [f"{told}\t{shown}" for shown, told in pressed]
    if (len(lines) + 2) * 1.4 * text_size(image) > image.shape[0]:
        half = -(-len(lines) // 2)
        right = [*lines[half:], *["\t"] * (2 * half - len(lines))]
        lines = [f"{a}\t{b}" for a, b in zip(lines[:half], right, strict=True)]
    panel(image, lines, "centre")


def write_label(image: Image, at: Point, found: Found) -> None:
    """Name a class beside a point of the picture."""
    height, width = image.shape[:2]
    size = text_size(image)
    text = f"{found.name} {percent(found.probability)}"
    # a part of the picture beside the point, in whose corner the panel lies
    x, y = round(at[0] * width), round(at[1] * height)
    rows = slice(y, y + 5 * size) if y < height / 2 else slice(max(0, y - 5 * size), y)
    columns = slice(x, width) if x < width / 2 else slice(0, x)
    vertical, horizontal = (
        "top" if y < height / 2 else "bottom",
        "left" if x < width / 2 else "right",
    )
    part = image[rows, columns]
    corner: Literal["top left", "top right", "bottom left", "bottom right"]
    corner = f"{vertical} {horizontal}"  # type: ignore[assignment]  # one of the four
    panel(part, [text], corner, scale=size / text_size(part))
