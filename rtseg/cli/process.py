"""One stop path for Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

from rtseg.threads import Flow

T = TypeVar("T")

POLL_SECONDS = 0.05


class Interrupted(KeyboardInterrupt):
    """A signal came before the loop ran; nothing has been written yet."""


class Stop:
    """Listens for the signals; `stop()` is what `run(stop=...)` polls.

    A signal only leaves a note; no exception springs up in the middle of a library. Before the
    loop runs, `check` and `attend` see the note and end the program at once. While it runs, the
    loop sees it and ends, so that files are finished and the report printed. A second signal
    forces.

    Attributes:
        signal: number of the first signal; 0 when none came.
        hung: a thread never came back from its driver, so the process must end without it.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.hung = False

    def __call__(self) -> bool:
        """Whether a signal has asked for the end."""
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 when nobody asked."""
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
        """Take the two signals for as long as the `with` lasts."""
        before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self():
            # Not print: the signal may have come in the middle of one, which cannot be re-entered.
            os.write(2, b"\nrtseg: forced to stop; the last file may be unfinished\n")
            os._exit(self.exit_code)
        self.signal = number


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(exit_code: int) -> NoReturn:
    """End the process now, whatever its threads are still doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
