"""What lies over the window's picture and nowhere else: figures, notices, help, the class at hand.

It is written in the window's own pixels, so that letters are sharp at any size, and neither
recordings nor other outputs have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rtseg.contracts import Rendered
from rtseg.draw import panel, text_size
from rtseg.effects.finish import percent
from rtseg.frame import Image
from rtseg.live.effect import LiveEffect
from rtseg.live.point import Found, Point
from rtseg.segmentation import Segmentation
from rtseg.session import keys
from rtseg.session.controls import Controls
from rtseg.session.recording import Recorder

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
