"""Pictures in batches, read by worker processes, in an order that only the seed decides."""

from __future__ import annotations

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
from rtseg.frame import VOID, Image, Mask
from rtseg.nets.build import segmentation
from rtseg.train.settings import Settings
from rtseg.zoo import InputSpec

Pair = tuple[Tensor, Tensor]
"""(3, h, w) float32 as the network takes it, and (h, w) int64 class indices."""

Transform = Callable[[Image, Mask], Pair]
"""From a picture (H, W, 3) uint8 BGR and its mask (H, W) uint8 to a `Pair`; uses torch's random
numbers."""


def training(settings: Settings, spec: InputSpec) -> Transform:
    """Random scale, rotation, crop, mirror, brightness, contrast and noise."""
    v2, tensors = _v2(), _tensors()
    fill = {tensors.Image: _mean_colour(spec), tensors.Mask: VOID}
    moved = v2.Compose(
        [
            _Scale(settings.size, settings.scale),
            v2.RandomRotation(
                settings.rotation, interpolation=v2.InterpolationMode.BILINEAR, fill=fill
            ),
            v2.RandomCrop(settings.size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(settings.flip),
            v2.ColorJitter(brightness=settings.brightness, contrast=settings.contrast),
        ]
    )
    return _ending(moved, [_Noise(settings.noise)] if settings.noise else [], spec)


def plain(size: tuple[int, int], spec: InputSpec) -> Transform:
    """The whole picture, as large as fits into `size` (height, width); nothing random."""
    fitted = _v2().Compose([_Scale(size, (1.0, 1.0)), _Pad(size, _mean_colour(spec))])
    return _ending(fitted, [], spec)


def _ending(moved: Callable[..., Any], changed: list[nn.Module], spec: InputSpec) -> Transform:
    """`moved` on 8 bits, `changed` on 0 to 1, then the network's own normalisation."""
    v2, tensors = _v2(), _tensors()
    unit = 255 * spec.scale  # the spec normalises v * scale, and v / 255 is what comes here
    mean, std = ([value / unit for value in triple] for triple in (spec.mean, spec.std))
    coloured = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), *changed, v2.Normalize(mean, std)]
    )

    def transform(image: Image, mask: Mask) -> Pair:
        if spec.colour == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
        picture, labels = moved(tensors.Image(planes), tensors.Mask(torch.from_numpy(mask)))
        return coloured(picture).as_subclass(Tensor), labels.as_subclass(Tensor).long()

    return transform


class _Noise(nn.Module):
    """Gaussian noise of a random strength, clipped to 0..1, on one picture."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, picture: Tensor) -> Tensor:
        """The picture with noise whose standard deviation is uniform in 0..most."""
        sigma = self.most * float(torch.rand(()))
        noisy: Tensor = _v2().functional.gaussian_noise(picture, sigma=sigma)
        return noisy


class _Scale(nn.Module):
    """Scale to a random share of the largest size that fits into `size` (height, width).

    Not `v2.ScaleJitter`, which takes the sides of that size for one another (torchvision 0.28).
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both in their own shape."""
        height, width = picture.shape[-2:]
        ratio = min(self.size[0] / height, self.size[1] / width)
        ratio *= self.scale[0] + float(torch.rand(())) * (self.scale[1] - self.scale[0])
        size = [max(1, round(side * ratio)) for side in (height, width)]
        resize = _v2().functional.resize
        return resize(picture, size, antialias=True), resize(labels, size)


class _Pad(nn.Module):
    """Pad to `size` on the right and below, with a colour and with no class."""

    def __init__(self, size: tuple[int, int], colour: list[int]) -> None:
        super().__init__()
        self.size, self.colour = size, colour

    def forward(self, picture: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both at `size`."""
        pad = _v2().functional.pad
        height, width = picture.shape[-2:]
        edges = [0, 0, self.size[1] - width, self.size[0] - height]
        return pad(picture, edges, fill=self.colour), pad(labels, edges, fill=VOID)


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


def mixed(*parts: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator seeded, for as long as the `with` lasts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


Draw = tuple[int, int]
"""A sample's place in its split, and the seed of its augmentation."""

Batch = tuple[Tensor, Tensor]
"""(N, 3, h, w) float32 as the network takes it, and (N, h, w) int64 class indices."""

Loader = DataLoader[Pair | RtsegError]

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 2
"""Batches that each worker prepares ahead."""
BYTES_OF_A_PIXEL = 3 * 4 + 8
"""In a `Batch`."""


class Pictures(TorchDataset[Pair | RtsegError]):
    """The samples of a split, mapped to the trained classes and transformed.

    The random numbers of a picture come with the draw, so that neither the number of workers nor
    what was drawn before changes them.
    """

    def __init__(self, samples: Sequence[Sample], table: Table, transform: Transform) -> None:
        self.samples, self.table, self.transform = samples, table, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Pair | RtsegError:
        """The pair; or the error, since what a worker raises loses its words on the way."""
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
                found=f"the picture is {image.shape[1]}x{image.shape[0]}",
            )
        with seeded(seed):
            return self.transform(image, mask)


class Shuffled(Sampler[list[Draw]]):
    """Full batches of one epoch, in an order that (seed, epoch) decide; a share of them per rank.

    Every batch is full, as batch normalisation wants: what is left over waits for another epoch. A
    split smaller than a batch is gone through several times.

    Attributes:
        epoch: which one comes next.
        first: how many batches of it to leave out, having been done.
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


def loader(pictures: Pictures, order: Sampler[list[Draw]], *, workers: int, pinned: bool) -> Loader:
    """Batches in that order; the workers stay for the next epoch.

    Args:
        pinned: read into memory from which a GPU copies faster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of more workers than cores, as was asked
        return DataLoader(
            pictures,
            batch_sampler=order,
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            worker_init_fn=_alone if workers else None,
            collate_fn=_collated,
            generator=torch.Generator(),  # a draw from torch's own would change the dropout after
        )


def _collated(items: list[Pair | RtsegError]) -> Batch | RtsegError:
    failed = [item for item in items if isinstance(item, RtsegError)]
    if failed:
        return failed[0]
    batch: Batch = tuple(default_collate(items))
    return batch


def batches(source: Loader) -> Iterator[Batch]:
    """One epoch of a loader's batches.

    Raises:
        DatasetError: a picture or mask cannot be read.
    """
    with warnings.catch_warnings():
        # Python warns of a fork beside threads: torch's do not outlive it, and OpenCV has none
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)  # of more workers than cores, as was asked
        iterator = iter(source)
    for batch in iterator:
        if isinstance(batch, RtsegError):
            raise batch
        yield batch


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Workers are forked: OpenCV's threads would not be there in them, but be waited for."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _alone(worker: int) -> None:
    """In a worker: one thread, deaf to Ctrl-C, which the main process answers."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def usual_workers(cores: int, pictures: int) -> int:
    """How many processes should read: one per core, 8 at most, none for a handful of pictures."""
    if pictures < 16 or sys.platform == "win32":
        return 0
    return min(8, max(1, cores))


def fitting_workers(asked: int, batch_size: int, size: tuple[int, int], loaders: int) -> int:
    """As many as asked for, or fewer, whose batches fit into the memory that processes share.

    A container has 64 MB of it by default, of which three batches of 8 at 513x513 are too many.

    Args:
        size: (height, width) of the pictures.
        loaders: how many there are, of all processes that train.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # not Linux
        return asked
    batch = batch_size * size[0] * size[1] * BYTES_OF_A_PIXEL
    fit = int(0.9 * free / loaders) // batch - 1  # one is in use
    return max(0, min(asked, fit // PREFETCHED))
