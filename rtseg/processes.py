"""Another Python as a child process: objects go over its pipes both ways, and it ends with its
parent, however that ended, even in the middle of what it does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from rtseg.system import python_command
from rtseg.threads import Flow


class Child:
    """A process that runs `code`, which serves a `Line`; it does not get the parent's Ctrl-C."""

    def __init__(self, code: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            python_command(code),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # without Ctrl-C, which the parent handles
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send an object; raises OSError or ValueError if the process has ended."""
        assert self._process.stdin is not None
        pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Wait for the next object; raises EOFError once the process has ended."""
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except (OSError, pickle.UnpicklingError, ValueError) as error:
            raise EOFError from error

    def how_it_ended(self) -> str:
        """Wait for the end: its signal or exit code, and the last line that it printed."""
        code = self._process.wait()
        lines: list[str] = []
        with suppress(OSError, ValueError):  # closed meanwhile
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}: {lines[-1]}" if lines else how

    def kill(self) -> None:
        """End the process in the middle of what it does."""
        self._process.kill()

    def close(self, seconds: float = 0.0) -> None:
        """Let it end by itself for so long, then kill it; with nobody in `receive`, and may be
        called again."""
        if seconds:
            with suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.close()  # it reads the end of file, and ends
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Line:
    """The child's end: iterate over what the parent sends, until it closes the pipe.

    What libraries print to stdout goes to stderr meanwhile. If the parent dies before what it sent
    was answered, this process ends at once.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._open = False

    def __iter__(self) -> Iterator[Any]:
        with Flow(self._read(sys.stdin.buffer), name="line") as flow:
            yield from flow

    def send(self, message: Any) -> None:
        """Send an object in the middle of the work; raises what pickle raises."""
        content = pickle.dumps(message)
        try:
            self._answers.write(content)
            self._answers.flush()
        except BrokenPipeError:
            os._exit(1)  # the parent died: an ordinary end would write to the pipe once more

    def answer(self, message: Any) -> None:
        """Send an object, as the last one about what the parent sent; raises as `send`."""
        self._open = False  # before: the end of the pipe may follow at once
        self.send(message)

    def _read(self, pipe: BinaryIO) -> Iterator[Any]:
        while True:
            try:
                message = pickle.load(pipe)
            except (OSError, EOFError, pickle.UnpicklingError):
                if self._open:
                    os._exit(1)
                return
            self._open = True  # here, and not where it is taken: the end may follow at once
            yield message
