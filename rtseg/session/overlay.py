"""What lies over the window's image and nowhere else: figures, notices, help, the class pointed at.

It is written in the window's own pixels, so that text is sharp at any size, and is not part of
recordings and other outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rtseg.contracts import Rendered, Source
from rtseg.draw import Corner, panel, text_size
from rtseg.effects.hud import hud_line, hud_lines, mark_lines, percent
from rtseg.frame import Image
from rtseg.session import keys
from rtseg.session.controls import Controls
from rtseg.session.engine import Channel
from rtseg.session.pointer import Point, PointedClass
from rtseg.sinks.window import WindowEvents, WindowSink
from rtseg.stats import Stats

PAUSED = "paused: space resumes, . shows one more"

HINT = "h: keys"
HINT_SECONDS = 4.0

LATE_SECONDS = 0.15
"""Older images are visibly late."""

FEW_A_SECOND = 2.0
"""Drops below this rate are not mentioned."""

DROPS_SECONDS = 2.0
"""Over which drops are counted, at least: until the next image that has figures."""

BUSY_STAGES = {
    "infer": "the model",
    "preprocess": "preparing the image",
    "draw": "drawing",
    "write": "showing and writing",
    "decode": "decoding the mask",
    "smooth": "smoothing",
    "follow": "following the image",
    "carry": "propagating the mask",
}
"""Stages in words; a late image waited for the slowest of them."""

BESIDE = {"infer", "preprocess"}
"""Those for which no frame waits where the model sees keyframes only."""


class Captions:
    """Explains the figures of a run: why images are late or frames are dropped."""

    def __init__(self, source: Source, stats: Stats) -> None:
        self._source, self._stats = source, stats
        self._since: float | None = None
        self._before: dict[str, int] = {}
        self._dropping: dict[str, float] = {}

    def lines(self) -> list[str]:
        """Up to two sentences for `draw.panel`; only for live sources, whose age matters."""
        if not self._source.info.live:
            return []
        self._sample()
        return [line for line in (self._late(), self._dropped()) if line]

    def _sample(self) -> None:
        now, counts = self._stats.clock.now(), dict(self._stats.dropped_by)
        if self._since is not None:
            seconds = now - self._since
            if seconds < DROPS_SECONDS:
                return
            self._dropping = {c: (n - self._before.get(c, 0)) / seconds for c, n in counts.items()}
        self._since, self._before = now, counts

    def _late(self) -> str:
        age = self._stats.recent.get("age", 0.0)
        if age < LATE_SECONDS:
            return ""
        return f"late by {_ms(age)}: {_takes(self._stats)}"

    def _dropped(self) -> str:
        """The most frequent of the causes in `REASONS`, unless there are few drops."""
        explained = REASONS.keys() & self._dropping.keys()
        cause = max(explained, key=lambda each: self._dropping[each], default="")
        rate = self._dropping.get(cause, 0.0)
        if rate < FEW_A_SECOND:
            return ""
        return f"{rate:.0f} frames per second dropped: {REASONS[cause](self._stats)}"


def _slowest(stats: Stats) -> str:
    stages = (stage for stage in BUSY_STAGES if not (stats.keyframes and stage in BESIDE))
    return max(stages, key=lambda stage: stats.recent.get(stage, 0.0))


def _takes(stats: Stats) -> str:
    slowest = _slowest(stats)
    return f"{BUSY_STAGES[slowest]} takes {_ms(stats.recent.get(slowest, 0.0))}"


def _busy(stats: Stats) -> str:
    """The model takes the next frame once the last one is shown, so either may be too slow."""
    if _slowest(stats) != "infer":
        return _takes(stats)
    return f"the model manages {stats.fps_now:.0f} fps"


REASONS: dict[str, Callable[[Stats], str]] = {
    "capture": _busy,
    "display": lambda stats: "drawing, showing and writing take too long",
    "camera": lambda stats: "the camera skips them",
    "reading": lambda stats: "reading the recording takes too long",
}
"""Why frames are lost, by the cause that `Stats` counts them under."""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


class Overlay:
    """Writes over the images of one window, and knows when what it wrote is out of date.

    Args:
        channel: whose figures are shown; None for a grid, whose cells have their own.
    """

    def __init__(self, controls: Controls, channel: Channel | None) -> None:
        self._controls, self._channel = controls, channel
        self._captions = None if channel is None else Captions(channel.source, channel.stats)
        self._written: tuple[object, ...] = ()

    def attach(self, window: WindowSink) -> None:
        """Write over a window's images, and give its events to the controls."""
        controls = self._controls
        window.events = WindowEvents(
            controls.press, controls.point, controls.click, self.write, self.stale
        )
        controls.window = window
        controls.notices.show(HINT, HINT_SECONDS)

    def write(self, image: Image, rendered: Rendered) -> None:
        """Write over (H, W, 3) uint8 BGR, in place."""
        controls = self._controls
        controls.last = rendered
        self._written = self._content()
        figures = None
        if controls.state.help:
            write_help(image, keys.lines())
        elif lines := self._figures(rendered):
            figures = panel(image, lines)
        if lines := [*status(controls), *notice(controls)]:
            # the figures of a grid's cells are at their top
            corner: Corner = "top right" if self._channel is not None else "bottom right"
            panel(image, lines, corner, below=figures)
        if (pointed := controls.pointed()) is not None and not controls.state.help:
            write_label(image, *pointed)

    def stale(self) -> Literal["", "overlay", "image"]:
        """What has changed since the last image, apart from the figures."""
        controls = self._controls
        if self._channel is not None and controls.look() != controls.effects[0].drawn:
            return "image"
        return "overlay" if self._content() != self._written else ""

    def _figures(self, rendered: Rendered) -> list[str]:
        if self._channel is None or self._captions is None:
            return []
        stats, source = self._channel.stats, self._channel.source
        network, hud = self._controls.segmenter, self._controls.state.hud
        if hud == "none":
            return []
        if hud == "line":
            return [hud_line(stats, network.info), *self._captions.lines()]
        lines = hud_lines(stats, source, network.info, network.spec.name, network.input_size)
        return [*lines, *mark_lines(stats, rendered.segmentation), *self._captions.lines()]

    def _content(self) -> tuple[object, ...]:
        controls = self._controls
        lines = (*status(controls), *notice(controls))
        return (controls.state.hud, controls.state.help, lines, controls.pointed())


def status(controls: Controls) -> list[str]:
    """What lasts: paused, recording, loading, a class alone."""
    solo, recorder = controls.state.appearance.solo, controls.captures.recorder
    minutes, seconds = divmod(int(recorder.seconds), 60)
    return [
        *([PAUSED] if controls.state.paused else []),
        *([f"!recording {minutes}:{seconds:02}"] if recorder.recording else []),
        *([f"loading {controls.models.loading} ..."] if controls.models.loading else []),
        *([f"only {solo}"] if solo else []),
    ]


def notice(controls: Controls) -> list[str]:
    """The message shown for a moment."""
    return [controls.notices.text] if controls.notices.text else []


def write_help(image: Image, pressed: Sequence[tuple[str, str]]) -> None:
    """List keys in the middle of an image, in two columns if one is too high.

    Args:
        pressed: what to press, and what it does.
    """
    lines = [f"{text}\t{shown}" for shown, text in pressed]
    if (len(lines) + 2) * 1.4 * text_size(image) > image.shape[0]:
        half = -(-len(lines) // 2)
        right = [*lines[half:], *["\t"] * (2 * half - len(lines))]
        lines = [f"{a}\t{b}" for a, b in zip(lines[:half], right, strict=True)]
    panel(image, lines, "centre")


def write_label(image: Image, at: Point, found: PointedClass) -> None:
    """Name a class beside a point of the image."""
    height, width = image.shape[:2]
    size = text_size(image)
    text = f"{found.name} {percent(found.probability)}"
    # the part of the image beside the point, in whose corner the panel lies
    x, y = round(at[0] * width), round(at[1] * height)
    rows = slice(y, y + 5 * size) if y < height / 2 else slice(max(0, y - 5 * size), y)
    columns = slice(x, width) if x < width / 2 else slice(0, x)
    vertical, horizontal = (
        "top" if y < height / 2 else "bottom",
        "left" if x < width / 2 else "right",
    )
    part = image[rows, columns]
    corner: Corner
    corner = f"{vertical} {horizontal}"  # type: ignore[assignment]  # one of the four
    panel(part, [text], corner, scale=size / text_size(part))
