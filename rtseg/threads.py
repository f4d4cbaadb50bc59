"""All threads of rtseg live here, and mean one thing.

"Run this iterable over there, let me iterate it here." A flow knows nothing of frames. `Line` is
its reverse, for the end of the loop: "I make these, do that to them over there."
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from rtseg.system import limited_cores, physical_cores, usable_cores

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


class Line(Generic[T]):
    """Does the same to one item after the other, in a thread of its own; few of them wait.

    The reverse of a flow: here the caller makes the items. Nothing is lost: where there is no room,
    `put` waits. An error ends the work; items after it are left alone.

    Args:
        work: called in the thread, which begins with the first item.
        capacity: how many items may wait.
        name: the thread's name, for people who debug.
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
        """Whether the thread is there, and may be at an item."""
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
        """Wait until all is done; raises what the work raised, unless `put` did. May be repeated.

        An interrupted wait leaves the thread `working`.
        """
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


class Slot(Generic[T]):
    """One place for one item, which a thread fills and another, iterating, empties.

    An item not yet taken makes way for the next. Iterating waits for items until it is closed.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=1)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T) -> None:
        """Fill the place; returns at once."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """End the iteration, whatever lies there; may be called again."""
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


__all__ = [
    "Flow",
    "Line",
    "Slot",
    "limited_cores",
    "one_at_a_time",
    "physical_cores",
    "share_bell",
    "spread",
    "usable_cores",
]


JOIN_SECONDS = 1.5
"""A program that must leave a hung thread behind is gone within two seconds."""


def one_at_a_time() -> AbstractContextManager[Any]:
    """A `with` that lets one thread in after the other."""
    return threading.Lock()


class Flow(Generic[T]):
    """One producer thread, one reader, one bounded buffer.

    `every` (the default) loses nothing and brakes the producer; `latest` keeps only the newest
    item and counts those it replaced. An error of the producer is raised, as the same object, in
    the reader, after the items before it. Leaving the `with` stops and joins.

    Args:
        items: iterated in the thread; a generator is closed there too.
        latest: keep the newest item instead of every one.
        capacity: items buffered for `every`.
        in_step: begin the next item only once the reader has said `go_on` about the last one.
        name: the thread's name, for people who debug.
        interrupt: called once on stop, from the reader's thread; asks `items` to end soon.
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
        self._stopped = False
        self._held = False
        self._goes_on = False
        self._ended = False
        self._error: BaseException | None = None
        # A daemon: a driver that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._produce, name=f"rtseg-{name}", daemon=True)

    @property
    def discarded(self) -> int:
        """Items left unread when the flow was stopped."""
        return self.produced - self.delivered - self.replaced

    @property
    def hung(self) -> bool:
        """Whether the thread is still inside `items` after it was stopped and joined."""
        return self._stopped and self._thread.is_alive()

    @property
    def over(self) -> bool:
        """Whether nothing more will come: the producer has ended, and all it made was read."""
        return self._stopped or (self._ended and not self._buffer)

    @property
    def error(self) -> BaseException | None:
        """What the producer raised, for those who ask instead of iterating."""
        return self._error

    def take(self) -> T | None:
        """The next item if one is there, else None; returns at once."""
        with self._changed:
            return self._take()

    def newer(self, seconds: float) -> T | None:
        """An item that is made within `seconds`, instead of the last one read, which then counts
        as replaced; None where there is none.
        """
        with self._changed:
            self._changed.wait_for(self._ready, timeout=seconds)
            item = self._take()
            if item is not None:
                self.delivered -= 1
                self.replaced += 1
            return item

    def stop(self) -> None:
        """Ask the producer to end; returns at once, may be called again."""
        with self._changed:
            first, self._stopped = not self._stopped, True
            self._changed.notify_all()
        if first and self._interrupt is not None:
            self._interrupt()

    def go_on(self) -> None:
        """Let a producer that goes in step begin its next item; any other has begun it already."""
        with self._changed:
            self._goes_on = True
            self._changed.notify_all()

    def hold(self) -> None:
        """Let the producer rest; what it made before `release` is stale then, and replaced."""
        with self._changed:
            self._held = self._goes_on = True
            self.replaced += len(self._buffer)
            self._buffer.clear()
            self._changed.notify_all()

    def release(self) -> None:
        """Let it go on after `hold`, with what is newest then."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def poll(self, seconds: float) -> Iterator[T | None]:
        """Iterate, yielding None whenever nothing came for `seconds`."""
        while True:
            with self._changed:
                self._changed.wait_for(self._ready, timeout=seconds)
                item = self._take()
                if item is None and (self._stopped or self._ended):
                    break
            yield item
        if self._error is not None and not self._stopped:
            raise self._error

    def __iter__(self) -> Iterator[T]:
        return (item for item in self.poll(3600.0) if item is not None)

    def __enter__(self) -> Flow[T]:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._thread.join(JOIN_SECONDS)

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
            self._error = error
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
            self._error = self._error or error

    def _put(self, item: T) -> bool:
        """Hand over one item; False when nobody reads any more."""
        with self._changed:
            self.produced += 1
            if self._held:
                self._changed.wait_for(lambda: self._stopped or not self._held)
                self.replaced += 1
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


def share_bell(flows: Iterable[Flow[T]]) -> threading.Condition:
    """One condition for flows that do not run yet, told of whatever changes in any of them."""
    bell = threading.Condition()
    for flow in flows:
        flow._changed = bell
    return bell


FOREVER_SECONDS = 3600.0


class Turns(Generic[T]):
    """Reads several flows, for one thread or for many; the one served longest ago comes first.

    A flow whose item was taken is passed over until `back` is called for it, so that nobody works
    on two items of one flow, and none of the others waits for it.

    Args:
        flows: not yet running.
    """

    def __init__(self, flows: Sequence[Flow[T]]) -> None:
        self.flows = tuple(flows)
        self._changed = share_bell(self.flows)
        self._queue = list(range(len(self.flows)))
        self._out: set[int] = set()
        self._stopped = False

    def take(self, most: int, seconds: float) -> list[tuple[int, T]]:
        """Up to `most` items with the numbers of their flows, at most one of each flow.

        Waits until there is one, but not longer than `seconds`, nor when nothing more will come.
        """
        taken: list[tuple[int, T]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._fill(taken, most) or self.over, seconds)
        return taken

    def back(self, index: int) -> None:
        """Let the next item of a flow come."""
        with self._changed:
            self._out.discard(index)
            self._changed.notify_all()

    def wait_back(self, indices: Iterable[int], seconds: float) -> None:
        """Return once these are back, or after so many seconds."""
        awaited = set(indices)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not awaited & self._out, seconds)

    def rounds(self, most: int) -> Iterator[list[tuple[int, T]]]:
        """What `take` gives, again and again, until all flows are over or `stop` is called."""
        while not self.over:
            if taken := self.take(most, FOREVER_SECONDS):
                yield taken

    def stop(self) -> None:
        """End the iterations, from any thread; the flows go on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._stopped or all(flow.over for flow in self.flows)

    def is_through(self, index: int) -> bool:
        """Whether a flow is over, and its last item is back."""
        with self._changed:
            return self.flows[index].over and index not in self._out

    def _fill(self, taken: list[tuple[int, T]], most: int) -> bool:
        """Take what is there, in turns; whether there was anything."""
        if self._stopped:
            return False
        for index in list(self._queue):
            if len(taken) == most:
                break
            if index not in self._out and (item := self.flows[index].take()) is not None:
                taken.append((index, item))
                self._queue.remove(index)
                self._queue.append(index)
                self._out.add(index)
        return bool(taken)
