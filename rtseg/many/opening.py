"""Opening several sources: all at once, and one that fails stands in nobody's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rtseg.contracts import Source
from rtseg.errors import RtsegError, SourceError
from rtseg.many.feed import Unopened
from rtseg.threads import spread

Open = Callable[[], Source]


def open_all(openers: Sequence[tuple[str, Open]]) -> list[Source]:
    """Open sources beside each other, each by a call; in their order.

    One that cannot be opened is an `Unopened` of the name that stands before its call.

    Raises:
        RtsegError: a call failed in another way, as of what makes no sense; the others are closed.
    """
    found = list(spread(openers, _attempt, lanes=max(1, len(openers)), name="open"))
    failed = [result for result in found if isinstance(result, RtsegError)]
    sources = [result for result in found if isinstance(result, Source)]
    if failed:
        for source in sources:
            source.close()
        raise failed[0]
    return sources


def _attempt(opener: tuple[str, Open]) -> Source | RtsegError:
    name, opened = opener
    try:
        return opened()
    except SourceError as error:
        return Unopened(name, error)
    except RtsegError as error:
        return error
