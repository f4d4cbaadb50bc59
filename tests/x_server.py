"""An X server without a screen, for windows that tests look at and click."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

MISSING = [name for name in ("Xvfb", "xdotool", "import") if shutil.which(name) is None]

# what a window manager does when its X is clicked: a ClientMessage of WM_PROTOCOLS (ICCCM 4.2.8)
CLOSE_BUTTON = """
import ctypes, struct, sys
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
x.XInternAtom.restype = ctypes.c_ulong
display, window = ctypes.c_void_p(x.XOpenDisplay(None)), int(sys.argv[1])
atom = lambda name: x.XInternAtom(display, name, 0)
event = struct.pack("@iLiPLLi5l", 33, 0, 1, 0, window, atom(b"WM_PROTOCOLS"), 32,
                    atom(b"WM_DELETE_WINDOW"), 0, 0, 0, 0)
event = ctypes.create_string_buffer(event, 192)
assert x.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), event)
x.XCloseDisplay(display)
"""


@contextmanager
def x_server(*arguments: str) -> Iterator[str]:
    """Run Xvfb on a display of its own, and give its name; skip the test where it is absent."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), *arguments],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def click_close(environment: Mapping[str, str], window: str) -> None:
    """Do what a window manager does when its X is clicked."""
    command = [sys.executable, "-c", CLOSE_BUTTON, window]
    subprocess.run(command, env=environment, check=True, timeout=30)
