"""One stop path for Ctrl-C, SIGTERM and a terminal that is closed; the standard streams."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

from rtseg.addresses import shown
from rtseg.errors import UsageError
from rtseg.threads import Flow

T = TypeVar("T")

POLL_SECONDS = 0.05


def out(text: str = "", *, to: TextIO | None = None) -> None:
    """Print lines, on stdout by default, of which files and servers may have sent parts."""
    print("\n".join(map(shown, text.split("\n"))), file=to, flush=True)


class Interrupted(KeyboardInterrupt):
    """A signal came before the loop ran; nothing has been written yet."""


class Stop:
    """Listens for the signals; `stop()` is what `run(stop=...)` polls.

    A signal only leaves a note; no exception springs up in the middle of a library. Before the
    loop runs, `check` and `attend` see the note and end the program at once. While it runs, the
    loop sees it and ends, so that files are finished and the report printed. A second signal
    forces; but a terminal that is closed (SIGHUP) never does, as it may send several.

    Attributes:
        debug: whether tracebacks of errors are wanted.
        signal: number of the first signal; 0 when none came.
        hung: a thread never came back from its driver, so the process must end without it.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.hung = self.debug = False

    def __call__(self) -> bool:
        """Whether a signal has asked for the end."""
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 0 when nobody asked."""
        return 128 + self.signal if self.signal else 0

    def check(self) -> None:
        """Raise Interrupted if a signal has asked for the end."""
        if self():
            raise Interrupted

    def attend(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread while this one listens, and return what it returns.

        A driver or library may take seconds inside C code, where Python hears no signal.

        Raises:
            Interrupted: a signal came first; `call` may still be at it.
        """
        with Flow((once() for once in (call,)), name="open") as flow:
            for result in flow.poll(POLL_SECONDS):
                self.check()
                if result is not None:
                    return result
        raise AssertionError("an opener returned nothing")

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take the signals for as long as the `with` lasts, but not a SIGHUP that nohup ignores."""
        ignored = {HANGUP} if HANGUP and signal.getsignal(HANGUP) == signal.SIG_IGN else {0}
        before = {
            number: signal.signal(number, self._hear)
            for number in (signal.SIGINT, signal.SIGTERM, HANGUP)
            if number and number not in ignored
        }
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self() and number == HANGUP:
            return
        if self() and self.signal != HANGUP:
            with suppress(OSError):
                # Not print: the signal may have come in the middle of one, which cannot be
                # re-entered.
                os.write(2, b"\nrtseg: forced to stop; the last file may be unfinished\n")
            os._exit(self.exit_code)
        self.signal = number


HANGUP = getattr(signal, "SIGHUP", 0)
"""Windows has none."""


class CallStop(Stop):
    """Ctrl-C during a call from Python: the first leaves a note, so that a run ends and is saved;
    the second raises KeyboardInterrupt at once."""

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take Ctrl-C for as long as the `with` lasts, in the main thread, which alone can; raises
        Interrupted at its end if there was one."""
        try:
            before = signal.signal(signal.SIGINT, self._hear)
        except ValueError:  # in another thread
            yield self
            return
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)
        self.check()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self():
            raise KeyboardInterrupt
        self.signal = number


LEAST_COLUMNS = 20
"""In a narrower terminal rich would look for a place to break lines for ever."""


def leave(exit_code: int) -> NoReturn:
    """End the process now, whatever its threads are still doing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(exit_code)


class Unheard(io.FileIO):
    """Bytes that are lost when nobody can read them any more, and stop no work."""

    def write(self, data: Any) -> int:
        """Write, or not."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def steady_streams() -> None:
    """Open standard streams that are closed, and go on without those who listened to stderr.

    A file of ours would get the number of a closed stream, and what libraries print into it; and
    `rtseg clip.mp4 -o out.mp4 2>&1 | head` is no reason to write half a video, nor is a terminal
    that is closed. A closed stdout stays one that cannot be written.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # gets the lowest number that is free: this one
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that it cannot hold, as on Windows
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    if sys.stderr is None or sys.platform != "win32" or not sys.stderr.isatty():
        unheard = io.BufferedWriter(Unheard(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(unheard, errors="backslashreplace", line_buffering=True)


def widen_terminal() -> None:
    """Have rich draw for a terminal of `LEAST_COLUMNS` where it is narrower, or said to be."""
    widths = [shutil.get_terminal_size().columns]
    for number in range(3):
        with suppress(OSError):
            widths.append(os.get_terminal_size(number).columns)
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal():
        widths.append(int(said))
    if min(widths) < LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(LEAST_COLUMNS)


LIBRARY_SETTINGS = {
    re.compile(
        r"OPENCV_(IO_MAX_IMAGE_(PIXELS|WIDTH|HEIGHT)|FOR_THREADS_NUM|FFMPEG_(READ|DECODE)_ATTEMPTS"
        r"|VIDEOIO_PRIORITY_(?!LIST$)\w+)"
    ): (re.compile(r"\d{1,18}([KkMm][Bb]?)?"), "it must be a whole number"),
    re.compile(r"OPENCV_(VIDEOIO_DEBUG|DUMP_CONFIG|DUMP_ERRORS|IO_ENABLE_\w+)"): (
        re.compile(r"[01]|[Tt]rue|TRUE|[Ff]alse|FALSE"),
        "it must be 0 or 1",
    ),
    re.compile("SOURCE_DATE_EPOCH"): (re.compile(r"\d{1,18}"), "it must be a whole number"),
}
"""Environment variables, and values that libraries take; at others OpenCV ends the process, and
numpy.f2py, which SciPy imports for numba, fails."""


def check_surroundings() -> None:
    """Raise UsageError where a library would end the process, or fail with other words."""
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            "cannot use the current folder",
            found=(error.strerror or str(error)).lower(),
            do="Change to another one: it was probably removed",
        ) from error
    for name, value in os.environ.items():
        for pattern, (valid, words) in LIBRARY_SETTINGS.items():
            if pattern.fullmatch(name) and not valid.fullmatch(value):
                raise UsageError(f"{name}={value}", found=words, do="Unset it")


OPENCV_NEEDS = "OpenCV needs it; on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
SYSTEM_LIBRARIES = dict.fromkeys(
    ("libGL", "libglib", "libgthread", "libxcb", "libX11"), OPENCV_NEEDS
)
"""What bare systems and containers lack, by the names in the loader's words."""

LIBRARY = re.compile(r"\.(?:so|dll|dylib)\b", re.IGNORECASE)


def refused(error: Exception) -> str | None:
    """What the system said no to, where nobody nearer to it had words of its own; None if it is
    not the system that did.
    """
    if isinstance(error, MemoryError):
        return "not enough memory. Use a smaller --imgsz or fewer sources, or raise ulimit -v"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "the system starts no more threads. End other programs, or raise ulimit -u and -v"
    if isinstance(error, ValueError) and "Invalid log settings" in str(error):
        return "TORCH_LOGS: PyTorch does not know its value. Unset it"
    if not isinstance(error, (ImportError, OSError)):
        return None
    # ctypes raises an OSError without a number, as others do for things of their own
    if isinstance(error, ImportError) or (error.errno is None and LIBRARY.search(str(error))):
        return f"cannot load a library: {error}. {advice(error)}"
    if error.errno is None:
        return None
    words = (
        "cannot write stdout" if error.filename is None else f"cannot use {error.filename!s:.80}"
    )
    return f"{words}: {error.strerror or error}"


def advice(error: Exception) -> str:
    """What to do about a library that fails to load."""
    for library, do in SYSTEM_LIBRARIES.items():
        if library in str(error):
            return do
    return "Install rtseg again in a fresh environment; rtseg doctor shows what loads"
