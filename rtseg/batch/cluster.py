"""Workers that are actors of Ray, on this machine or on a cluster.

Without RAY_ADDRESS a Ray of this batch alone is started here, told to use the loopback address.
Some of its processes listen on every interface all the same, so each call needs a token
(RAY_AUTH_MODE). Its usage statistics are off.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rtseg.batch.options import BatchOptions
from rtseg.batch.tasks import WORKER, Event, Outcome, Task
from rtseg.cli.options import Flags
from rtseg.errors import DeviceError, RtsegError, UsageError, first_line
from rtseg.options import imported
from rtseg.system import usable_cores
from rtseg.text import counted

POLL_SECONDS = 1.0
"""Between two looks at the frames that the actors have done."""


def usual_workers(flags: Flags, options: BatchOptions) -> int:
    """One for two cores of the cluster, or as many as its GPUs have room for."""
    gpus = options.gpus_per_worker or 0
    return max(1, _room(_connected(), flags.network.threads or (1 if gpus else 2), gpus))


def _room(ray: Any, cores: int, gpus: float) -> int:
    """Workers that fit on the machines of the cluster at once; a fraction is of one GPU."""
    room = 0
    for node in ray.nodes():
        there = node["Resources"] if node["Alive"] else {}
        fits = there.get("CPU", 0) // cores
        if gpus:
            count = there.get("GPU", 0)
            fits = min(fits, count * (1 // gpus) if gpus < 1 else count // gpus)
        room += int(fits)
    return room


def _connected() -> Any:
    """The module ray, connected to the cluster of RAY_ADDRESS, or to one that is started here.

    Raises:
        UsageError: it is not installed.
        RtsegError: the cluster does not answer, or cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    elsewhere = os.environ.get("RAY_ADDRESS")
    if not elsewhere:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        do = 'python -m pip install "rtseg[ray]"'
        raise UsageError("--engine ray", found="Ray is not installed", do=do) from error
    if ray.is_initialized():
        return ray
    here = {"num_cpus": usable_cores(), "include_dashboard": False}
    try:
        ray.init(
            log_to_driver=False,
            configure_logging=False,
            **({} if elsewhere else {**here, "_node_ip_address": "127.0.0.1"}),
        )
    except Exception as error:
        # its raylet ends where another of its processes takes more than 15 s to start (Ray 2.60)
        do = "" if elsewhere else "Try again while other programs leave the machine time"
        raise RtsegError("cannot use Ray", found=first_line(error), do=do) from error
    return ray


class _Actor:
    """A worker as Ray runs it; `run` and `seen` are called from two threads.

    Args:
        folder: the current one, as paths may be relative.
    """

    def __init__(self, flags: Flags, folder: str) -> None:
        with suppress(OSError):  # a machine that has no such folder: then nothing is relative
            os.chdir(folder)
        self._seen: tuple[bool, int, int] = (False, 0, 0)
        self._worker = imported(WORKER)(flags, self._report)

    def _report(self, kind: str, content: Any) -> None:
        self._seen = (True, 0, 0) if kind == "loaded" else (self._seen[0], *content)

    def run(self, task: Task) -> tuple[Outcome, bool]:
        """Do a task; whether a network is loaded by now too."""
        return self._worker.run(task), self._seen[0]

    def seen(self) -> tuple[bool, int, int]:
        """Whether a network is loaded, frames that are done, and how many there are, or 0."""
        return self._seen


class Actors:
    """The `Pool` of Ray."""

    def __init__(self, flags: Flags, options: BatchOptions, workers: int) -> None:
        self._ray = ray = _connected()
        there = ray.cluster_resources()
        gpus = options.gpus_per_worker or 0
        most = flags.network.threads or max(1, int(there.get("CPU", 1)) // workers)
        least = flags.network.threads or 1
        threads = next((n for n in range(most, least, -1) if _room(ray, n, gpus) >= workers), least)
        # Ray would wait for ever for what is not there
        if gpus and not there.get("GPU"):
            raise DeviceError(
                f"--gpus-per-worker {gpus:g}",
                found="Ray has found no GPU on its machines",
                do="Leave it out, or use a cluster that has GPUs (RAY_ADDRESS)",
            )
        if (room := _room(ray, threads, gpus)) < workers:
            each = f"{counted(threads, 'CPU')}" + (f" and {gpus:g} GPUs" if gpus else "")
            raise UsageError(
                f"{counted(workers, 'worker')} with {each} each",
                found=f"Ray's machines have room for {room}",
                do="Use fewer --workers or --threads, or a smaller --gpus-per-worker",
            )
        self._flags = replace(flags, network=replace(flags.network, threads=threads))
        self._resources = {"num_cpus": threads, "num_gpus": gpus}
        self._actors: list[Any] = [None] * workers
        self._running: dict[Any, int] = {}
        self._asked: dict[Any, int] = {}
        self._next = 0.0

    def give(self, worker: int, task: Task) -> None:
        """As `Pool`."""
        if self._actors[worker] is None:
            actor = self._ray.remote(_Actor).options(max_concurrency=2, **self._resources)
            self._actors[worker] = actor.remote(self._flags, os.getcwd())  # noqa: PTH109
        self._running[self._actors[worker].run.remote(task)] = worker

    def poll(self, seconds: float) -> Iterator[Event]:
        """As `Pool`."""
        now = time.monotonic()
        if now >= self._next and not self._asked:
            self._next = now + POLL_SECONDS
            self._asked = {self._actors[n].seen.remote(): n for n in self._running.values()}
        waited = [*self._running, *self._asked]
        if not waited:
            time.sleep(seconds)
            return
        ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=seconds)
        events: deque[Event] = deque()
        for one in ready:
            if (worker := self._running.pop(one, None)) is not None:
                events.extend(self._ended(worker, one))
            elif (worker := self._asked.pop(one, None)) is not None:
                with suppress(self._ray.exceptions.RayError):
                    loaded, done, total = self._ray.get(one)
                    events += [Event(worker, "loaded")] if loaded else []
                    events.append(Event(worker, "frames", (done, total)))
        yield from events

    def close(self) -> None:
        """As `Pool`; a Ray that was started here ends with it."""
        for actor in self._actors:
            if actor is not None:
                self._ray.kill(actor)
        self._ray.shutdown()

    def _ended(self, worker: int, result: Any) -> Iterator[Event]:
        try:
            outcome, loaded = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            # Ray starts none again by itself: what is left of it is ended, and the next task gets
            # a new one
            self._ray.kill(self._actors[worker])
            self._actors[worker] = None
            yield Event(worker, "died", _how(error))
            return
        if loaded:
            yield Event(worker, "loaded")
        yield Event(worker, "done", outcome)


def _how(error: Exception) -> str:
    """Ray's words for the end of an actor, which are pages long."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}"
