"""How long networks take, one beside the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from rtseg.contracts import Backend
from rtseg.export.frames import Watch, batch_of
from rtseg.frame import Image

ROUNDS = 15
LEAST_ROUNDS = 3
SECONDS = 6.0


def time_each(
    backends: Mapping[str, Backend],
    image: Image,
    watch: Watch,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of one run of each network, the model only: no frame is shrunk or drawn.

    The networks take turns, as a machine is not equally fast all the time; rounds end after
    fifteen, or after three once six seconds have passed.
    """
    batches = {name: batch_of(image, backend.input_size) for name, backend in backends.items()}
    took: dict[str, list[float]] = {name: [] for name in backends}
    start = now()
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and now() - start > SECONDS:
            break
        watch("timing", done, ROUNDS)
        for name in _turn(list(backends), done):
            before = now()
            backends[name](batches[name])
            took[name].append(1e3 * (now() - before))
    return {name: median(times) for name, times in took.items()}


def _turn(names: Sequence[str], round_number: int) -> Sequence[str]:
    """The names, backwards every other time: none always follows the same one."""
    return names[::-1] if round_number % 2 else names
