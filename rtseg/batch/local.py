"""Workers that are processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any

from rtseg.batch.options import BatchOptions
from rtseg.batch.tasks import WORKER, Event, Task
from rtseg.cli.options import Flags
from rtseg.options import imported
from rtseg.processes import Child, Line
from rtseg.system import gpu_is_likely, return_freed_memory, usable_cores
from rtseg.threads import Flow

CORES_EACH = 2
"""For a worker of which nothing else is said."""

_SERVE = "from rtseg.batch.local import serve; serve()"
_BIND = "import os; os.sched_setaffinity(0, {cores}); "
"""Before libraries count the cores."""


def usual_workers(flags: Flags, options: BatchOptions) -> int:
    """One for two cores, as decoding, the network and encoding overlap; one where there is a GPU,
    whose memory several would have to share."""
    if flags.network.device != "cpu" and gpu_is_likely():
        return 1
    return max(1, usable_cores() // CORES_EACH)


def shares_of_cores(workers: int) -> list[list[int]]:
    """The processors of each worker, all of which are dealt; none where the system cannot bind a
    process to them."""
    if workers == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    dealt = max(workers, usable_cores())
    ends = [n * dealt // workers for n in range(workers + 1)]
    return [[cores[k % len(cores)] for k in range(*pair)] for pair in pairwise(ends)]


class Processes:
    """The local `Pool`: each worker is a process with its own share of the cores."""

    def __init__(self, flags: Flags, options: BatchOptions, workers: int) -> None:
        self._flags = flags
        self._events: SimpleQueue[tuple[_Process | None, Event]] = SimpleQueue()
        self._cores = shares_of_cores(workers)
        self._running: list[_Process | None] = [None] * workers

    def give(self, worker: int, task: Task) -> None:
        """As `Pool`."""
        process = self._running[worker]
        if process is None:
            process = _Process(worker, self._flags, self._cores[worker], self._events)
            self._running[worker] = process
        process.send(task)

    def poll(self, seconds: float) -> Iterator[Event]:
        """As `Pool`."""
        try:
            process, event = self._events.get(timeout=seconds)
            while True:
                if event.kind == "died" and process is not None:
                    if self._running[event.worker] is process:
                        self._running[event.worker] = None
                    process.close()
                yield event
                process, event = self._events.get_nowait()
        except Empty:
            return

    def close(self) -> None:
        """As `Pool`."""
        for process in self._running:
            if process is not None:
                process.close()


class _Process:
    """One worker, and the thread that reads what it reports."""

    def __init__(
        self,
        number: int,
        flags: Flags,
        cores: Sequence[int],
        events: SimpleQueue[tuple[_Process | None, Event]],
    ) -> None:
        self._number, self._events = number, events
        self._child = Child((_BIND.format(cores=cores) if cores else "") + _SERVE)
        self._flow = Flow(self._read(), name=f"worker-{number}")
        self._flow.__enter__()
        self.send(flags)

    def send(self, message: Any) -> None:
        """Send an object; a worker that has died reports that by itself."""
        with suppress(OSError, ValueError):
            self._child.send(message)

    def close(self) -> None:
        """End the process; may be called again."""
        self._child.kill()
        self._flow.__exit__(None, None, None)
        self._child.close()

    def _read(self) -> Iterator[Event]:
        with suppress(EOFError):
            while True:
                kind, content = self._child.receive()
                self._events.put((self, Event(self._number, kind, content)))
        self._events.put((self, Event(self._number, "died", self._child.how_it_ended())))
        yield from ()


def serve() -> None:
    """Do the tasks that the parent sends, and report to it."""
    line = Line()
    return_freed_memory()
    messages = iter(line)
    worker = imported(WORKER)(next(messages), lambda kind, content: line.send((kind, content)))
    for task in messages:
        line.answer(("done", worker.run(task)))
        if worker.hung:
            os._exit(1)
