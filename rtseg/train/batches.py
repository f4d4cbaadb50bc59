"""Augmentation and batches, read by worker processes in an order that only the seed decides."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data import Dataset as TorchDataset

from rtseg.datasets import Sample
from rtseg.datasets.contract import Table
from rtseg.errors import DatasetError, RtsegError
from rtseg.frame import Image, Mask
from rtseg.labels import VOID
from rtseg.nets.build import segmentation
from rtseg.train.options import TrainOptions
from rtseg.zoo import InputSpec

Pair = tuple[Tensor, Tensor]
"""(3, h, w) float32 network input, and (h, w) int64 class indices."""

Transform = Callable[[Image, Mask], Pair]
"""From an image (H, W, 3) uint8 BGR and its mask (H, W) uint8 to a `Pair`; uses torch's random
numbers."""


def training(options: TrainOptions, spec: InputSpec) -> Transform:
    """Random scale, rotation, crop, flip, brightness, contrast and noise."""
    v2, tensors = _v2(), _tensors()
    fill = {tensors.Image: _mean_colour(spec), tensors.Mask: VOID}
    geometry = v2.Compose(
        [
            _Scale(options.size, options.scale),
            v2.RandomRotation(
                options.rotation, interpolation=v2.InterpolationMode.BILINEAR, fill=fill
            ),
            v2.RandomCrop(options.size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(options.flip),
            v2.ColorJitter(brightness=options.brightness, contrast=options.contrast),
        ]
    )
    return _finish(geometry, [_Noise(options.noise)] if options.noise else [], spec)


def plain(size: tuple[int, int], spec: InputSpec) -> Transform:
    """The whole image, as large as fits into `size` (height, width); nothing random."""
    geometry = _v2().Compose([_Scale(size, (1.0, 1.0)), _Pad(size, _mean_colour(spec))])
    return _finish(geometry, [], spec)


def _finish(geometry: Callable[..., Any], noise: list[nn.Module], spec: InputSpec) -> Transform:
    """`geometry` on uint8, `noise` on 0..1, then the network's own normalisation."""
    v2, tensors = _v2(), _tensors()
    unit = 255 * spec.scale  # the spec normalises v * scale, and v / 255 is what comes here
    mean, std = ([value / unit for value in triple] for triple in (spec.mean, spec.std))
    normalised = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), *noise, v2.Normalize(mean, std)]
    )

    def transform(image: Image, mask: Mask) -> Pair:
        if spec.colour == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
        pixels, labels = geometry(tensors.Image(planes), tensors.Mask(torch.from_numpy(mask)))
        return normalised(pixels).as_subclass(Tensor), labels.as_subclass(Tensor).long()

    return transform


class _Noise(nn.Module):
    """Gaussian noise of a random strength, clipped to 0..1."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, image: Tensor) -> Tensor:
        """The image with noise whose standard deviation is uniform in 0..most."""
        sigma = self.most * float(torch.rand(()))
        noisy: Tensor = _v2().functional.gaussian_noise(image, sigma=sigma)
        return noisy


class _Scale(nn.Module):
    """Scale to a random share of the largest size that fits into `size` (height, width).

    Not `v2.ScaleJitter`, which swaps height and width of that size (torchvision 0.28).
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both, in their own aspect ratio."""
        height, width = image.shape[-2:]
        ratio = min(self.size[0] / height, self.size[1] / width)
        ratio *= self.scale[0] + float(torch.rand(())) * (self.scale[1] - self.scale[0])
        size = [max(1, round(side * ratio)) for side in (height, width)]
        resize = _v2().functional.resize
        return resize(image, size, antialias=True), resize(labels, size)


class _Pad(nn.Module):
    """Pad to `size` on the right and below, with a colour and with 255."""

    def __init__(self, size: tuple[int, int], colour: list[int]) -> None:
        super().__init__()
        self.size, self.colour = size, colour

    def forward(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both at `size`."""
        pad = _v2().functional.pad
        height, width = image.shape[-2:]
        edges = [0, 0, self.size[1] - width, self.size[0] - height]
        return pad(image, edges, fill=self.colour), pad(labels, edges, fill=VOID)


def _mean_colour(spec: InputSpec) -> list[int]:
    return [min(255, max(0, round(value / spec.scale))) for value in spec.mean]


def _v2() -> ModuleType:
    segmentation()  # makes torchvision importable, whatever its build
    from torchvision.transforms import v2

    return v2


def _tensors() -> ModuleType:
    segmentation()
    from torchvision import tv_tensors

    return tv_tensors


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

Batch = tuple[Tensor, Tensor]
"""(N, 3, h, w) float32 network input, and (N, h, w) int64 class indices."""

Loader = DataLoader[Pair | RtsegError]

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 2
"""Batches that each worker prepares ahead."""
BYTES_PER_PIXEL = 3 * 4 + 8
"""In a `Batch`."""


class TrainingImages(TorchDataset[Pair | RtsegError]):
    """The samples of a split, mapped to the trained classes and transformed.

    The seed of an image's augmentation is part of the draw, so that it depends neither on the
    number of workers nor on earlier draws.
    """

    def __init__(self, samples: Sequence[Sample], table: Table, transform: Transform) -> None:
        self.samples, self.table, self.transform = samples, table, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Pair | RtsegError:
        """The pair, or the error: raised in a worker, it would lose its fields on the way."""
        try:
            return self._pair(*draw)
        except RtsegError as error:
            return error

    def _pair(self, index: int, seed: int) -> Pair:
        sample = self.samples[index]
        image, mask = sample.read_image(), sample.read_as(self.table)
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"the mask of {sample.image_path} is {mask.shape[1]}x{mask.shape[0]}",
                found=f"the image is {image.shape[1]}x{image.shape[0]}",
            )
        with seeded(seed):
            return self.transform(image, mask)


class Shuffled(Sampler[list[Draw]]):
    """Full batches of one epoch, in an order that (seed, epoch) decide; a share of them per rank.

    Every batch is full, for batch normalisation: what is left over waits for another epoch. A
    split smaller than a batch is repeated.

    Attributes:
        epoch: the next epoch.
        first: number of its batches to skip, already done.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world = rank, world
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


def _collate(items: list[Pair | RtsegError]) -> Batch | RtsegError:
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
    """In a worker: one thread; Ctrl-C ignored, and a process group of its own.

    The main process handles signals to its group: a worker that died of one would be an error
    there at any moment, even in the middle of a step. It ends workers that hang by SIGTERM.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform != "win32":
        os.setpgid(0, 0)


def usual_workers(cores: int, images: int) -> int:
    """Default number of workers: one per core, at most 8, none for a few images."""
    if images < 16 or sys.platform == "win32":
        return 0
    return min(8, max(1, cores))


def fitting_workers(requested: int, batch_size: int, size: tuple[int, int], loaders: int) -> int:
    """The requested number of workers, or fewer if their batches do not fit into shared memory.

    A container has 64 MB of it by default, less than three batches of 8 at 513x513.

    Args:
        size: (height, width) of the images.
        loaders: number of loaders in all training processes.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # not Linux
        return requested
    batch = batch_size * size[0] * size[1] * BYTES_PER_PIXEL
    fit = int(0.9 * free / loaders) // batch - 1  # one batch is in use
    return max(0, min(requested, fit // PREFETCHED))
