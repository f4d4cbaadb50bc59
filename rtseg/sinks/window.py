"""A window that shows the finished images and reports keys and the mouse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.draw import banner, resized
from rtseg.errors import SinkError
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.matte import over_checkerboard
from rtseg.sinks.display import (
    Screen,
    display_available,
    display_connection,
    has_own_qt,
    prepare_qt,
)
from rtseg.sinks.options import SinkOptions
from rtseg.text import printable

Point = tuple[float, float]
"""(x, y) in 0..1, from the left and from the top of the finished image."""

WINDOW_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL
"""Resizable, without a tool bar; images are scaled here, with better quality than by Qt."""

QUIT_KEYS = ("q", "Q", "\x1b")

DEFAULT_SCREEN = Screen(1280, 720)

SCREEN_SHARE = 0.9
"""Largest part of the screen's width and height that a window takes."""

FULL_SCREEN_KEYS = {0xFFC8, 0x7A0000, 0xF70E}
"""Key codes of F11 on X, Windows and macOS."""

MODIFIER_KEYS = {0xFE03, 0xFF14, 0xFF7E, 0xFF7F, *range(0xFFE1, 0xFFEF)}
"""X key codes that are ignored: Shift, Ctrl, Alt and the locks."""


@dataclass
class WindowEvents:
    """Callbacks of a window.

    Attributes:
        key: called with a key: its character, or a name such as "F11".
        pointer: called with the position of the mouse; None when it is not over the image.
        click: called with the position at which the left button was pressed.
        overlay: called as (image, rendered); draws over the image, in place, at the window's size.
        stale: returns what has changed since the last image: "overlay", "image" or "".
    """

    key: Callable[[str], None] = lambda name: None
    pointer: Callable[[Point | None], None] = lambda point: None
    click: Callable[[Point], None] = lambda point: None
    overlay: Callable[[Image, Rendered], None] = lambda image, rendered: None
    stale: Callable[[], Literal["", "overlay", "image"]] = lambda: ""


class WindowSink(Sink):
    """Shows the finished images in a resizable window.

    Attributes:
        events: callbacks for keys and the mouse; by default q and Esc close the window.

    Raises:
        SinkError: no window can be opened.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        if reason := display_available() or _av_first():
            raise no_window(reason)
        self.events = WindowEvents(key=self._quit_by)
        self._title = printable(options.title)  # OpenCV crashes on what is not text
        self._pixel_aspect = float(info.sample_aspect_ratio)
        self._rendered: Rendered | None = None
        self._canvas: Image | None = None
        self._place = Place(0, 0, 1, 1)
        self._requested: tuple[int, int] | None = None
        self._mouse: list[tuple[int, int, int]] = []
        self._has_banner = False
        self._alive = True
        with display_connection() as screen:
            self._screen = screen or DEFAULT_SCREEN
            self._open()

    @property
    def alive(self) -> bool:
        """False once the user has closed it."""
        return self._alive

    def write(self, rendered: Rendered) -> None:
        """Show one image."""
        self._rendered, self._has_banner = rendered, False
        self._present(rendered)

    def idle(self, notice: str | None) -> None:
        """Handle the window's events, and show `notice` on a banner over the last image."""
        if self._rendered is not None and (self._is_stale() or (self._has_banner and not notice)):
            self._has_banner = False
            self._present(self._rendered)
        if notice:
            blank = np.full((360, 640, 3), 32, np.uint8)
            self._show(banner(blank if self._canvas is None else self._canvas, notice))
            self._has_banner = True
        else:
            self._pump()

    def close(self) -> None:
        """Close the window."""
        self._alive = False
        if _visible(self._title):
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)  # Qt closes it only when its events are handled

    def quit(self) -> None:
        """End the run, like the window's close button."""
        self._alive = False

    def fill_screen(self, full: bool) -> None:
        """Switch full screen on or off."""
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
            raise no_window("this OpenCV is built without windows") from error

    def _is_stale(self) -> bool:
        """Whether the last image must be drawn again."""
        what = self.events.stale()
        if what == "image" and self._rendered is not None:
            self._rendered = replace(self._rendered)  # forget what the effect drew
        size = self._size()
        return bool(what) or (
            size is not None and self._canvas is not None and size != size_of(self._canvas)
        )

    def _present(self, rendered: Rendered) -> None:
        picture = over_checkerboard(rendered.picture)
        height, width = picture.shape[:2]
        shape = (max(1, round(width * self._pixel_aspect)), height)
        self._request_size(fit_screen(shape, self._screen))
        window = self._size() or self._requested or shape
        self._place = place_in(shape, window)
        fitted = scale(picture, (self._place.width, self._place.height))
        if fitted is picture:
            fitted = picture.copy()  # other sinks use it too
        self.events.overlay(fitted, rendered)
        self._canvas = add_bars(fitted, self._place, window)
        self._show(self._canvas)

    def _request_size(self, size: tuple[int, int]) -> None:
        """Resize the window to (width, height), unless the user has resized it."""
        if size == self._requested:
            return
        if self._requested is None or self._size() in (None, self._requested):
            cv2.resizeWindow(self._title, *size)
            self._requested = size

    def _size(self) -> tuple[int, int] | None:
        """(width, height) of the window's content; None before it is known."""
        width, height = cv2.getWindowImageRect(self._title)[2:]
        return (width, height) if width > 0 and height > 0 else None

    def _show(self, picture: Image) -> None:
        if self._alive:
            cv2.imshow(self._title, picture)
            self._pump()

    def _pump(self) -> None:
        """Handle the window's events, and call the callbacks."""
        name = key_name(cv2.waitKeyEx(1))
        mouse, self._mouse = self._mouse, []
        for event, x, y in mouse:
            point = self._place.point(x, y)
            self.events.pointer(point)
            if event == cv2.EVENT_LBUTTONDOWN and point is not None:
                self.events.click(point)
        if name is not None:
            self.events.key(name)
        if not _visible(self._title):
            self._alive = False

    def _note_mouse(self, event: int, x: int, y: int, flags: int, param: object) -> None:
        """Called by OpenCV, which swallows exceptions: `_pump` does the work."""
        if event in (cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONDOWN):
            self._mouse.append((event, x, y))


def no_window(why: str) -> SinkError:
    """The error if no window can be opened."""
    return SinkError(
        "cannot open a window",
        found=why,
        do="Use --no-show, and -o FILE to write the result.",
    )


def _av_first() -> str | None:
    """The reason why a window would hang; None if it will not.

    The wheels of PyAV and OpenCV contain X libraries of the same names; with PyAV's loaded first,
    OpenCV's Qt uses two of them at once. So every module of rtseg that imports `av` imports `cv2`
    before it.
    """
    loaded = list(sys.modules)
    if has_own_qt() and "av" in loaded and loaded.index("av") < loaded.index("cv2"):
        return "PyAV was imported before OpenCV, whose windows then hang: import cv2 first"
    return None


def _visible(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) > 0
    except cv2.error:  # raised by Qt builds once no window is left
        return False


class Place(NamedTuple):
    """Where an image is in a window, in the window's pixels."""

    left: int
    top: int
    width: int
    height: int

    def point(self, x: int, y: int) -> Point | None:
        """The point on the image of a pixel of the window; None beside the image."""
        point = (x + 0.5 - self.left) / self.width, (y + 0.5 - self.top) / self.height
        return point if all(0 <= share < 1 for share in point) else None


def fit_screen(size: tuple[int, int], screen: Screen) -> tuple[int, int]:
    """(width, height) of the window for an image: its own, or smaller to fit the screen."""
    width, height = size
    scale = min(1.0, screen.width * SCREEN_SHARE / width, screen.height * SCREEN_SHARE / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def place_in(shape: tuple[int, int], window: tuple[int, int]) -> Place:
    """Place an image of `shape` (width, height) in a window, whole and as large as possible."""
    scale = min(window[0] / shape[0], window[1] / shape[1])
    # a bar of one pixel is a rounding error
    width, height = (
        room if room - side * scale < 1.5 else max(1, round(side * scale))
        for side, room in zip(shape, window, strict=True)
    )
    return Place((window[0] - width) // 2, (window[1] - height) // 2, width, height)


def scale(picture: Image, size: tuple[int, int]) -> Image:
    """The image at (width, height); averaged when it shrinks, so that no row is lost."""
    return picture if size == size_of(picture) else resized(picture, (size[1], size[0]))


def add_bars(picture: Image, place: Place, window: tuple[int, int]) -> Image:
    """The image in its place in a window of (width, height), with black bars around it."""
    right, bottom = window[0] - place.left - place.width, window[1] - place.top - place.height
    if not any((place.left, place.top, right, bottom)):
        return picture
    sides = place.top, bottom, place.left, right
    return cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def size_of(picture: Image) -> tuple[int, int]:
    """(width, height) of an image."""
    return picture.shape[1], picture.shape[0]


def key_name(code: int) -> str | None:
    """A character, "F11", or "other" for other keys; None for no key.

    Args:
        code: from `cv2.waitKeyEx`.
    """
    if code < 0 or code & 0xFFFF in MODIFIER_KEYS:
        return None
    if code in FULL_SCREEN_KEYS or code & 0xFFFF == 0xFFC8:
        return "F11"
    plain = code & 0xFFFF if code < 1 << 24 and code & 0xFFFF else 0  # without GTK's modifiers
    if 0xFF00 < plain < 0xFF20 or 0xFF80 <= plain < 0xFFBA:  # Tab and Esc, and the keypad
        return chr(plain & 0x7F)
    return chr(plain) if 0 < plain < 0x100 else "other"
