"""Several flows read as one, each in its turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from rtseg.threads import Flow, share_bell

T = TypeVar("T")

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
