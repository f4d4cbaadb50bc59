"""The program `rtseg`: its verbs, and the one place where an error becomes a line."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rtseg._version import __version__
from rtseg.addresses import forget, remember
from rtseg.cli.process import Interrupted, Stop, check_surroundings, leave, refused
from rtseg.errors import RtsegError
from rtseg.files import discard_output

MAX_ERROR = 1200
"""Characters of an error: a few lines, whatever a file or a server sent."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code, and never raises."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    forget()
    remember(argument for argument in arguments if ":" in argument)
    stop = Stop()
    stop.debug = "--debug" in arguments
    call = _print_version if arguments == ["--version"] else lambda: _dispatch(arguments, stop)
    with stop.listening():
        code = _guarded(call, stop)
        if stop.hung:
            leave(code)
    return code


def _print_version() -> int:
    print(__version__)
    return 0


def _guarded(call: Callable[[], int], stop: Stop) -> int:
    """What `call` returns, or the exit code of what it raised, said in one line on stderr."""
    try:
        code = call()
        sys.stdout.flush()
        return code
    except Interrupted:
        leave(stop.exit_code)
    except BrokenPipeError:
        return _pipe_closed()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # of rich
            return _pipe_closed()
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except RtsegError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return _pipe_closed()
        first = _first_failure(error)
        if first is not error:
            _failed(first, str(first), first.exit_code, debug=False)
        _failed(error, str(error), first.exit_code, stop.debug)
        for later in error.later:
            _failed(later, str(later), later.exit_code, stop.debug)
        return first.exit_code
    except Exception as error:
        words = (
            f"internal error: {type(error).__name__}: {error}. Run again with --debug to see where"
        )
        if isinstance(error, OSError):
            _drop_output()
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        usage = too_long or (isinstance(error, ValueError) and refused(error) is not None)
        return _failed(error, refused(error) or words, 2 if usage else 1, stop.debug)


def _first_failure(error: RtsegError) -> RtsegError:
    """What failed before `error`, which came of closing what was open; else `error` itself."""
    while isinstance(error.__context__, RtsegError) and not error.__suppress_context__:
        error = error.__context__
    return error


def _failed(error: BaseException, words: str, exit_code: int, debug: bool) -> int:
    from rtseg.addresses import shown
    from rtseg.text import shortened

    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(shown(line), file=sys.stderr)
    print("rtseg: error:", shortened(shown(" ".join(words.split())), MAX_ERROR), file=sys.stderr)
    return exit_code


def _pipe_closed() -> int:
    """Whoever read our stdout has had enough: no error, and nothing more to say."""
    discard_output(sys.stdout)
    return 0


def _drop_output() -> None:
    """Python flushes stdout once more on its way out, which must not fail a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output(sys.stdout)


def _dispatch(arguments: Sequence[str], stop: Stop) -> int:
    """Find the verb, read its flags, and run it."""
    check_surroundings()
    from cyclopts import CycloptsError

    from rtseg.cli.commands import build_app, prepare, usage_error, verb_of

    verb = verb_of(arguments)
    app = build_app(stop, verb)
    tokens = prepare(app, arguments)
    try:
        command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        raise usage_error(error, verb or "run") from error
    return _as_exit_code(command(*bound.args, **bound.kwargs))


def _as_exit_code(result: Any) -> int:
    return result if isinstance(result, int) else 0
