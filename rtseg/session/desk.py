"""A live run's controls, put together and tied to its window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtseg.contracts import Effect, Sink, Source
from rtseg.effects import VIEWS, ViewOptions, open_effect
from rtseg.effects.hud import hud_lines, mark_lines
from rtseg.labels import LabelSet
from rtseg.matte import refine
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.session.controls import Controls
from rtseg.session.models import Load, Networks, Switch
from rtseg.session.overlay import Captions, Glass, LiveEffect
from rtseg.session.recording import Aside, Keeping, Recorder
from rtseg.session.state import LiveState, Look, Notices, Tell
from rtseg.sinks import SinkOptions
from rtseg.sinks.window import WindowEvents, WindowSink
from rtseg.stats import Stats

BACKGROUNDS = ("none", "blur", "#00b140")
"""What `b` goes through, beside what was asked for; the colour is that of a green screen."""

HINT = "h: keys"
HINT_SECONDS = 4.0


@dataclass(frozen=True)
class Desk:
    """All that a live run needs beside its source.

    Attributes:
        controls: what `run` takes as `control`; its `turn` belongs into `on_tick`.
        segmenter: what `run` is given, so that its network can be replaced.
        effect: draws by what was chosen.
        recorder: one of the run's sinks.
    """

    controls: Controls
    segmenter: Switch
    effect: LiveEffect
    recorder: Recorder
    stats: Stats
    source: Source

    def at(self, window: Sink) -> Recorder:
        """Listen to a window, and write over its pictures; gives a sink that belongs after it."""
        assert isinstance(window, WindowSink)
        controls = self.controls
        glass = Glass(controls, self.effect, self._figures())
        window.events = WindowEvents(
            controls.press, controls.point, controls.click, glass.write, glass.stale
        )
        controls.window = window
        controls.notices.say(HINT, HINT_SECONDS)
        return self.recorder

    def turning(self, tick: Callable[[], None]) -> Callable[[], None]:
        """What `run` takes as `on_tick`: the controls' turn, and `tick` unless it is paused."""

        def turn() -> None:
            self.controls.turn()
            if not self.controls.state.paused:
                tick()

        return turn

    def _figures(self) -> Callable[[Segmentation], list[str]]:
        captions = Captions(self.source, self.stats)

        def figures(segmentation: Segmentation) -> list[str]:
            network = self.segmenter
            lines = hud_lines(
                self.stats, self.source, network.info, network.spec.name, network.input_size
            )
            return [*lines, *mark_lines(self.stats, segmentation), *captions.lines()]

        return figures


def open_desk(
    view: ViewOptions,
    source: Source,
    segmenter: Segmenter,
    stats: Stats,
    *,
    names: Sequence[str] = (),
    load: Load | None = None,
    hud: bool = False,
    folder: Path = Path(),
    options: SinkOptions = SinkOptions(),  # noqa: B008 - frozen
    same_labels: bool = False,
    tell: Tell = lambda heading, text: None,
) -> Desk:
    """Put the controls of a live run together.

    Args:
        view: how it begins; with `view.hud` the figures are part of the picture, and of recordings.
        names: networks that `m` goes through; the first one runs.
        load: loads one of them.
        hud: whether the figures are shown over the window at first.
        folder: where screenshots and recordings go.
        options: of recordings.
        same_labels: whether another network needs the same classes.
        tell: takes what shall outlast the picture.

    Raises:
        RtsegError: the view cannot be drawn.
    """
    switch = Switch(segmenter, same_labels=same_labels)
    aside, notices = Aside(), Notices(source.clock, tell)
    recorder = Recorder(source, segmenter.labels, folder, options, aside=aside)
    controls = Controls(
        LiveState(Look(view, refine=segmenter.refine), hud=hud and not view.hud),
        clock=source.clock,
        segmenter=switch,
        networks=Networks(names, load or _no_network),
        keeping=Keeping(recorder, aside, notices, folder),
        notices=notices,
        backgrounds=tuple(dict.fromkeys((*BACKGROUNDS, view.background))),
    )
    effect = LiveEffect(
        controls.look, partial(_open, source=source, stats=stats, switch=switch), controls.refused
    )
    effect.open(segmenter.labels)
    _warm_up(segmenter.labels)
    return Desk(controls, switch, effect, recorder, stats, source)


def _open(
    view: ViewOptions,
    labels: LabelSet,
    network: str,
    *,
    source: Source,
    stats: Stats,
    switch: Switch,
) -> Effect:
    return open_effect(
        view,
        labels,
        stats=stats,
        source=source,
        backend=switch.info,
        model=switch.spec.name,
        imgsz=switch.input_size,
    )


def _warm_up(labels: LabelSet) -> None:
    """Load all that views are drawn with, compiled, before a key asks for one and frames wait."""
    refine.warm_up()
    for name in VIEWS:
        open_effect(ViewOptions(name), labels)
    for background in BACKGROUNDS:
        open_effect(ViewOptions(background=background), labels)


def _no_network(name: str) -> Segmenter:
    raise ValueError(f"nothing loads {name}")
