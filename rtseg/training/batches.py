"""Batches, read by worker processes in an order that only the seed decides."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data import Dataset as TorchDataset

from rtseg.datasets import Sample
from rtseg.datasets.contract import Table
from rtseg.errors import DatasetError, RtsegError
from rtseg.frame import Image, Mask
from rtseg.training.augment import Transform, View
from rtseg.training.teachers import Soft, doubted


def mixed_seed(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator within the `with` block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


Draw = tuple[int, int]
"""A sample's index in its split, and the seed of its augmentation."""

Batch = tuple[Tensor, ...]
"""Views, stacked."""

Loader = DataLoader[View | RtsegError]

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 2
"""Batches that each worker prepares ahead."""
BYTES_PER_PIXEL = 3 * 4 + 8
"""In a `Batch`, without soft labels."""


class TrainingImages(TorchDataset[View | RtsegError]):
    """The samples of a split, mapped to the trained classes and transformed.

    The seed of an image's augmentation is part of the draw, so that it depends neither on the
    number of workers nor on earlier draws.

    Args:
        soft: reads the soft labels of a sample.
        classes: K of soft labels.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        table: Table,
        transform: Transform,
        soft: Callable[[Sample], Soft] | None = None,
        classes: int = 0,
    ) -> None:
        self.samples, self.table, self.transform, self._soft = samples, table, transform, soft
        self._classes = classes
        self._labelled = [i for i, sample in enumerate(samples) if sample.labelled]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> View | RtsegError:
        """The pair, or the error: raised in a worker, it would lose its fields on the way."""
        try:
            return self.view(*draw)
        except RtsegError as error:
            return error

    def view(self, index: int, seed: int = 0) -> View:
        """One view of a sample; raises DatasetError."""
        image, mask = self._read(index)
        sample, background = self.samples[index], self.transform.background
        soft = self._soft(sample) if self._soft else None
        if soft is not None and sample.sparse and background is not None:
            mask = doubted(mask, soft[: 1 + self._classes], background)
        with seeded(seed):
            return self.transform(image, mask, self._any, soft)

    def _any(self) -> tuple[Image, Mask]:
        """A random labelled image, whose objects may be pasted."""
        return self._read(self._labelled[int(torch.randint(len(self._labelled), ()))])

    def _read(self, index: int) -> tuple[Image, Mask]:
        sample = self.samples[index]
        image, mask = sample.read_image(), sample.read_as(self.table)
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"the mask of {sample.image_path} is {mask.shape[1]}x{mask.shape[0]}",
                found=f"the image is {image.shape[1]}x{image.shape[0]}",
            )
        return image, mask


class Shuffled(Sampler[list[Draw]]):
    """Full batches of one epoch, in an order that (seed, epoch) decide; a share of them per rank.

    Every batch is full, for batch normalisation: what is left over waits for another epoch. A
    split smaller than a batch is repeated.

    Args:
        weights: how often each sample is taken, beside others, (count,); all are positive.

    Attributes:
        epoch: the next epoch.
        first: number of its batches to skip, already done.
    """

    def __init__(
        self, weights: Sequence[float], batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        self.count, self.batch_size, self.seed = len(weights), batch_size, seed
        self.rank, self.world = rank, world
        self._shares = np.array(weights, np.float64) / sum(weights)
        self.epoch = self.first = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return max(1, self.count // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = self._draws()
        step = self.batch_size * self.world
        for batch in range(self.first, len(self)):
            start = batch * step + self.rank * self.batch_size
            yield draws[start : start + self.batch_size]

    def _draws(self) -> list[Draw]:
        random = np.random.default_rng((self.seed, self.epoch))
        needed = len(self) * self.batch_size * self.world
        if np.ptp(self._shares) > 1e-12:
            # as often as its weight says, rounded up or down at random (systematic sampling)
            places = (np.arange(needed) + random.random()) / needed
            drawn = random.permutation(self.count)
            order = drawn[
                np.searchsorted(self._shares[drawn].cumsum(), places).clip(max=self.count - 1)
            ]
            order = random.permutation(order)
        else:
            rounds = -(-needed // self.count)
            order = np.concatenate([random.permutation(self.count) for _ in range(rounds)])
        seeds = random.integers(2**31, size=needed)
        return [(int(i), int(s)) for i, s in zip(order[:needed], seeds, strict=True)]


class InOrder(Sampler[list[Draw]]):
    """Every sample once, a share of them per rank; the last batch may be smaller."""

    def __init__(self, count: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        mine = [(index, 0) for index in range(rank, count, world)]
        self._batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches)


def loader(
    images: TrainingImages, order: Sampler[list[Draw]], *, workers: int, pinned: bool
) -> Loader:
    """Batches in this order; the workers stay for the next epoch.

    Args:
        pinned: read into pinned memory, from which a GPU copies faster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about more workers than cores, as requested
        return DataLoader(
            images,
            batch_sampler=order,
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            worker_init_fn=_init_worker if workers else None,
            collate_fn=_collate,
            generator=torch.Generator(),  # drawing from torch's own would change later dropout
        )


def _collate(items: list[View | RtsegError]) -> Batch | RtsegError:
    failed = [item for item in items if isinstance(item, RtsegError)]
    if failed:
        return failed[0]
    batch: Batch = tuple(default_collate(items))
    return batch


def batches(source: Loader) -> Iterator[Batch]:
    """One epoch of a loader's batches.

    Raises:
        DatasetError: an image or mask cannot be read.
    """
    with warnings.catch_warnings():
        # about a fork beside threads: torch's do not survive it, and OpenCV has none
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)  # about more workers than cores, as requested
        iterator = iter(source)
    for batch in iterator:
        if isinstance(batch, RtsegError):
            raise batch
        yield batch


def close(source: Loader) -> None:
    """End the workers of a loader; it gives no more batches.

    To be called however the training ended. An iterator that is left to the garbage collector, as
    part of a cycle with the traceback of an error, ends its workers too late: the collector
    finalises the queues first, so that the workers never read that they should end, and torch
    waits 5 s for each before it terminates it.
    """
    shut_down = getattr(source._iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Without OpenCV's threads, for which forked workers would wait in vain."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _init_worker(worker: int) -> None:
    """In a worker: one thread; Ctrl-C and the first SIGTERM ignored, a process group of its own.

    The main process handles signals to its group, or to all processes of a service: a worker that
    died of one would be an error there at any moment, even in the middle of a step. It ends workers
    that hang by SIGTERM, sent again when it ends itself.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if sys.platform != "win32":
        os.setpgid(0, 0)


def usual_workers(cores: int, images: int) -> int:
    """Default number of workers: one per core, at most 8, none for a few images."""
    if images < 16 or sys.platform == "win32":
        return 0
    return min(8, max(1, cores))


def fitting_workers(
    requested: int, batch_size: int, size: tuple[int, int], loaders: int, planes: int = 0
) -> int:
    """The requested number of workers, or fewer if their batches do not fit into shared memory.

    A container has 64 MB of it by default, less than three batches of 8 at 513x513.

    Args:
        size: (height, width) of the images.
        loaders: number of loaders in all training processes.
        planes: of soft labels, one byte per pixel each.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # not Linux
        return requested
    batch = batch_size * size[0] * size[1] * (BYTES_PER_PIXEL + planes)
    fit = int(0.9 * free / loaders) // batch - 1  # one batch is in use
    return max(0, min(requested, fit // PREFETCHED))
