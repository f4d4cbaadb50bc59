"""A window: the only place that shows anything on a screen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rtseg.contracts import Rendered, Sink, SourceInfo
from rtseg.errors import SinkError
from rtseg.frame import Image
from rtseg.labels import LabelSet
from rtseg.sinks import SinkOptions
from rtseg.sinks.display import Screen, display_available, has_own_qt, held, prepare_qt

__all__ = ["WindowSink", "display_available"]

WINDOW_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
"""May be resized, keeps the picture's proportions, and has no tool bar that takes its pixels."""

QUIT_KEYS = ("q", "Q", "\x1b")

SCREEN_SHARE = 0.9
"""A window takes at most this much of the screen's width and height."""

USUAL_SCREEN = Screen(1280, 720)


class WindowSink(Sink):
    """Shows the finished pictures; q, Esc and the window's X close it.

    Attributes:
        keys: what each character does; add to it for more.

    Raises:
        SinkError: there is no display to show anything on.
    """

    def __init__(
        self, path: Path, info: SourceInfo, labels: LabelSet, options: SinkOptions
    ) -> None:
        why_not = display_available() or _av_first()
        if why_not is not None:
            raise no_display(why_not)
        self.keys: dict[str, Callable[[], None]] = dict.fromkeys(QUIT_KEYS, self.quit)
        self._title = options.title
        self._stretch = float(info.sample_aspect_ratio)
        self._picture: Image | None = None
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
        picture = shrunk(stretched(rendered.image, self._stretch), self._screen)
        if self._picture is None or self._picture.shape != picture.shape:
            cv2.resizeWindow(self._title, picture.shape[1], picture.shape[0])
        self._picture, self._bannered = picture, False
        self._show(picture)

    def idle(self, notice: str | None) -> None:
        """Keep the window answering; the last picture stays, under a banner if need be."""
        from rtseg.draw import banner

        if notice:
            blank = np.full((360, 640, 3), 32, np.uint8)
            self._show(banner(blank if self._picture is None else self._picture, notice))
            self._bannered = True
        elif self._bannered and self._picture is not None:
            self._bannered = False
            self._show(self._picture)
        else:
            self._pump()

    def close(self) -> None:
        """Close the window."""
        self._alive = False
        if _visible(self._title):
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)  # Qt closes it only when its events are handled

    def quit(self) -> None:
        """What q does."""
        self._alive = False

    def _open(self) -> None:
        prepare_qt()
        try:
            cv2.namedWindow(self._title, WINDOW_FLAGS)
            cv2.waitKey(1)
        except cv2.error as error:
            raise no_display("this OpenCV is built without windows") from error

    def _show(self, picture: Image) -> None:
        if self._alive:
            cv2.imshow(self._title, picture)
            self._pump()

    def _pump(self) -> None:
        """Handle the window's events, and keys."""
        code = cv2.waitKey(1)
        if code >= 0:
            self.keys.get(chr(code & 0xFF), _nothing)()
        if not _visible(self._title):
            self._alive = False


def no_display(why: str) -> SinkError:
    """The error of every way not to have a window."""
    return SinkError(
        "cannot open a window",
        found=why,
        do="Use --no-show, and -o FILE to keep the result.",
    )


def stretched(picture: Image, ratio: float) -> Image:
    """(H, W, 3) uint8 with square pixels, for a picture whose pixels are `ratio` times as wide."""
    if abs(ratio - 1) < 1e-3:
        return picture
    height, width = picture.shape[:2]
    return cv2.resize(picture, (max(1, round(width * ratio)), height))


def shrunk(picture: Image, screen: Screen) -> Image:
    """The picture, or a smaller one that fits: Qt would leave out rows, and letters with them."""
    width, height = fitting(picture, screen)
    if (height, width) == picture.shape[:2]:
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def fitting(picture: Image, screen: Screen) -> tuple[int, int]:
    """(width, height) for the window: the picture's own, or what the screen allows."""
    height, width = picture.shape[:2]
    scale = min(1.0, screen.width * SCREEN_SHARE / width, screen.height * SCREEN_SHARE / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


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


def _nothing() -> None:
    """What a key without a meaning does."""
