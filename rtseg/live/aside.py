"""Work that no frame waits for: files that are packed and finished while the picture goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from rtseg.errors import RtsegError
from rtseg.memory import give_back
from rtseg.threads import Flow

T = TypeVar("T")

Ending = Callable[[], None]
"""Tells what came of a piece of work; called in the run's own thread."""

LONG = 3600.0


class Aside:
    """Does one thing after the other in a thread of its own; what came of each is told by `turn`.

    The thread begins with the first piece of work, and ends with `finish`.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], Ending] | None] = SimpleQueue()
        self._flow: Flow[Ending] | None = None
        self._endings: Iterator[Ending | None] = iter(())
        self._left = 0

    def begin(
        self,
        work: Callable[[], T],
        then: Callable[[T], None],
        failed: Callable[[RtsegError], None],
    ) -> None:
        """Have `work` done soon.

        Args:
            work: called in the other thread.
            then: told what it gave, in the thread of `turn`.
            failed: told there of an RtsegError that it raised; others come out of `turn` or
                `finish`, and what was asked for after it is done all the same.
        """
        if self._flow is None:
            ended = (do() for do in iter(self._asked.get, None))
            self._flow = Flow(ended, name="aside")
            self._flow.__enter__()
            self._endings = self._flow.poll(0.0)
        self._left += 1
        self._asked.put(partial(_done, work, then, failed))

    @property
    def left(self) -> int:
        """How many pieces of work have not been told of."""
        return self._left

    def turn(self) -> None:
        """Tell of what has ended; returns at once."""
        while self._left and (ending := next(self._endings, None)) is not None:
            self._left -= 1
            ending()

    def finish(self) -> None:
        """Wait for all of it, however long it takes, and tell of it; may be called again."""
        flow, self._flow = self._flow, None
        if flow is None:
            return
        self._asked.put(None)
        endings = [ending for ending in flow.poll(LONG) if ending is not None]
        self._left = 0
        flow.__exit__(None, None, None)
        for ending in endings:  # now that all is done, one may raise
            ending()


def _done(
    work: Callable[[], T], then: Callable[[T], None], failed: Callable[[RtsegError], None]
) -> Ending:
    try:
        return partial(then, work())
    except RtsegError as error:
        return partial(failed, error)
    except Exception as error:  # in the thread it would end all that is still to be done
        return partial(_raise, error)
    finally:
        give_back()


def _raise(error: Exception) -> None:
    raise error
