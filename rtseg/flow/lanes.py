"""The same work on several items at once, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def spread(
    items: Iterable[T], work: Callable[[T], R], lanes: int, name: str = "lane"
) -> Iterator[R]:
    """`work` of every item, in their order, done in `lanes` threads at once.

    One item more than there are lanes is read ahead, so a result waits for later items: this is
    for those that lie ready. An error, of an item or of its work, is raised after the results
    before it; leaving the iteration joins the threads.
    """
    ahead: deque[Future[R]] = deque()
    failure: Exception | None = None
    pool = ThreadPoolExecutor(lanes, thread_name_prefix=f"rtseg-{name}")
    coming = iter(items)
    try:
        while failure is None:
            try:
                ahead.append(pool.submit(work, next(coming)))
            except StopIteration:
                break
            except Exception as error:
                failure = error
            if len(ahead) > lanes:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
