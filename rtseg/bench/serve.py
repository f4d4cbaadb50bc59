"""The other end of `Remote`: builds an object, then answers questions until there are no more."""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module
from typing import Any, BinaryIO

from rtseg.errors import RtsegError


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
