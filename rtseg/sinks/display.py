"""Whether a window can be opened, and what OpenCV's Qt needs before it opens one.

Qt ends the process if it cannot open a window, so everything that it needs is tried before: the
OpenCV build, the libraries of Qt's plugin, and the X server, through the system's libX11, which Qt
itself uses.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rtseg.stats import Clock

X11 = "libX11.so.6"
X11_XCB = "libX11-xcb.so.1"
QT_PACKAGES = "libsm6 libxext6 libgl1"

ATTEMPTS, RESET_SECONDS = 3, 0.2
"""A bare X server resets when its last client leaves, and answers nobody for a moment."""

NO_SCALING = {
    "QT_ENABLE_HIGHDPI_SCALING": "0",
    "QT_AUTO_SCREEN_SCALE_FACTOR": "0",
    "QT_SCALE_FACTOR": "1",
    "QT_SCREEN_SCALE_FACTORS": "",
}
"""Or Qt enlarges every window on a high-density desktop, and blurs what is drawn by pixel."""


class Screen(NamedTuple):
    """Size of a screen in pixels."""

    width: int
    height: int


def display_available() -> str | None:
    """None if a window can be opened, else the reason why not."""
    return _no_display() or _no_windows() or _no_plugin()


def _no_display() -> str | None:
    if sys.platform != "linux":
        return None
    if display := os.environ.get("DISPLAY"):
        try:
            with _x_connection():
                return None
        except OSError as error:
            return f"DISPLAY is {display!r}, {error}"
    if not os.environ.get("WAYLAND_DISPLAY"):
        return "neither DISPLAY nor WAYLAND_DISPLAY is set"
    plugins = _qt_plugins()
    if plugins and "wayland" not in plugins:
        return "DISPLAY is not set, and this OpenCV supports windows through X only"
    return None


def _no_windows() -> str | None:
    import cv2

    if not hasattr(cv2, "currentUIFramework") or cv2.currentUIFramework():
        return None
    return (
        "this OpenCV has no windows because opencv-python-headless is installed: "
        "pip uninstall -y opencv-python-headless && "
        "pip install --force-reinstall --no-deps opencv-python"
    )


def _no_plugin() -> str | None:
    """A library that Qt's plugin needs may be missing."""
    for plugin in _qt_plugins().values():
        _use_system_x11_xcb()
        try:
            ctypes.CDLL(str(plugin))
        except OSError as error:
            return f"cannot load Qt ({error}); on Debian and Ubuntu: apt-get install {QT_PACKAGES}"
    return None


@contextmanager
def display_connection() -> Iterator[Screen | None]:
    """Hold a connection to the X server, and yield its screen; None without an X server.

    A bare X server resets when its last client leaves, and Qt ends the process if it connects just
    then: this connection keeps it up until Qt has its own.
    """
    with ExitStack() as stack:
        screen = None
        if sys.platform == "linux" and os.environ.get("DISPLAY"):
            with suppress(OSError):
                screen = stack.enter_context(_x_connection())
        yield screen


@contextmanager
def _x_connection() -> Iterator[Screen | None]:
    """A connection to the X server of DISPLAY; None without libX11, which OpenCV may not need.

    Raises:
        OSError: no server answers, or it refuses the connection; the message says which.
    """
    try:
        library = ctypes.CDLL(X11)
    except OSError:
        yield None
        return
    library.XOpenDisplay.restype = ctypes.c_void_p
    display = ctypes.c_void_p(_connect(library.XOpenDisplay))
    try:
        number = library.XDefaultScreen(display)
        width = library.XDisplayWidth(display, number)
        yield Screen(width, library.XDisplayHeight(display, number))
    finally:
        library.XCloseDisplay(display)


def _connect(open_display: Callable[[None], int | None]) -> int:
    """The address of a `Display`; raises OSError."""
    for attempt in range(ATTEMPTS):
        if attempt:
            Clock().sleep(RESET_SECONDS)
        with _captured_stderr() as captured:
            display = open_display(None)
            reason = captured()
        if display:
            return display
        if reason:  # in the server's own words
            raise OSError(f"and its X server refuses the connection: {reason}")
    raise OSError("but no X server answers there")


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture what a C library writes to stderr; yields a function that returns it, on one line."""
    with tempfile.TemporaryFile() as file:
        try:
            saved = os.dup(2)
        except OSError:  # it is closed
            yield lambda: ""
            return
        os.dup2(file.fileno(), 2)

        def text() -> str:
            file.seek(0)
            return " ".join(file.read().decode(errors="replace").split())

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def prepare_qt() -> None:
    """Set what OpenCV's Qt needs, before the first window.

    Its wheel lacks an X library, without which it loses events, and fonts, without which it
    complains on stderr; and it ends the process where the desktop selects a platform that the wheel
    does not contain.
    """
    plugins = _qt_plugins()
    os.environ.update(NO_SCALING)
    if "xcb" in plugins:
        _use_system_x11_xcb()
    if plugins and os.environ.get("QT_QPA_PLATFORM", "xcb").split(":")[0] not in plugins:
        os.environ["QT_QPA_PLATFORM"] = next(iter(plugins))
    folder = os.environ.get("QT_QPA_FONTDIR")
    matplotlib = find_spec("matplotlib")
    if folder and not Path(folder).is_dir() and matplotlib and matplotlib.origin:
        os.environ["QT_QPA_FONTDIR"] = str(
            Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
        )


def has_own_qt() -> bool:
    """Whether this OpenCV contains Qt and X libraries, as its wheels for Linux do."""
    return bool(_qt_plugins())


def _use_system_x11_xcb() -> None:
    """Load the system's libX11-xcb globally, so that Qt uses it instead of the wheel's.

    The wheel contains a libX11-xcb but takes libX11 from the system, and the two share a private
    structure (`_X11XCBPrivate`, Xxcbint.h), to which newer ones added `next_response`: the wheel's
    `XSetEventQueueOwner` writes at 0x40 what libX11 1.8.4 reads at 0x48. So Xlib keeps events that
    it meets while Qt calls it; its queue was seen to hold a MapNotify and the Expose without which
    a window stays black: 8 of 66 windows on a busy machine, 0 of 66 with the system's library. It
    takes a quarter of a millisecond once; a system without it (libx11-xcb1 in Debian) is unchanged.
    """
    with suppress(OSError):
        ctypes.CDLL(X11_XCB, mode=ctypes.RTLD_GLOBAL)


def _qt_plugins() -> dict[str, Path]:
    """Platforms, such as "xcb", of the Qt in OpenCV's wheel, and their libraries."""
    spec = find_spec("cv2")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "qt" / "plugins" / "platforms"
    return {found.stem.removeprefix("libq"): found for found in sorted(folder.glob("libq*.so"))}
