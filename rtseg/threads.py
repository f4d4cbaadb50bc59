"""All threads of rtseg: "run this iterable over there, let me iterate it here".

`Flow` is one producer and one reader; `Slot` hands one item to a producer. `Writer` is the reverse
of a flow, and `parallel_map` a map over several threads. Nothing else in rtseg starts a thread.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")
R = TypeVar("R")

JOIN_SECONDS = 1.5
"""A thread that has not ended by then is abandoned; the program ends within two seconds."""


_RUNNING: WeakSet[Flow[Any]] = WeakSet()
if hasattr(os, "register_at_fork"):  # a forked process has none of these threads
    os.register_at_fork(after_in_child=_RUNNING.clear)


@atexit.register
def _stop_all() -> None:
    """A thread that is in a library when Python is taken down aborts the process."""
    for stage in (Flow.stop, Flow.__exit__):  # all of them, before any is waited for
        for flow in list(_RUNNING):
            stage(flow)


class Flow(Generic[T]):
    """One producer thread, one reader, one bounded buffer.

    By default nothing is lost and a full buffer blocks the producer; with `latest` only the newest
    item is kept, and those it replaced are counted. An error of the producer is raised in the
    reader, as the same object, after the items before it. Leaving the `with` stops and joins.

    Args:
        items: iterated in the thread; a generator is closed there too.
        latest: keep the newest item instead of every one.
        capacity: number of buffered items where none is lost.
        in_step: begin the next item only after the reader called `go_on` for the last one.
        name: of the thread, for debugging.
        interrupt: called once on stop, from the reader's thread; makes `items` end soon.

    Attributes:
        error: what the producer raised, for readers that `take` instead of iterating.
    """

    def __init__(
        self,
        items: Iterable[T],
        *,
        latest: bool = False,
        capacity: int = 2,
        in_step: bool = False,
        name: str = "flow",
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.latest = latest
        self.produced = 0
        self.delivered = 0
        self.replaced = 0
        self._items = iter(items)
        self._capacity = 1 if latest else capacity
        self._in_step = in_step
        self._interrupt = interrupt
        self._buffer: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = self._held = self._goes_on = self._ended = False
        self._join_until = 0.0
        self.error: BaseException | None = None
        # a daemon: a driver that never returns must not keep the process alive
        self._thread = threading.Thread(target=self._produce, name=f"rtseg-{name}", daemon=True)

    @property
    def hung(self) -> bool:
        """Whether the thread is still inside `items` after it was stopped and joined."""
        return self._stopped and self._thread.is_alive()

    @property
    def over(self) -> bool:
        """Whether nothing more will come: the producer has ended and every item was read."""
        return self._stopped or (self._ended and not self._buffer)

    def take(self) -> T | None:
        """The next item if there is one, else None; does not wait."""
        with self._changed:
            return self._take()

    def newer(self, seconds: float) -> T | None:
        """An item that arrives within `seconds`, to use instead of the last one read, which then
        counts as replaced; None if none arrives."""
        with self._changed:
            self._changed.wait_for(self._ready, timeout=seconds)
            item = self._take()
            if item is not None:
                self.delivered -= 1
                self.replaced += 1
            return item

    def stop(self) -> None:
        """Ask the producer to end; does not wait, may be called again."""
        with self._changed:
            first, self._stopped = not self._stopped, True
            if first:
                self._join_until = time.monotonic() + JOIN_SECONDS
            self._changed.notify_all()
        if first and self._interrupt is not None:
            self._interrupt()

    def go_on(self) -> None:
        """Let a producer that works in step begin its next item; others need not wait for it."""
        with self._changed:
            self._goes_on = True
            self._changed.notify_all()

    def hold(self, held: bool) -> None:
        """Pause the producer, or resume it with what is newest by then; what it has made by the
        pause, or makes in it, is stale and counts as replaced."""
        with self._changed:
            self._held = held
            if held:
                self._goes_on = True
                self.replaced += len(self._buffer)
                self._buffer.clear()
            self._changed.notify_all()

    def poll(self, seconds: float) -> Iterator[T | None]:
        """Iterate, yielding None whenever nothing arrived for `seconds`."""
        while True:
            with self._changed:
                self._changed.wait_for(self._ready, timeout=seconds)
                item = self._take()
                if item is None and (self._stopped or self._ended):
                    break
            yield item
        if self.error is not None and not self._stopped:
            raise self.error

    def share(self, condition: threading.Condition) -> None:
        """Notify this condition of every change; only before the flow runs."""
        self._changed = condition

    def __iter__(self) -> Iterator[T]:
        return (item for item in self.poll(3600.0) if item is not None)

    def __enter__(self) -> Flow[T]:
        self._thread.start()  # first: what never ran is not waited for
        _RUNNING.add(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        # since it was stopped: flows that were stopped together are waited for together
        self._thread.join(max(0.0, self._join_until - time.monotonic()))

    def _take(self) -> T | None:
        if self._stopped or not self._buffer:
            return None
        self.delivered += 1
        self._changed.notify_all()
        return self._buffer.popleft()

    def _ready(self) -> bool:
        return bool(self._buffer) or self._ended or self._stopped

    def _produce(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # handed to the reader, whatever it is
            self.error = error
        finally:
            self._close_items()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _close_items(self) -> None:
        """Finish a generator in the thread that ran it."""
        close = getattr(self._items, "close", None)
        try:
            if close is not None:
                close()
        except BaseException as error:
            self.error = self.error or error

    def _put(self, item: T) -> bool:
        """Hand over one item; False once nobody reads any more."""
        with self._changed:
            self.produced += 1
            if self._held:
                self.replaced += 1  # at once: after the pause it would seem lost to something else
                self._changed.wait_for(lambda: self._stopped or not self._held)
                return not self._stopped
            if self.latest and self._buffer:
                self._buffer.clear()
                self.replaced += 1
            self._changed.wait_for(lambda: self._stopped or len(self._buffer) < self._capacity)
            if self._stopped:
                return False
            self._buffer.append(item)
            self._goes_on = False
            self._changed.notify_all()
            if self._in_step:
                self._changed.wait_for(lambda: self._stopped or self._goes_on)
            return not self._stopped


class Slot(Generic[T]):
    """Room for one item, which one thread fills and another empties by iterating.

    An item that was not taken yet is replaced by the next. Iteration ends when it is closed."""

    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=1)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T) -> None:
        """Put an item there; does not wait."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """End the iteration, whatever is left; may be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._closed)
                if self._closed:
                    return
                item = self._items.popleft()
            yield item


class Writer(Generic[T]):
    """Does the same work on one item after another, in a thread of its own.

    The reverse of a flow: the caller makes the items. Nothing is lost: `put` waits while the buffer
    is full. An error ends the work; later items are not touched.

    Args:
        work: called in the thread, which starts with the first item.
        capacity: number of items that may wait.
        name: of the thread, for debugging.
    """

    def __init__(self, work: Callable[[T], object], *, capacity: int = 2, name: str) -> None:
        self._work, self._capacity = work, capacity
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._error: Exception | None = None
        self._raised = False
        self._thread = threading.Thread(target=self._run, name=f"rtseg-{name}", daemon=True)

    @property
    def working(self) -> bool:
        """Whether the thread runs and may be working on an item."""
        return self._thread.is_alive()

    def put(self, item: T) -> None:
        """Hand over one item; raises what the work on an earlier one raised."""
        if self._thread.ident is None:
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._error or len(self._waiting) < self._capacity)
            if self._error is not None:
                self._raised = True
                raise self._error
            self._waiting.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait for all items; raises what the work raised, unless `put` did. May be called again.

        An interrupted wait leaves the thread `working`."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._finished)
                if not self._waiting:
                    return
                item = self._waiting.popleft()
                self._changed.notify_all()
            try:
                self._work(item)
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return


def parallel_map(
    items: Iterable[T], work: Callable[[T], R], lanes: int, name: str = "lane"
) -> Iterator[R]:
    """`work` of every item, in order, with `lanes` threads working at once.

    Reads one item more than there are lanes ahead, so a result waits for later items: for items
    that are ready. An error of an item or of its work is raised after the results before it;
    leaving the iteration joins the threads."""
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
