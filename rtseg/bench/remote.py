"""An object in a process of its own, asked over a pipe.

Every combination that is measured lives in one: its memory and its loading are its own, nothing
that another library left running disturbs it, and one that dies takes no other with it. Between
questions the process waits in a read and uses no processor.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO, Protocol

from rtseg import errors
from rtseg.errors import BackendError, RtsegError
from rtseg.threads import Flow

POLL_SECONDS = 0.05
CLOSE_SECONDS = 5.0
_SERVE = "from rtseg.bench.remote import serve; serve()"


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """The measurement was asked to end while a question was open."""


class Asked(Protocol):
    """An object somewhere else: `Remote` and what stands for it in tests."""

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of it."""

    def close(self) -> None:
        """End it."""


class Remote:
    """Builds `place`, "module:Class", with the arguments in a new process.

    Args:
        stop: asked all the time while waiting; True kills the process and raises Stopped.

    Raises:
        RtsegError: what the constructor raised there, of the same kind and in the same words; or
            the process died.
        Stopped: `stop` said so.
    """

    def __init__(
        self, place: str, arguments: dict[str, Any], *, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._stop = stop
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        try:
            self._exchange((place, arguments))
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object and return what it returns; raises as the constructor."""
        return self._exchange((method, arguments))

    def close(self) -> None:
        """End the process; may be called again."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._close_pipe()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()  # it reads the end of its questions, and ends
        except OSError:
            self._process.kill()

    def _exchange(self, question: Any) -> Any:
        with Flow((self._answer(q) for q in (question,)), name="bench") as flow:
            for answer in flow.poll(POLL_SECONDS):
                if self._stop():
                    self._process.kill()
                    raise Stopped
                if answer is not None:
                    return _opened(answer)
        raise AssertionError("a question had no answer")

    def _answer(self, question: Any) -> tuple[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(question, self._process.stdin)
            self._process.stdin.flush()
            answer: tuple[str, Any] = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise self._died() from error
        return answer

    def _died(self) -> BackendError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        how = f"it was ended by signal {-code}" if code < 0 else f"it exited with {code}"
        return BackendError(
            "the process of this measurement died",
            found=f"{how}{': ' + lines[-1] if lines else ''}",
            do="It may have run out of memory" if code == -9 else "",
        )


def _opened(answer: tuple[str, Any]) -> Any:
    kind, content = answer
    if kind == "value":
        return content
    raise getattr(errors, kind, RtsegError)(content)


def serve() -> None:
    """Answer over standard input and output; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _converse(sys.stdin.buffer, answers)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return  # whoever asked has gone, or has had enough


def _converse(questions: BinaryIO, answers: BinaryIO) -> None:
    place, arguments = pickle.load(questions)
    module, _, name = place.partition(":")
    kind, served = _tried(lambda: getattr(import_module(module), name)(**arguments))
    _reply(answers, kind, None if kind == "value" else served)
    while kind == "value":
        method, given = pickle.load(questions)
        _reply(answers, *_tried(lambda: getattr(served, method)(*given)))  # noqa: B023 - at once


def _tried(call: Any) -> tuple[str, Any]:
    """("value", what it returned) or the name of the error and its words."""
    try:
        return "value", call()
    except RtsegError as error:
        return type(error).__name__, str(error)
    except Exception as error:  # a fault of a library, or ours: the row says so
        return RtsegError.__name__, f"internal error: {type(error).__name__}: {error}"


def _reply(answers: BinaryIO, kind: str, content: Any) -> None:
    pickle.dump((kind, content), answers)
    answers.flush()
