"""The reverse of a flow: the caller makes the items, a thread works on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
