"""Compares backends: agreement of their masks, and time per frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Backend
from rtseg.decode import decode
from rtseg.errors import RtsegError
from rtseg.frame import Image, Mask
from rtseg.planes import small_rgb
from rtseg.stats import Clock

BLOCK_SECONDS = 0.05
"""Target duration of one backend's block of calls in a round."""

Batch = NDArray[np.uint8]
"""(1, h, w, 3) uint8 RGB at the network's input size."""

Key = TypeVar("Key")


def batch_of(image: Image, size: tuple[int, int]) -> Batch:
    """(1, h, w, 3) uint8 RGB from a (H, W, 3) uint8 BGR image, as `Segmenter` feeds a network.

    Args:
        size: (h, w).
    """
    return small_rgb(image, size)[np.newaxis]


COUNTED_SHARE = 0.005
"""A class counts with at least this share of all pixels: fewer are the edges of others."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of two networks.

    Attributes:
        shares: for each frame, the share (0..1) of pixels with the same class in both masks.
        ious: intersection over union (0..1) of each class that has `COUNTED_SHARE` of the pixels
            of all frames in either network's masks, over all frames together.
    """

    shares: tuple[float, ...]
    ious: Mapping[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean share over the frames."""
        return fmean(self.shares)

    @property
    def worst(self) -> float:
        """The smallest share."""
        return min(self.shares)

    @property
    def worst_frame(self) -> int:
        """Index of the frame with the smallest share."""
        return self.shares.index(self.worst)

    @property
    def worst_iou(self) -> float:
        """The smallest of `ious`."""
        return min(self.ious.values(), default=1.0)


def mask_agreement(pairs: Iterable[tuple[Mask, Mask]]) -> Agreement:
    """Agreement of pairs of masks, (H, W) uint8, each pair of one frame."""
    shares, ours, theirs, both = [], *np.zeros((3, 256), np.int64)
    for one, other in pairs:
        same = one == other
        shares.append(float(np.mean(same)))
        for counts, mask in ((ours, one), (theirs, other), (both, one[same])):
            counts += np.bincount(mask.reshape(-1), minlength=256)
    counted = np.flatnonzero(np.maximum(ours, theirs) >= max(1, COUNTED_SHARE * ours.sum()))
    ious = {int(c): float(both[c] / (ours[c] + theirs[c] - both[c])) for c in counted}
    return Agreement(tuple(shares), ious)


def backend_agreement(backend: Backend, reference: Backend, batches: Sequence[Batch]) -> Agreement:
    """Agreement of two backends at the network's input size.

    Raises:
        RtsegError: a backend failed.
    """
    align = reference.spec.align_corners

    def mask(one: Backend, batch: Batch) -> Mask:
        return decode(one(batch)[0], (batch.shape[1], batch.shape[2]), align_corners=align)[0]

    return mask_agreement((mask(backend, batch), mask(reference, batch)) for batch in batches)


def time_each(
    backends: Mapping[Key, Backend],
    batch: Batch,
    *,
    seconds: float,
    least_rounds: int = 2,
    most_rounds: float = math.inf,
    drop_factor: float = math.inf,
    on_round: Callable[[int], object] = lambda done: None,
    clock: Clock | None = None,
) -> tuple[dict[Key, float], dict[Key, RtsegError]]:
    """Seconds per frame of each backend, and the errors of those that failed.

    The backends are timed in alternation, in rounds, because a machine's speed varies over time; a
    backend's figure is the median of its blocks. Each is called in threads of its own, as in a run,
    because libraries set up state for each calling thread. With several lanes the figure is their
    combined throughput.

    Args:
        backends: loaded and warm, all with the batch's input size.
        seconds: for all rounds together; `least_rounds` are run however long they take.
        drop_factor: after its least rounds a backend that is slower than the fastest by more than
            this factor is dropped; timing ends when one backend is left.
        on_round: called before each round with the number of rounds done; may raise.
    """
    clock = clock or Clock()
    blocks: dict[Key, list[float]] = {key: [] for key in backends}
    failures: dict[Key, RtsegError] = {}
    end = clock.now() + seconds
    done = 0
    with ExitStack() as stack:
        threads = {
            key: stack.enter_context(ThreadPoolExecutor(backend.lanes, "rtseg-measure"))
            for key, backend in backends.items()
        }
        while done < least_rounds or (
            done < most_rounds and clock.now() < end and len(_contenders(blocks, drop_factor)) > 1
        ):
            on_round(done)
            keys = list(blocks) if done < least_rounds else _contenders(blocks, drop_factor)
            for key in keys[::-1] if done % 2 else keys:  # so that none always follows the same one
                try:
                    took = _time_block(backends[key], batch, blocks[key], threads[key], clock)
                    blocks[key].append(took)
                except RtsegError as error:
                    failures[key] = error
                    del blocks[key]
            done += 1
    return {key: median(took) for key, took in blocks.items() if took}, failures


def _contenders(blocks: Mapping[Key, Sequence[float]], factor: float) -> list[Key]:
    """Backends close to the fastest by their best blocks, as other load can only add time."""
    best = {key: min(took) for key, took in blocks.items()}
    return [key for key, took in best.items() if took <= factor * min(best.values())]


def _time_block(
    backend: Backend,
    batch: Batch,
    before: Sequence[float],
    threads: ThreadPoolExecutor,
    clock: Clock,
) -> float:
    """Seconds per frame over one block of calls; `before` has the times of earlier blocks."""
    count = max(1, round(BLOCK_SECONDS / max(before[-1], 1e-4))) if before else 1
    count = max(count, 2 * backend.lanes) if backend.lanes > 1 else count

    def time_call(batch: Batch) -> float:
        start = clock.now()
        if backend.segment is None:
            backend(batch)
        else:  # frames that stay on the device take another path than batches
            backend.segment([batch[0]])[0].wait()
        return clock.now() - start

    start = clock.now()
    each = list(threads.map(time_call, [batch] * count))
    return (clock.now() - start) / count if backend.lanes > 1 else median(each)
