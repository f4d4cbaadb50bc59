"""What a run of several sources has with a window: the keys, what they keep, and the grid."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from rtseg.cli.grid_open import Opened, Together
from rtseg.cli.grid_plan import GridPlan
from rtseg.cli.options import Flags
from rtseg.cli.report import teller
from rtseg.effects import open_effect
from rtseg.live.aside import Aside
from rtseg.live.keeping import Keeping
from rtseg.live.notices import Notices
from rtseg.many.glass import GridGlass
from rtseg.many.layout import Layout
from rtseg.session.desk import HINT, HINT_SECONDS
from rtseg.session.grid import Grid
from rtseg.session.grid_controls import Hands
from rtseg.session.recording import Recorder
from rtseg.sinks import SinkOptions
from rtseg.sinks.window import WindowEvents, WindowSink


def hands_of(
    opened: Opened, flags: Flags, plan: GridPlan, whole: Together, stack: ExitStack
) -> Hands:
    """The keys of the window, if there is one, and what they keep of the grid."""
    view = replace(plan.common.view, hud=False)
    window = opened.screens[0] if opened.screens else None
    if not isinstance(window, WindowSink):
        return Hands(view, hud=plan.hud, segmenter=opened.segmenter)
    seen = opened.segmenter
    classes = [seen.labels.names[n] for n in sorted(seen.labels.sought(seen.selected))]
    folder, aside = plan.common.screenshots, Aside()
    notices = Notices(whole.clock, teller(quiet=flags.run.quiet))
    opened.recorder = Recorder(whole, seen.labels, folder, SinkOptions(), aside=aside)
    stack.enter_context(opened.recorder)
    hands = Hands(
        view,
        hud=plan.hud,
        classes=classes,
        segmenter=seen,
        window=window,
        keeping=Keeping(opened.recorder, aside, notices, folder),
        tell=lambda error: notices.warn(str(error)),
    )
    glass = GridGlass(hands, notices)
    window.events = WindowEvents(key=hands.press, glass=glass.write, stale=glass.stale)
    notices.say(HINT, HINT_SECONDS)
    return hands


def grid_of(opened: Opened, layout: Layout, hands: Hands) -> Grid:
    """The grid, each source drawn by an effect of its own, without the figures of one source."""
    labels = opened.segmenter.labels
    effects = [hands.effect(partial(open_effect, stats=feed.stats)) for feed in opened.feeds]
    for effect in effects:
        effect.open(labels)
    return Grid(opened.feeds, effects, layout, labels, hud=hands.state.hud)
