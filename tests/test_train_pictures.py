"""TrainingImages on their way into training: moved with their masks, in an order that repeats."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from training import one_thread  # noqa: F401 - autouse

from rtseg.datasets import Sample
from rtseg.errors import DatasetError
from rtseg.frame import Image, Mask
from rtseg.labels import VOID
from rtseg.training import TrainOptions, augment
from rtseg.training import batches as reading
from rtseg.training.batches import (
    InOrder,
    Loader,
    Shuffled,
    TrainingImages,
    batches,
    close,
    fitting_workers,
    loader,
    one_opencv_thread,
    seeded,
)
from rtseg.zoo import InputSpec

SPEC = InputSpec((96, 96))
IDENTITY = np.arange(256, dtype=np.uint8)
CALM = TrainOptions("x", size=(96, 96), brightness=0, contrast=0, noise=0)


def blots(seed: int = 0, size: tuple[int, int] = (80, 120)) -> tuple[Image, Mask]:
    """A picture in three flat colours, (B, G, R) = (0 or 200, ...), and the mask they stand for."""
    generator = np.random.default_rng(seed)
    mask = generator.integers(0, 3, (4, 6), np.uint8).repeat(20, 0).repeat(20, 1)
    mask = mask[: size[0], : size[1]]
    image = np.zeros((*mask.shape, 3), np.uint8)
    for channel in range(3):
        image[mask == channel, channel] = 200
    return image, mask


def undone(picture: torch.Tensor) -> np.ndarray:
    """(h, w, 3) uint8 RGB of what the network is fed."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    return ((picture * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("seed", range(6))
def test_masks_move_with_their_pictures(seed: int) -> None:
    image, mask = blots(seed)
    with seeded(seed):
        picture, labels = augment.training(CALM, SPEC)(image, mask)
    rgb, labels = undone(picture), labels.numpy()
    assert picture.shape == (3, 96, 96)
    assert labels.shape == (96, 96)
    known = labels != VOID
    assert known.mean() > 0.1
    # class c is the channel 2 - c of RGB; bilinear edges blend two colours, so most, not all
    bright = rgb.argmax(axis=2)
    assert (bright == 2 - labels)[known].mean() > 0.93


def test_left_and_right_change_places_where_an_image_is_flipped() -> None:
    image, mask = blots(size=(80, 112))
    still = replace(CALM, size=(80, 112), rotation=0, flip=0.5, scale=(1.0, 1.0))
    seen = set()
    for seed in range(8):
        with seeded(seed):
            picture, labels = augment.training(still, SPEC, 0, (0, 2, 1))(image, mask)
        flipped = (undone(picture) == image[:, ::-1, ::-1]).all()
        seen.add(bool(flipped))
        expected = np.array([0, 2, 1])[mask[:, ::-1]] if flipped else mask
        assert (labels.numpy() == expected).all()
    assert seen == {False, True}


def test_a_teacher_may_have_any_number_of_classes_where_an_image_is_flipped() -> None:
    image, mask = blots(size=(80, 112))
    mask[0] = VOID
    still = replace(CALM, size=(80, 112), rotation=0, flip=1.0, scale=(1.0, 1.0))
    mirrored = (0, 2, 1, *(3 + index for index in reversed(range(300))))
    _, labels = augment.training(still, SPEC, 0, mirrored)(image, mask)
    expected = np.where(mask == VOID, VOID, np.array([0, 2, 1])[mask % VOID])[:, ::-1]
    assert (labels.numpy() == expected).all()


def test_outside_a_picture_is_the_mean_colour_and_no_class() -> None:
    image, mask = blots()
    small = replace(CALM, scale=(0.5, 0.5), rotation=0)
    with seeded(0):
        picture, labels = augment.training(small, SPEC)(image, mask)
    outside = labels == VOID
    assert 0.5 < outside.float().mean() < 1
    # the mean in whole levels of 255, so that zero padding of convolutions means the same
    assert picture[:, outside].abs().max() < 0.02


def test_half_and_twice_the_size_are_equally_frequent() -> None:
    """Scales of 0.25 to 1: the square of an object is in the median half as wide as at 1."""
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    mask[28:36, 28:36] = 1
    widest = replace(CALM, size=(512, 512), scale=(0.25, 1.0), rotation=0, aspect=0, flip=0)
    transform, sides = augment.training(widest, SPEC), []
    for seed in range(200):
        with seeded(seed):
            _, labels = transform(image, mask)
        sides.append(float((labels == 1).sum()) ** 0.5)
    assert np.median(sides) == pytest.approx(0.5 * 64, abs=6)


@pytest.mark.parametrize("size", [(40, 96), (96, 40), (64, 64)])
def test_at_a_scale_of_one_the_crop_is_inside_the_picture(size: tuple[int, int]) -> None:
    image, mask = blots(size=size)
    whole = replace(CALM, size=(64, 80), scale=(1.0, 1.0), rotation=0, aspect=0)
    for seed in range(5):
        with seeded(seed):
            _, labels = augment.training(whole, SPEC)(image, mask)
        assert labels.shape == (64, 80)
        assert not (labels == VOID).any()


def test_a_large_picture_is_averaged_as_it_shrinks() -> None:
    image = np.zeros((384, 448, 3), np.uint8)
    image[:, ::2] = 254  # a warp of every fourth pixel would find one colour only
    still = replace(CALM, size=(96, 112), rotation=0, flip=0, scale=(1.0, 1.0))
    picture, _ = augment.training(still, SPEC)(image, np.zeros((384, 448), np.uint8))
    assert np.abs(undone(picture).astype(int) - 127).max() <= 1


def test_each_amount_can_be_turned_off() -> None:
    image, mask = blots(size=(80, 112))
    still = replace(CALM, size=(80, 112), rotation=0, flip=0, scale=(1.0, 1.0))
    picture, labels = augment.training(still, SPEC)(image, mask)
    assert (undone(picture) == image[..., ::-1]).all()
    assert (labels.numpy() == mask).all()


@pytest.mark.parametrize(
    "amount",
    "brightness contrast saturation gamma grey blur jpeg noise rotation flip aspect".split(),
)
def test_each_amount_changes_the_picture(amount: str) -> None:
    image, mask = blots(size=(80, 112))
    still = replace(CALM, size=(80, 112), rotation=0, flip=0, scale=(1.0, 1.0))
    changed = replace(still, **{amount: 20.0 if amount == "rotation" else 1.0})
    image = (image // 2 + 40).astype(np.uint8)  # colours that each of them changes
    with seeded(1):
        picture, labels = augment.training(changed, SPEC)(image, mask)
    assert (undone(picture) != image[..., ::-1]).any()
    moved = amount in ("rotation", "flip", "aspect")
    assert (labels.numpy() != mask).any() == moved


STILL = replace(CALM, size=(80, 112), rotation=0, flip=0, scale=(1.0, 1.0))


def test_objects_of_another_picture_are_pasted_with_their_labels() -> None:
    image = np.full((80, 112, 3), 50, np.uint8)
    mask = np.zeros((80, 112), np.uint8)
    other, objects = np.full((80, 112, 3), 200, np.uint8), np.zeros((80, 112), np.uint8)
    objects[20:60, 30:70], objects[:10], mask[:, 100:] = 1, VOID, 2
    transform = augment.training(replace(STILL, paste=1.0), SPEC, background=0)
    picture, labels = transform(image, mask, lambda: (other, objects))
    rgb = undone(picture)
    assert (labels.numpy() == np.where(objects == 1, 1, mask)).all()
    assert (rgb[24:56, 34:66] == 200).all()  # inside, away from the soft edge
    assert (rgb[:16] == 50).all()  # what is unlabelled there does not come along
    assert (rgb[64:, :90] == 50).all()


def test_margins_are_background_around_the_middle_of_the_picture() -> None:
    image, mask = blots(size=(80, 112))
    mask = np.ones_like(mask)
    transform = augment.training(replace(STILL, margins=1.0), SPEC, background=0)
    with seeded(3):
        picture, labels = transform(image, mask)
    inside = labels.numpy().all(axis=0)
    start, stop = int(inside.argmax()), 112 - int(inside[::-1].argmax())
    assert 0.3 < (stop - start) / 112 < 0.85
    assert abs(start - (112 - stop)) <= 1
    assert inside[start:stop].all()
    assert (labels.numpy()[:, ~inside] == 0).all()
    rgb = undone(picture)
    assert (rgb[:, start:stop] == image[:, start:stop, ::-1]).all()
    assert (rgb[:, :start] != image[:, :start, ::-1]).any()


def test_margins_are_not_the_teachers() -> None:
    image, mask = blots(size=(80, 112))
    soft = np.zeros((4, 80, 112), np.uint8)
    transform = augment.training(replace(STILL, margins=1.0), SPEC, background=0)
    with seeded(3):
        _, labels, planes = transform(image, np.ones_like(mask), None, soft)
    assert ((planes[0] == 255) == (labels == 0)).all()
    assert 0 < (labels == 0).float().mean() < 1


def test_a_plain_picture_is_whole_and_keeps_its_shape() -> None:
    image, mask = blots(size=(80, 120))
    picture, labels = augment.plain((96, 60), SPEC)(image, mask)
    assert labels.shape == (96, 60)
    assert (labels[40:] == VOID).all()  # 80x120 fits as 40x60
    assert (labels[:40] != VOID).all()
    assert picture[:, 40:].abs().max() < 0.02
    assert set(np.unique(labels[:40])) == set(np.unique(mask))


def test_bgr_networks_are_fed_bgr_with_their_own_normalisation() -> None:
    image, mask = blots()
    spec = InputSpec(
        (80, 120), colour="BGR", scale=1.0, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0)
    )
    picture, _ = augment.plain((80, 120), spec)(image, mask)
    expected = (image.astype(np.float32) - (10, 20, 30)) / (2, 4, 5)
    assert np.allclose(picture.permute(1, 2, 0).numpy(), expected, atol=1e-3)


def samples(count: int) -> list[Sample]:
    """Samples whose picture is all of the value of their place, without files."""
    return [
        Numbered(f"{i}", Path(f"{i}.png"), lambda i=i: np.full((8, 8), i, np.uint8))
        for i in range(count)
    ]


class Numbered(Sample):
    """A sample that needs no file."""

    def read_image(self) -> Image:
        return np.full((8, 8, 3), int(self.name), np.uint8)


def places(order: Shuffled) -> list[int]:
    return [index for batch in order for index, _ in batch]


def test_every_batch_is_full_and_no_picture_comes_twice_in_an_epoch() -> None:
    order = Shuffled([1] * 11, 4, seed=0, rank=0, world=1)
    assert [len(batch) for batch in order] == [4, 4]
    assert len(set(places(order))) == 8


def test_what_an_epoch_leaves_out_comes_in_another() -> None:
    order = Shuffled([1] * 11, 4, seed=0, rank=0, world=1)
    seen: set[int] = set()
    for order.epoch in range(8):
        seen |= set(places(order))
    assert seen == set(range(11))


def test_epochs_differ_and_repeat_by_seed() -> None:
    order, same, other = (Shuffled([1] * 20, 4, seed, 0, 1) for seed in (3, 3, 4))
    first = list(order)
    assert first == list(same)
    assert first != list(other)
    order.epoch = 1
    assert list(order) != first


def test_a_split_smaller_than_a_batch_is_gone_through_again() -> None:
    (batch,) = Shuffled([1] * 3, 8, seed=0, rank=0, world=1)
    assert [sorted(i for i, _ in batch).count(place) for place in range(3)].count(0) == 0
    assert len(batch) == 8
    assert len({seed for _, seed in batch}) == 8  # each repetition is varied anew


def test_processes_share_an_epoch_without_overlap() -> None:
    shares = [places(Shuffled([1] * 17, 2, seed=5, rank=rank, world=3)) for rank in range(3)]
    together = [index for share in shares for index in share]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert len(set(together)) == 12
    val = [i for rank in range(3) for batch in InOrder(7, 2, rank, 3) for i, _ in batch]
    assert sorted(val) == list(range(7))


def test_an_interrupted_epoch_goes_on_with_its_own_batches() -> None:
    order = Shuffled([1] * 20, 4, seed=0, rank=0, world=1)
    whole = list(order)
    order.first = 3
    assert list(order) == whole[3:]


def read(count: int, workers: int) -> list[torch.Tensor]:
    settings = TrainOptions("x", size=(32, 32))
    spec = InputSpec((32, 32))
    pictures = TrainingImages(samples(count), IDENTITY, augment.training(settings, spec))
    order = Shuffled([1] * count, 4, seed=1, rank=0, world=1)
    source = loader(pictures, order, workers=workers, pinned=False)
    with one_opencv_thread(), closing_loader(source) as read:
        return [tensor for batch in batches(read) for tensor in batch]


@contextmanager
def closing_loader(source: Loader) -> Iterator[Loader]:
    """The loader, closed at the end; its workers have then ended by themselves."""
    before = multiprocessing.active_children()
    try:
        yield source
    finally:
        workers = [one for one in multiprocessing.active_children() if one not in before]
        close(source)
    assert [worker.exitcode for worker in workers] == [0] * source.num_workers


def test_workers_change_nothing_but_the_speed() -> None:
    alone, many = read(9, workers=0), read(9, workers=2)
    assert len(alone) == len(many) == 4
    assert all(torch.equal(a, b) for a, b in zip(alone, many, strict=True))


HOLDS_WORKERS = """
import multiprocessing, sys, time
from test_train_pictures import IDENTITY, InOrder, InputSpec, TrainingImages
from test_train_pictures import augment, batches, loader, samples
pictures = TrainingImages(samples(64), IDENTITY, augment.plain((32, 32), InputSpec((32, 32))))
read = batches(loader(pictures, InOrder(64, 1), workers=2, pinned=False))
next(read)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(36000)
"""


@pytest.mark.slow  # torch's workers look for their parent every 5 s
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", HOLDS_WORKERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    until = time.monotonic() + 60
    while any(map(runs, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    try:
        assert not any(map(runs, workers))
    finally:
        for worker in filter(runs, workers):
            worker.kill()


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; perhaps nobody is there to read its exit code."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named_whoever_reads_it(workers: int) -> None:
    missing = Sample("gone", Path("gone.png"), lambda: np.zeros((8, 8), np.uint8))
    pictures = TrainingImages([missing], IDENTITY, augment.plain((32, 32), InputSpec((32, 32))))
    with (
        closing_loader(loader(pictures, InOrder(1, 1), workers=workers, pinned=False)) as source,
        pytest.raises(DatasetError, match=r"^cannot read the image gone\.png") as failure,
    ):
        list(batches(source))
    assert "Traceback" not in str(failure.value)


def test_classes_are_mapped_before_anything_else() -> None:
    table = np.full(256, VOID, np.uint8)
    table[[0, 1, 2]] = (1, 1, 0)
    spec = InputSpec((32, 32))
    pictures = TrainingImages(samples(4), table, augment.plain((32, 32), spec))
    found: Sequence[set[int]] = [set(pictures[i, 0][1].unique().tolist()) for i in range(4)]
    assert found == [{1}, {1}, {0}, {VOID}]


@pytest.mark.parametrize(
    ("megabytes", "planes", "workers"),
    [
        *((24_000, 0, 4), (64, 0, 0), (400, 0, 1), (800, 0, 3), (960, 0, 4), (0, 0, 0)),
        *((800, 24, 1), (2000, 24, 4)),
    ],
)
def test_workers_are_as_many_as_shared_memory_holds_batches_of(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, planes: int, workers: int
) -> None:
    """A batch of 8 at 513x513 is 42 MB, 93 MB with 24 planes of soft labels; each worker has two
    ahead, and one is used, twice."""

    def usage(path: str) -> SimpleNamespace:
        assert path == "/dev/shm"
        return SimpleNamespace(free=megabytes * 1_000_000)

    monkeypatch.setattr(reading.shutil, "disk_usage", usage)
    assert fitting_workers(4, 8, (513, 513), 2, planes) == workers


def test_where_there_is_no_such_folder_all_workers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SHARED_MEMORY", "/no/such/folder")
    assert fitting_workers(4, 8, (513, 513), 2) == 4
