"""A window: the only place that shows anything on a screen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import resized
from rtseg.errors import SinkError
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.matte import over_checkerboard
from rtseg.sinks import SinkOptions
from rtseg.sinks.display import Screen, display_available, has_own_qt, held, prepare_qt

SCREEN_SHARE = 0.9
"""A window takes at most this much of the screen's width and height."""

Point = tuple[float, float]
"""(x, y), each 0..1: from the left and from the top of the finished picture."""


class Place(NamedTuple):
    """Where a picture lies in a window, in the window's pixels."""

    left: int
    top: int
    width: int
    height: int

    def point(self, x: int, y: int) -> Point | None:
        """Where a pixel of the window is on the picture; None beside it."""
        at = (x + 0.5 - self.left) / self.width, (y + 0.5 - self.top) / self.height
        return at if all(0 <= share < 1 for share in at) else None


def fitting(size: tuple[int, int], screen: Screen) -> tuple[int, int]:
    """(width, height) for the window of a picture: its own, or what the screen allows."""
    width, height = size
    scale = min(1.0, screen.width * SCREEN_SHARE / width, screen.height * SCREEN_SHARE / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def placed(shape: tuple[int, int], window: tuple[int, int]) -> Place:
    """Where a picture of `shape` (width, height) lies in a window: whole, as large as can be."""
    scale = min(window[0] / shape[0], window[1] / shape[1])
    # a bar of one pixel is a rounding error
    width, height = (
        room if room - side * scale < 1.5 else max(1, round(side * scale))
        for side, room in zip(shape, window, strict=True)
    )
    return Place((window[0] - width) // 2, (window[1] - height) // 2, width, height)


def scaled(picture: Image, size: tuple[int, int]) -> Image:
    """The picture at (width, height): averaged where it shrinks much, or rows would be lost."""
    return picture if size == size_of(picture) else resized(picture, (size[1], size[0]))


def framed(picture: Image, place: Place, window: tuple[int, int]) -> Image:
    """The picture in its place in a window of (width, height), black around it."""
    right, bottom = window[0] - place.left - place.width, window[1] - place.top - place.height
    if not any((place.left, place.top, right, bottom)):
        return picture
    sides = place.top, bottom, place.left, right
    return cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def size_of(picture: Image) -> tuple[int, int]:
    """(width, height) of a picture."""
    return picture.shape[1], picture.shape[0]


FULL_SCREEN_KEYS = {0xFFC8, 0x7A0000, 0xF70E}
"""F11, as X, Windows and macOS number it."""

MODIFIERS = {0xFE03, 0xFF14, 0xFF7E, 0xFF7F, *range(0xFFE1, 0xFFEF)}
"""Keys that mean nothing alone: Shift, Ctrl, Alt and the locks, as X numbers them."""


def key_name(code: int) -> str | None:
    """A character, "F11", "other" for a key that has neither; None for no key.

    Args:
        code: as `cv2.waitKeyEx` gives it.
    """
    if code < 0 or code & 0xFFFF in MODIFIERS:
        return None
    if code in FULL_SCREEN_KEYS or code & 0xFFFF == 0xFFC8:
        return "F11"
    plain = code & 0xFFFF if code < 1 << 24 and code & 0xFFFF else 0  # without GTK's modifiers
    if 0xFF00 < plain < 0xFF20 or 0xFF80 <= plain < 0xFFBA:  # Tab and Esc, and the keypad
        return chr(plain & 0x7F)
    return chr(plain) if 0 < plain < 0x100 else "other"


__all__ = ["WindowEvents", "WindowSink", "display_available"]

WINDOW_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL
"""May be resized, and has no tool bar; the picture is fitted in here, and so better than by Qt."""

QUIT_KEYS = ("q", "Q", "\x1b")

USUAL_SCREEN = Screen(1280, 720)


@dataclass
class WindowEvents:
    """Whom a window tells what a person does, and what lies over its picture.

    Attributes:
        key: takes a key: its character, or its name as "F11".
        pointer: takes where the mouse is; None where it is not over the picture.
        click: takes where its left button was pressed.
        glass: writes over a picture, in place, in the pixels of the window; (image, rendered).
        stale: says what is out of date since the last picture: "glass", the "picture", or "".
    """

    key: Callable[[str], None] = lambda name: None
    pointer: Callable[[Point | None], None] = lambda at: None
    click: Callable[[Point], None] = lambda at: None
    glass: Callable[[Image, Rendered], None] = lambda image, rendered: None
    stale: Callable[[], Literal["", "glass", "picture"]] = lambda: ""


class WindowSink(Sink):
    """Shows the finished pictures, fitted into a window that a person may resize.

    Attributes:
        events: told of keys and the mouse; by itself q, Esc and the window's X close it.

    Raises:
        SinkError: there is no display to show anything on.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        why_not = display_available() or _av_first()
        if why_not is not None:
            raise no_display(why_not)
        self.events = WindowEvents(key=self._quit_by)
        self._title = options.title
        self._stretch = float(info.sample_aspect_ratio)
        self._rendered: Rendered | None = None
        self._canvas: Image | None = None
        self._place = Place(0, 0, 1, 1)
        self._given: tuple[int, int] | None = None
        self._mouse: list[tuple[int, int, int]] = []
        self._bannered = False
        self._alive = True
        with held() as screen:
            self._screen = screen or USUAL_SCREEN
            self._open()

    @property
    def alive(self) -> bool:
        """False once a person has closed it."""
        return self._alive

    def write(self, rendered: Rendered) -> None:
        """Show one picture."""
        self._rendered, self._bannered = rendered, False
        self._present(rendered)

    def idle(self, notice: str | None) -> None:
        """Keep the window answering; the last picture stays, under a banner if need be."""
        from rtseg.draw import banner

        if self._rendered is not None and (self._is_stale() or (self._bannered and not notice)):
            self._bannered = False
            self._present(self._rendered)
        if notice:
            blank = np.full((360, 640, 3), 32, np.uint8)
            self._show(banner(blank if self._canvas is None else self._canvas, notice))
            self._bannered = True
        else:
            self._pump()

    def close(self) -> None:
        """Close the window."""
        self._alive = False
        if _visible(self._title):
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)  # Qt closes it only when its events are handled

    def quit(self) -> None:
        """End, as the window's X does."""
        self._alive = False

    def fill_screen(self, full: bool) -> None:
        """Fill the screen, or stop doing so."""
        how = cv2.WINDOW_FULLSCREEN if full else cv2.WINDOW_NORMAL
        cv2.setWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN, how)

    def _quit_by(self, name: str) -> None:
        if name in QUIT_KEYS:
            self.quit()

    def _open(self) -> None:
        prepare_qt()
        try:
            cv2.namedWindow(self._title, WINDOW_FLAGS)
            cv2.setMouseCallback(self._title, self._note_mouse)
            cv2.waitKey(1)
        except cv2.error as error:
            raise no_display("this OpenCV is built without windows") from error

    def _is_stale(self) -> bool:
        """Whether the last picture is to be shown anew; takes it in its present look then."""
        what = self.events.stale()
        if what == "picture" and self._rendered is not None:
            self._rendered = replace(self._rendered)
        size = self._size()
        resized = size is not None and self._canvas is not None and size != size_of(self._canvas)
        return bool(what) or resized

    def _present(self, rendered: Rendered) -> None:
        picture = over_checkerboard(rendered.picture)
        height, width = picture.shape[:2]
        shape = (max(1, round(width * self._stretch)), height)
        self._give_size(fitting(shape, self._screen))
        window = self._size() or self._given or shape
        self._place = placed(shape, window)
        fitted = scaled(picture, (self._place.width, self._place.height))
        if fitted is picture:
            fitted = picture.copy()  # others have it too
        self.events.glass(fitted, rendered)
        self._canvas = framed(fitted, self._place, window)
        self._show(self._canvas)

    def _give_size(self, size: tuple[int, int]) -> None:
        """Make the window (width, height), unless it has them, or a person chose another size."""
        if size == self._given:
            return
        if self._given is None or self._size() in (None, self._given):
            cv2.resizeWindow(self._title, *size)
            self._given = size

    def _size(self) -> tuple[int, int] | None:
        """(width, height) of the window's inside; None while it is not known."""
        width, height = cv2.getWindowImageRect(self._title)[2:]
        return (width, height) if width > 0 and height > 0 else None

    def _show(self, picture: Image) -> None:
        if self._alive:
            cv2.imshow(self._title, picture)
            self._pump()

    def _pump(self) -> None:
        """Handle the window's events, and tell of keys and the mouse."""
        name = key_name(cv2.waitKeyEx(1))
        mouse, self._mouse = self._mouse, []
        for event, x, y in mouse:
            at = self._place.point(x, y)
            self.events.pointer(at)
            if event == cv2.EVENT_LBUTTONDOWN and at is not None:
                self.events.click(at)
        if name is not None:
            self.events.key(name)
        if not _visible(self._title):
            self._alive = False

    def _note_mouse(self, event: int, x: int, y: int, flags: int, param: object) -> None:
        """Called by OpenCV, which swallows errors: what there is to do is done by `_pump`."""
        if event in (cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONDOWN):
            self._mouse.append((event, x, y))


def no_display(why: str) -> SinkError:
    """The error of every way not to have a window."""
    return SinkError(
        "cannot open a window",
        found=why,
        do="Use --no-show, and -o FILE to keep the result.",
    )


def _av_first() -> str | None:
    """Why a window would hang for ever, or None when it will not.

    The wheels of PyAV and OpenCV carry X libraries of the same names; with PyAV's loaded first,
    OpenCV's Qt talks through two of them at once. So every module here that imports `av` imports
    `cv2` before it, and a program that did it the other way round is told.
    """
    loaded = list(sys.modules)
    if has_own_qt() and "av" in loaded and loaded.index("av") < loaded.index("cv2"):
        return "PyAV was imported before OpenCV, whose windows then hang: import cv2 first"
    return None


def _visible(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) > 0
    except cv2.error:  # what OpenCV's Qt says once no window is left at all
        return False
