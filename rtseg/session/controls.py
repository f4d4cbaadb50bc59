"""What a person at the window can do: every action is a method, which needs no window.

The next model is loaded in the background, and swapped in between two frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from rtseg.contracts import Effect, Rendered, SourceInfo
from rtseg.effects import VIEWS, ViewOptions, open_effect
from rtseg.errors import BackendError, RtsegError, UsageError
from rtseg.frame import Frame, Image, Segmentation
from rtseg.labels import LabelSet
from rtseg.matte import refine
from rtseg.matte.refine import with_edges
from rtseg.segmenter import Segmenter
from rtseg.session.engine import Channel
from rtseg.session.keys import find_key
from rtseg.session.loop import Control
from rtseg.session.pointer import Point, PointedClass, Pointer, class_under
from rtseg.session.recording import BackgroundWorker, Captures, Recorder
from rtseg.session.sharing import SegmenterProxy
from rtseg.session.state import Appearance, Hud, Log, Notices, ViewState, after
from rtseg.sinks import SinkOptions
from rtseg.stats import Clock
from rtseg.system import trim_memory
from rtseg.threads import Flow, Slot

Load = Callable[[str], Segmenter]
"""Loads a model by name, warm, for the frames of this run; raises RtsegError."""


class ReplaceableSegmenter(SegmenterProxy):
    """A segmenter whose network can be replaced while it runs; every frame is all of one.

    A network that was replaced is freed with the last frame that is still in it.

    Args:
        same_labels: whether outputs hold class indices, so that another needs the same classes.

    Attributes:
        target: segments the next frame.
    """

    def __init__(self, first: Segmenter, *, same_labels: bool = False) -> None:
        super().__init__(first)
        self._same_labels = same_labels
        self._lanes = first.backend.lanes

    def replace_by(self, other: Segmenter) -> None:
        """Let another segment the frames from the next one on.

        Raises:
            UsageError: it has other classes where it must not, or takes fewer frames at once.
        """
        if self._same_labels and other.labels.names != self.labels.names:
            raise UsageError("it has other classes", found="masks or JSON lines are being written")
        if other.backend.lanes < self._lanes:
            raise UsageError(f"it does not take {self._lanes} frames at once, as this run does")
        other.refine = self.refine
        self.target = other


class Loaded(NamedTuple):
    """A model that was loaded, and its segmentation of the frame given with the request."""

    segmenter: Segmenter
    frame: Frame | None
    segmentation: Segmentation | None


class ModelLoader:
    """The models that `m` cycles through, and the one being loaded.

    They are loaded one after another in the same thread, so that memory that one gave back is
    there for the next.

    Args:
        names: in order; the first one runs.
        load: called in that thread.

    Attributes:
        present: the one that runs, or was tried last: after a failure `m` goes on to the next.
        loading: the one being loaded.
    """

    def __init__(self, names: Sequence[str], load: Load) -> None:
        self.names = tuple(names)
        self.present = self.names[0] if names else ""
        self.loading: str | None = None
        self._load = load
        self._requests: Slot[tuple[str, Frame | None]] = Slot()
        self._flow: Flow[Loaded | RtsegError] | None = None
        self._results: Iterator[Loaded | RtsegError | None] = iter(())

    def start(self, name: str, frame: Frame | None = None) -> None:
        """Begin to load a model; no other may be loading.

        Args:
            frame: segmented once it is loaded, for an image that stands still.
        """
        self.loading = self.present = name
        if self._flow is None:
            loaded = (self._loaded(*request) for request in self._requests)
            self._flow = Flow(loaded, name="load", interrupt=self._requests.close)
            self._flow.__enter__()
            self._results = self._flow.poll(0.0)
        self._requests.put((name, frame))

    def loaded(self) -> Loaded | None:
        """The model, once, as soon as it is loaded.

        Raises:
            RtsegError: it cannot be loaded, and is no longer loading.
        """
        result = next(self._results, None) if self.loading is not None else None
        if result is None:
            return None
        self.loading = None
        if isinstance(result, RtsegError):
            raise result
        return result

    def close(self) -> bool:
        """Wait a moment for the model being loaded; False if its thread had to be abandoned."""
        flow, self._flow, self.loading = self._flow, None, None
        if flow is None:
            return True
        flow.__exit__(None, None, None)
        return not flow.hung

    def _loaded(self, name: str, frame: Frame | None) -> Loaded | RtsegError:
        try:
            segmenter = self._load(name)
            return Loaded(segmenter, frame, None if frame is None else segmenter(frame.image))
        except RtsegError as error:
            return error
        except (Exception, KeyboardInterrupt) as error:  # whatever a library raises for a file
            return BackendError(f"cannot load {name}", found=str(error))
        finally:
            trim_memory()


BACKGROUNDS = ("none", "blur", "#00b140")
"""What `b` cycles through, beside what was asked for; the colour is that of a green screen."""

Locate = Callable[[Point], "tuple[Rendered, Point] | None"]
"""Finds what lies at a point of a grid: a frame, and the point in its image."""


class Window(Protocol):
    """What the controls need of a window."""

    def quit(self) -> None:
        """Close it."""

    def fill_screen(self, full: bool) -> None:
        """Fill the screen, or stop doing so."""

    def write(self, rendered: Rendered) -> None:
        """Show one image."""


class Controls(Control):
    """The actions of a person at the window, for one source or a grid of several.

    Args:
        state: how it begins.
        clock: of the run.
        segmenter: whose model `m` replaces.
        models: those that `m` cycles through.
        captures: writes screenshots and recordings.
        backgrounds: values of `ViewOptions.background` that `b` cycles through.

    Attributes:
        state: how it is now.
        notices: the message on the image.
        ended: whether a person wants it to end.
        window: shows it, if anything does.
        locate: of a grid; None where the window shows one source.
        last: what the window showed last.
    """

    def __init__(
        self,
        state: ViewState,
        *,
        clock: Clock,
        segmenter: ReplaceableSegmenter,
        models: ModelLoader,
        captures: Captures,
        notices: Notices,
        backgrounds: Sequence[str] = ("none",),
    ) -> None:
        self.state, self.segmenter, self.models = state, segmenter, models
        self.captures, self.notices = captures, notices
        self.pointer = Pointer(clock)
        self.ended = False
        self.window: Window | None = None
        self.locate: Locate | None = None
        self.last: Rendered | None = None
        self.effects: list[LiveEffect] = []
        self._backgrounds = backgrounds
        self._hud_in_image = state.view.hud

    @property
    def steps(self) -> int:  # type: ignore[override]  # read-only
        """Frames still to be shown although it is paused."""
        return self.state.steps

    def look(self) -> Appearance:
        """How frames are to be drawn now."""
        return self.state.appearance

    def rests(self) -> bool:
        """Whether it is paused, and no step is due."""
        return self.state.rests

    def stepped(self) -> None:
        """A step is over."""
        self.state = self.state.stepped()

    def shows(self, rendered: Rendered) -> None:
        """One more frame is shown now."""
        self.last = rendered

    def turn(self) -> None:
        """Between frames: report finished files, and swap in a model that was loaded."""
        self.captures.turn()
        name = self.models.loading or ""
        try:
            if (loaded := self.models.loaded()) is not None:
                self.segmenter.replace_by(loaded.segmenter)
                self._now_runs(name, loaded)
        except RtsegError as error:
            running = self.segmenter.spec.name
            self.notices.warn(f"{name} cannot run, {running} stays: {error}")

    def close(self) -> bool:
        """End what runs beside the loop; False if a thread had to be abandoned."""
        return self.models.close()

    def press(self, name: str) -> None:
        """Do what a key means; `name` is the window's for it."""
        key = find_key(name)
        if key is None:
            called = repr(name) if len(name) == 1 and name.isprintable() else "that key"
            self.notices.show(f"{called} does nothing; press h for the keys")
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
        """Pause, or resume."""
        self.state = self.state.pause()

    def step(self) -> None:
        """Show one frame more of each source, and pause; of a live source the newest."""
        self.state = self.state.step()

    def next_view(self) -> None:
        """Show the next view."""
        self._show(self.state.next_view())

    def contours(self) -> None:
        """Show contours, or the view before them."""
        self._show(self.state.contours())

    def more_opacity(self) -> None:
        """Show more of the class colours."""
        self._show(self.state.opaque(1))

    def less_opacity(self) -> None:
        """Show more of the image."""
        self._show(self.state.opaque(-1))

    def edges(self) -> None:
        """Refine mask edges from image colours, in outputs too, or stop doing so."""
        self.state = self.state.with_edges()
        self.segmenter.refine = refined = self.state.appearance.refine
        self.notices.show(f"edges: {'refined' if refined else 'exact'}")

    def legend(self) -> None:
        """Name the classes in view, or stop doing so."""
        self.state = self.state.viewed(legend=not self.state.view.legend)

    def hud(self) -> None:
        """Show one line of figures, everything, nothing; figures in the image go on and off."""
        if self._hud_in_image:
            self.state = self.state.viewed(hud=not self.state.view.hud)
        else:
            self.state = self.state.next_hud()

    def help(self) -> None:
        """List the keys over the image, or stop doing so."""
        self.state = replace(self.state, help=not self.state.help)

    def full_screen(self) -> None:
        """Fill the screen, or stop doing so."""
        self.state = replace(self.state, full_screen=not self.state.full_screen)
        if self.window is not None:
            self.window.fill_screen(self.state.full_screen)

    def next_background(self) -> None:
        """Show the next background."""
        value = after(self.state.view.background, self._backgrounds)
        self.state = self.state.with_background(value)
        self.notices.show(f"background: {value}")

    def next_model(self) -> None:
        """Load the next model; it takes over once it is ready."""
        names = self.models.names
        if self.models.loading:
            self.notices.show(f"{self.models.loading} is still being loaded")
        elif len(names) < 2:
            self.notices.show("no other model is available; name some with --models a,b,c")
        else:
            single = self.last is not None and self.locate is None
            frame = self.last.frame if single and self.last is not None else None
            self.models.start(after(self.models.present, names), frame)

    def solo_number(self, number: int) -> None:
        """Show one class alone, the n-th of those asked for; again, all of them."""
        labels = self.segmenter.labels
        sought = sorted(labels.foreground(self.segmenter.selected))
        if number > len(sought):
            self.notices.show(f"there is no class {number}; classes: {labels.join_names(sought)}")
            return
        self.solo(labels.names[sought[number - 1]])

    def solo(self, name: str | None) -> None:
        """Show one class alone; None, or the class that is alone already, shows all."""
        self.state = self.state.alone(name)
        if self.state.appearance.solo is None:  # otherwise it is shown for as long as it lasts
            self.notices.show("all classes")

    def screenshot(self) -> None:
        """Write the frame that is shown as image, mask and view; of a grid its image."""
        if self.last is None:
            self.notices.show("there is no image yet")
            return
        if self.locate is not None:
            self.captures.screenshot(self.last, None)
            return
        self.captures.screenshot(self._seen(self.last), self.state.view.view)

    def record(self) -> None:
        """Start recording, or finish the file."""
        transparent = self.state.view.background == "transparent" and self.locate is None
        self.captures.record(transparent=transparent)

    def point(self, at: Point | None) -> None:
        """The pointer moved, over the image that is shown; None is outside it."""
        self.pointer.move(at)

    def click(self, at: Point) -> None:
        """Show the class under the pointer alone; its background, or the same again, shows all."""
        if (found := self._class_at(at)) is not None:
            background = found.number == self.segmenter.labels.background
            self.solo(None if background else found.name)

    def pointed(self) -> tuple[Point, PointedClass] | None:
        """Where the pointer is, and the class there; None if it rests or is on nothing."""
        at = self.pointer.position
        found = None if at is None else self._class_at(at)
        return None if at is None or found is None else (at, found)

    def fallback(self, error: RtsegError, instead: Appearance) -> None:
        """Something cannot be drawn; keep what can."""
        self.state = replace(self.state, appearance=instead)
        self.notices.warn(str(error))

    def _class_at(self, at: Point) -> PointedClass | None:
        if self.locate is not None:
            located = self.locate(at)
            return None if located is None else class_under(*located)
        return None if self.last is None else class_under(self._seen(self.last), at)

    def _seen(self, last: Rendered) -> Rendered:
        """The frame with the edges of the present appearance, in which the window draws it anew."""
        refined = self.state.appearance.refine
        found = with_edges(last.segmentation, last.frame.picture, refine=refined)
        return replace(last, segmentation=found)

    def _show(self, state: ViewState) -> None:
        self.state = state
        self.notices.show(f"{state.view.view}, opacity {state.view.alpha:.1f}")

    def _now_runs(self, name: str, loaded: Loaded) -> None:
        self.state = self.state.with_model(name)
        info = loaded.segmenter.info
        self.notices.show(f"model: {name} ({info.name} on {info.device})")
        last = self.last
        if last is not None and last.frame is loaded.frame and loaded.segmentation is not None:
            self.last = replace(last, segmentation=loaded.segmentation)  # it stands still
            if self.window is not None:
                self.window.write(self.last)


OpenView = Callable[[ViewOptions, LabelSet, str], Effect]
"""Opens the effect for a view and a model's classes and name; raises RtsegError."""


class LiveEffect:
    """Draws by what is chosen at the moment; keeps to what worked last where that fails, and to
    the plain overlay where that fails too.

    Args:
        look: how to draw now.
        on_failure: called with an error and what is drawn instead.

    Attributes:
        drawn: how the last image was drawn.
    """

    def __init__(
        self,
        look: Callable[[], Appearance],
        open_view: OpenView,
        on_failure: Callable[[RtsegError, Appearance], None],
    ) -> None:
        self.drawn: Appearance = look()
        self._look, self._on_failure = look, on_failure
        # two: images of the last model are still on their way when the next one draws
        self._opened = lru_cache(maxsize=2)(open_view)

    def open(self, labels: LabelSet) -> None:
        """Open the view that is drawn first, so that no frame waits for it.

        Raises:
            RtsegError: it cannot be drawn.
        """
        self._opened(self.drawn.view, labels, self.drawn.model)

    def __call__(self, frame: Frame, segmentation: Segmentation) -> Image:
        """(H', W', 3) uint8 BGR."""
        look = self._look()
        try:
            image = self._draw(look, frame, segmentation)
        except RtsegError as error:
            instead = self.drawn if look != self.drawn else plain(look)
            if instead == look:
                raise
            self._on_failure(error, instead)
            look, image = instead, self._draw(instead, frame, segmentation)
        self.drawn = look
        return image

    def _draw(self, look: Appearance, frame: Frame, segmentation: Segmentation) -> Image:
        effect = self._opened(look.view, segmentation.labels, look.model)
        segmentation = with_edges(segmentation, frame.picture, refine=look.refine)
        return effect(frame, alone(segmentation, look.solo))


def plain(look: Appearance) -> Appearance:
    """What can be drawn when nothing else can: it needs no file."""
    return look._replace(view=ViewOptions(legend=look.view.legend, hud=look.view.hud))


def alone(segmentation: Segmentation, name: str | None) -> Segmentation:
    """The same scores with one class alone; the same object where there is no such class."""
    labels = segmentation.labels
    if name is None or name not in labels.names:
        return segmentation
    return segmentation.selecting(frozenset({labels.names.index(name)}))


def open_controls(
    view: ViewOptions,
    channels: Sequence[Channel],
    segmenter: Segmenter,
    info: SourceInfo,
    *,
    names: Sequence[str] = (),
    load: Load | None = None,
    hud: Hud = "none",
    folder: Path = Path(),
    options: SinkOptions = SinkOptions(),  # noqa: B008 - frozen
    same_labels: bool = False,
    log: Log = lambda heading, text: None,
) -> Controls:
    """The controls of a run, and an effect for each of its sources that draws by them.

    Args:
        view: how it begins; with `view.hud` figures are part of the image, and of recordings.
        info: of what is recorded: the source, or the grid.
        names: models that `m` cycles through; the first one runs.
        load: loads one of them.
        hud: figures over the window at first.
        folder: where screenshots and recordings go.
        options: of recordings.
        same_labels: whether another model must have the same classes.
        log: receives messages that should remain after the window closes.

    Raises:
        RtsegError: the view cannot be drawn.
    """
    clock = channels[0].stats.clock
    replaceable = ReplaceableSegmenter(segmenter, same_labels=same_labels)
    worker, notices = BackgroundWorker(), Notices(clock, log)
    recorder = Recorder(info, clock, segmenter.labels, folder, options, worker=worker)
    controls = Controls(
        ViewState(Appearance(view, refine=segmenter.refine), hud="none" if view.hud else hud),
        clock=clock,
        segmenter=replaceable,
        models=ModelLoader(names, load or _no_model),
        captures=Captures(recorder, worker, notices, folder),
        notices=notices,
        backgrounds=tuple(dict.fromkeys((*BACKGROUNDS, view.background))),
    )
    for channel in channels:
        effect = LiveEffect(controls.look, _opener(channel, replaceable), controls.fallback)
        effect.open(segmenter.labels)
        controls.effects.append(effect)
    _warm_up(segmenter.labels)
    return controls


def _opener(channel: Channel, segmenter: ReplaceableSegmenter) -> OpenView:
    def open_view(view: ViewOptions, labels: LabelSet, model: str) -> Effect:
        return open_effect(
            view,
            labels,
            stats=channel.stats,
            source=channel.source,
            backend=segmenter.info,
            model=segmenter.spec.name,
            imgsz=segmenter.input_size,
        )

    return open_view


def _warm_up(labels: LabelSet) -> None:
    """Compile everything that views are drawn with, before a key asks for one and frames wait."""
    refine.warm_up()
    for name in VIEWS:
        open_effect(ViewOptions(name), labels)
    for background in BACKGROUNDS:
        open_effect(ViewOptions(background=background), labels)


def _no_model(name: str) -> Segmenter:
    raise ValueError(f"nothing loads {name}")
