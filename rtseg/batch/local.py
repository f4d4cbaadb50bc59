"""Workers that are processes of this machine, told what to do over pipes.

A worker ends with the process that started it, however that ended, even in the middle of a clip.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

from rtseg.batch.options import BatchOptions
from rtseg.batch.tasks import WORKER, Event, Task
from rtseg.cli.options import Flags
from rtseg.options import imported
from rtseg.system import gpu_is_likely, python_command, return_freed_memory, usable_cores
from rtseg.threads import Flow

CORES_EACH = 2
"""For a worker of which nothing else is said."""

CLOSE_SECONDS = 5.0
_SERVE = "from rtseg.batch.local import serve; serve()"
_BIND = "import os; os.sched_setaffinity(0, {cores}); "
"""Before libraries count the cores."""


def usual_workers(flags: Flags) -> int:
    """One for two cores, as decoding, the network and encoding overlap; one where there is a GPU,
    whose memory several would have to share."""
    if flags.network.device != "cpu" and gpu_is_likely():
        return 1
    return max(1, usable_cores() // CORES_EACH)


def shares_of_cores(workers: int) -> list[list[int]]:
    """The processors of each worker; none where the system cannot bind a process to them."""
    if workers == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, usable_cores() // workers)
    return [[cores[(n * each + k) % len(cores)] for k in range(each)] for n in range(workers)]


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
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            python_command((_BIND.format(cores=cores) if cores else "") + _SERVE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # without Ctrl-C, which the parent handles
        )
        self._flow = Flow(self._read(), name=f"worker-{number}")
        self._flow.__enter__()
        self.send(flags)

    def send(self, message: Any) -> None:
        """Send an object; a worker that has died reports that by itself."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process; may be called again."""
        self._process.kill()
        self._process.wait()
        self._flow.__exit__(None, None, None)
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _read(self) -> Iterator[Event]:
        assert self._process.stdout is not None
        with suppress(OSError, EOFError, pickle.UnpicklingError, ValueError):
            while True:
                kind, content = pickle.load(self._process.stdout)
                self._events.put((self, Event(self._number, kind, content)))
        self._events.put((self, Event(self._number, "died", self._how())))
        yield from ()

    def _how(self) -> str:
        """How it died, and the last line that it printed."""
        code = self._process.wait()
        with suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            last = f": {lines[-1]}" if lines else ""
            return f"killed by signal {-code}{last}" if code < 0 else f"exit code {code}{last}"
        return "closed"


def serve() -> None:
    """Do tasks from stdin, and report on stdout; what libraries print goes to stderr.

    Returns when the parent closes the pipe. If the pipe ends during a task, the parent is dead,
    however it died, and this process ends in the middle of the task.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tasks = _Tasks(sys.stdin.buffer)
    return_freed_memory()

    def report(kind: str, content: Any) -> None:
        try:
            pickle.dump((kind, content), answers)
            answers.flush()
        except BrokenPipeError:  # the parent died; nothing more may be written
            os._exit(1)

    with Flow(tasks, name="tasks") as flow:
        messages = iter(flow)
        worker = imported(WORKER)(next(messages), report)
        for task in messages:
            outcome = worker.run(task)
            tasks.open = False
            report("done", outcome)
            if worker.hung:
                os._exit(1)


class _Tasks:
    """What the parent sends, until it closes the pipe.

    Attributes:
        open: whether a task was read and is not finished.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self.open = False

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                message = pickle.load(self._pipe)
            except (OSError, EOFError, pickle.UnpicklingError):
                if self.open:
                    os._exit(1)
                return
            self.open = isinstance(message, Task)
            yield message
