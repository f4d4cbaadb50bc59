"""Several open backends timed side by side, and the masks of one held against another's.

Live, what counts is how soon one frame is done; for a file, how many are done in a second with as
many at once as the backend has lanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rtseg.clock import Clock
from rtseg.contracts import Backend
from rtseg.decode import decode_mask
from rtseg.errors import RtsegError

Batch = NDArray[np.uint8]
"""(1, h, w, 3) uint8 RGB at the network's input size."""

Key = TypeVar("Key")

BUDGET_SECONDS = 1.5
"""For all backends together; each is run twice, however long that takes."""

BLOCK_SECONDS = 0.05
"""About as long is each backend's turn in a round."""

FEWEST_ROUNDS = 2
HOPELESS = 1.4
"""A backend that takes so many times as long as the quickest has no further turn."""


def time_each(
    backends: Mapping[Key, Backend],
    batch: Batch,
    *,
    clock: Clock | None = None,
    budget_seconds: float = BUDGET_SECONDS,
) -> tuple[dict[Key, float], dict[Key, RtsegError]]:
    """Seconds per frame of each: the median of interleaved rounds; and those that failed.

    They are warm already, by their constructors. Each runs in threads of its own, as in a run.
    """
    clock = clock or Clock()
    turns: dict[Key, list[float]] = {key: [] for key in backends}
    failures: dict[Key, RtsegError] = {}
    ends = clock.now() + budget_seconds
    rounds = 0
    with ExitStack() as stack:
        # for all turns the same: libraries prepare for each thread that they meet
        threads = {
            key: stack.enter_context(ThreadPoolExecutor(backend.lanes, "rtseg-contest"))
            for key, backend in backends.items()
        }
        while rounds < FEWEST_ROUNDS or (clock.now() < ends and len(_hopeful(turns)) > 1):
            for key in list(turns if rounds < FEWEST_ROUNDS else _hopeful(turns)):
                try:
                    turn = _turn(backends[key], batch, turns[key], threads[key], clock)
                    turns[key].append(turn)
                except RtsegError as error:
                    failures[key] = error
                    del turns[key]
            rounds += 1
    return {key: median(seconds) for key, seconds in turns.items() if seconds}, failures


def _hopeful(turns: Mapping[Key, Sequence[float]]) -> list[Key]:
    """By their best turn: whatever else the machine does only ever adds to one."""
    best = {key: min(seconds) for key, seconds in turns.items()}
    return [key for key, seconds in best.items() if seconds <= HOPELESS * min(best.values())]


def _turn(
    backend: Backend,
    batch: Batch,
    before: Sequence[float],
    threads: ThreadPoolExecutor,
    clock: Clock,
) -> float:
    """Seconds per frame over one turn."""
    count = max(1, round(BLOCK_SECONDS / max(before[-1], 1e-4))) if before else 1
    count = max(count, 2 * backend.lanes) if backend.lanes > 1 else count

    def one(batch: Batch) -> float:
        since = clock.now()
        if backend.see is None:
            backend(batch)
        else:  # a frame that stays on the device goes another way than a batch
            backend.see([batch[0]])[0].wait()
        return clock.now() - since

    since = clock.now()
    each = list(threads.map(one, [batch] * count))
    return (clock.now() - since) / count if backend.lanes > 1 else median(each)


def agreement(backend: Backend, reference: Backend, batches: Sequence[Batch]) -> float:
    """Share (0..1) of pixels that both give the same class, at the network's input size.

    Raises:
        RtsegError: one failed, or they give scores of different shapes.
    """
    align = reference.spec.align_corners
    shares = []
    for batch in batches:
        size = batch.shape[1], batch.shape[2]
        ours, theirs = (
            decode_mask(one(batch)[0], size, align_corners=align) for one in (backend, reference)
        )
        shares.append(float((ours == theirs).mean()))
    return float(np.mean(shares))
