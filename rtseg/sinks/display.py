"""Whether a window can be opened, found out without Qt, which ends the process when it cannot.

The X11 handshake follows "X Window System Protocol, X Version 11", section 8 and appendix B; the
authority file follows Xau.h.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rtseg.stats import Clock

TIMEOUT_SECONDS = 2.0
RESET_SECONDS = 0.2
COOKIE = b"MIT-MAGIC-COOKIE-1"
X11_XCB = "libX11-xcb.so.1"
QT_NEEDS = "libsm6 libxext6"

ONE_TO_ONE = {
    "QT_ENABLE_HIGHDPI_SCALING": "0",
    "QT_AUTO_SCREEN_SCALE_FACTOR": "0",
    "QT_SCALE_FACTOR": "1",
    "QT_SCREEN_SCALE_FACTORS": "",
}
"""A desktop of high density has Qt enlarge every window, and blur what is drawn in the screen's
own pixels; ours is."""


class Screen(NamedTuple):
    """Size of a screen in pixels."""

    width: int
    height: int


def display_available() -> str | None:
    """None when a window can be opened, else why not, in a few words."""
    return _no_screen() or _no_windows() or _no_plugin()


def _no_windows() -> str | None:
    import cv2

    if not hasattr(cv2, "currentUIFramework") or cv2.currentUIFramework():
        return None
    return (
        "this OpenCV has no windows, as opencv-python-headless is installed: "
        "pip uninstall -y opencv-python-headless && "
        "pip install --force-reinstall --no-deps opencv-python"
    )


def _no_plugin() -> str | None:
    """Qt ends the process where the system lacks a library that its part for X needs."""
    for plugin in _qt_plugins().values():
        _use_system_x11_xcb()
        try:
            ctypes.CDLL(str(plugin))
        except OSError as error:
            return f"Qt does not load ({error}); on Debian and Ubuntu: apt-get install {QT_NEEDS}"
    return None


def _no_screen() -> str | None:
    if sys.platform != "linux":
        return None
    if os.environ.get("DISPLAY"):
        return _why_silent(os.environ["DISPLAY"])
    if not os.environ.get("WAYLAND_DISPLAY"):
        return "neither DISPLAY nor WAYLAND_DISPLAY is set"
    plugins = _qt_plugins()
    if plugins and "wayland" not in plugins:
        return "DISPLAY is not set, and this OpenCV shows windows through X only"
    return None


@contextmanager
def held() -> Iterator[Screen | None]:
    """The first screen of the X server, None without one, which is kept from starting over.

    A bare server does that when its last client leaves, and Qt ends the process if it comes just
    then; so our own connection stays until Qt has one.
    """
    with ExitStack() as stack:
        try:
            connection, size = _greet(os.environ.get("DISPLAY", ""))
            stack.enter_context(connection)
        except (OSError, ValueError, struct.error):
            size = None
        yield size


def prepare_qt() -> None:
    """Give OpenCV's Qt what its wheel lacks: an X library, fonts, and its own platform.

    Without, it loses events, complains on stderr about fonts, and ends the process where a desktop
    asks for a platform that the wheel does not carry. It has to come before the first window.
    """
    plugins = _qt_plugins()
    for name, value in ONE_TO_ONE.items():
        os.environ[name] = value
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
    """Whether this OpenCV brings a Qt and X libraries of its own, as its wheels for Linux do."""
    return bool(_qt_plugins())


def _use_system_x11_xcb() -> None:
    """Have Qt tell Xlib in Xlib's own words that the events are Qt's to read.

    The wheel brings a libX11-xcb but takes libX11 from the system, and the two share a private
    structure (`_X11XCBPrivate`, Xxcbint.h), to which newer ones added `next_response`: the wheel's
    `XSetEventQueueOwner` writes at 0x40 what libX11 1.8.4 reads at 0x48. So Xlib keeps whatever
    events it meets while Qt calls it, and its queue was seen to hold a MapNotify and the Expose
    without which a window stays black: 8 of 66 windows on a busy machine, 0 of 66 since, taken in
    turns. Loaded first and globally, the system's function is the one that Qt finds, for a quarter
    of a millisecond once; a system without it (libx11-xcb1 in Debian) stays as it was.
    """
    with suppress(OSError):
        ctypes.CDLL(X11_XCB, mode=ctypes.RTLD_GLOBAL)


def _qt_plugins() -> dict[str, Path]:
    """Platforms of the Qt inside OpenCV's wheel: "xcb", and its library; empty for other builds."""
    spec = find_spec("cv2")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "qt" / "plugins" / "platforms"
    return {found.stem.removeprefix("libq"): found for found in sorted(folder.glob("libq*.so"))}


def _why_silent(display: str) -> str | None:
    try:
        _greet(display)[0].close()
    except ValueError as error:
        return f"DISPLAY is {display!r}, {error}"
    except (OSError, struct.error):
        return f"DISPLAY is {display!r}, but no X server answers there"
    return None


def _greet(display: str) -> tuple[socket.socket, Screen]:
    """Open a connection to an X server, with the cookie that fits.

    Raises:
        OSError, struct.error: nobody answers.
        ValueError: it is no display, or it refuses us; the message says so.
    """
    found = re.fullmatch(r"(?:[a-z]+/)?(.*?):(\d+)(?:\.\d+)?", display)
    if not found:
        raise ValueError("which names no display")
    host, number = found[1], int(found[2])
    for cookie in (b"", *_cookies(number)):
        for patience in (True, True, False):
            connection = _connect(host, number)
            try:
                size = _handshake(connection, cookie)
            except (ConnectionError, struct.error):
                connection.close()
                if not patience:
                    raise
                Clock().sleep(RESET_SECONDS)  # it may be starting over just now
                continue
            if size is not None:
                return connection, size
            connection.close()
            break
    raise ValueError("and its X server refuses us (see xauth)")


def _connect(host: str, number: int) -> socket.socket:
    if sys.platform == "win32" or host not in ("", "unix"):
        return socket.create_connection((host, 6000 + number), TIMEOUT_SECONDS)
    name = f"/tmp/.X11-unix/X{number}"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_SECONDS)
    try:
        connection.connect(name)
    except OSError:
        try:
            connection.connect("\0" + name)  # the abstract socket, where a sandbox hides /tmp
        except OSError:
            connection.close()
            raise
    return connection


def _handshake(connection: socket.socket, cookie: bytes) -> Screen | None:
    """The first screen, or None when the server wants another cookie."""
    name = COOKIE if cookie else b""
    padded = [part + bytes(-len(part) % 4) for part in (name, cookie)]
    head = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie))
    connection.sendall(head + b"".join(padded))
    with connection.makefile("rb") as reply:
        status, length = struct.unpack("<BxxxxxH", reply.read(8))
        if status != 1:
            return None
        body = reply.read(4 * length)
    vendor, formats = struct.unpack_from("<16xH3xB", body)
    root = 32 + vendor + -vendor % 4 + 8 * formats
    return Screen(*struct.unpack_from("<20xHH", body, root))


def _cookies(number: int) -> Iterator[bytes]:
    """Cookies of the user's authority file for that display."""
    path = Path(os.environ.get("XAUTHORITY") or Path.home() / ".Xauthority")
    if not path.is_file():
        return
    with path.open("rb") as file:
        while head := file.read(2):
            fields = []
            for _ in range(4):
                (length,) = struct.unpack(">H", file.read(2))
                fields.append(file.read(length))
            _, display, name, cookie = fields
            if name == COOKIE and display in (b"", str(number).encode()) and len(head) == 2:
                yield cookie
