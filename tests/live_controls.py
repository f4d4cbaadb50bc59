"""A live run without a window: a synthetic source, the stub, and every control within reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rtseg.backends import open_backend
from rtseg.contracts import Rendered, Sink, Source
from rtseg.effects import ViewOptions
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.controls import Controls, open_controls
from rtseg.session.engine import Channel
from rtseg.session.loop import run
from rtseg.sources import open_source
from rtseg.stats import Clock, ManualClock, Report, Stats

MOMENT = datetime(2026, 3, 4, 5, 6, 7)
CLIP = "test://?size=320x240&fps=30&frames=40"
LIVE = "test://?size=320x240&fps=100&live=1"


def stub(name: str = "stub") -> Segmenter:
    return Segmenter(open_backend("stub", find_model(name), input_size=(240, 320)))


@dataclass
class Wall(Sink):
    """Stands for a window: shows nothing, does after each frame what a script says.

    `script` has, by number of frames shown so far, what a person does then.
    """

    desk: Controls | None = None
    script: dict[int, Callable[[Controls], Any]] = field(default_factory=dict)
    on_idle: Callable[[Controls], Any] = lambda desk: None
    shown: list[Rendered] = field(default_factory=list)
    full: bool = False
    open: bool = True

    @property
    def alive(self) -> bool:
        return self.open

    def write(self, rendered: Rendered) -> None:
        _ = rendered.image
        self.shown.append(rendered)
        if (do := self.script.pop(len(self.shown), None)) is not None:
            do(self.desk)

    def idle(self, notice: str | None) -> None:
        self.on_idle(self.desk)

    def quit(self) -> None:
        self.open = False

    def fill_screen(self, full: bool) -> None:
        self.full = full

    @property
    def numbers(self) -> list[int]:
        return [rendered.frame.index for rendered in self.shown]


@dataclass
class Studio:
    """A desk, its wall, and what was said of it."""

    source: Source
    stats: Stats
    desk: Controls
    wall: Wall
    told: list[tuple[str, str]]

    def run(self, **options: Any) -> Report:
        controls, recorder = self.desk, self.desk.captures.recorder
        with recorder:
            report = run(
                self.source, controls.segmenter, controls.effects[0], [self.wall, recorder],
                stats=self.stats, control=controls, on_tick=controls.turn, **options,
            )  # fmt: skip
        assert controls.close()
        return report


def studio(
    folder: Path,
    address: str = CLIP,
    *,
    view: ViewOptions = ViewOptions(),  # noqa: B008
    clock: Clock | None = None,
    **options: Any,
) -> Studio:
    source = open_source(address, clock=clock)
    stats, told = Stats(source.clock), []
    channel = Channel(source, stats=stats)
    desk = open_controls(
        view, [channel], stub(), source.info,
        folder=folder, log=lambda heading, text: told.append((heading, text)), **options,
    )  # fmt: skip
    desk.captures._now = lambda: MOMENT
    desk.captures.recorder._now = lambda: MOMENT
    wall = Wall(desk)
    desk.window = wall
    return Studio(source, stats, desk, wall, told)


def one_frame(folder: Path, clock: ManualClock | None = None, **options: Any) -> Studio:
    """A studio that has shown a single frame."""
    made = studio(folder, "test://?size=320x240&frames=1", clock=clock, **options)
    made.run()
    return made
