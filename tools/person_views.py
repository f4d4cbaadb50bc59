"""Random training crops of the pictures that person_data.py packs, on the processor's cores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from person_backdrops import backdrop
from person_data import PackedPicture, read_pack
from person_pictures import IGNORE, PERSON, Array, Floats
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info

OUTSIDE, CLASSES = 254, 21
HIGH_STRIDE = 16
SHARES = {
    "voc-train": 0.36,
    "coco-train": 0.18,
    "clothing-train": 0.24,
    "clothing-unlabelled": 0.08,
    "frames": 0.14,
}
PASTE, PASTE_ON_EMPTY = 0.25, 0.7
PASTE_ON_BACKDROP, MARGINS = 0.3, 0.05
"""Of what is pasted, the share before a painted backdrop; and of all crops, that with margins."""

USUAL_LONG_SIDE = 320
LOG_SCALES = math.log(0.65), math.log(2.1)
"""Of a picture of that size, in a crop of 224 pixels."""


@dataclass(frozen=True)
class View:
    """One augmented crop of side S.

    `image` (S,S,3) uint8 RGB; `label` (S,S) uint8 of 0, 1, 254 (outside), 255 (ignore); `teacher`
    (S,S) uint8 probability of person times 255; `classes` (21,S/16,S/16) float32: the teacher's
    probabilities, NaN where nothing is known.
    """

    image: Array
    label: Array
    teacher: Array
    classes: Floats


class Pack:
    """The packed pictures in memory, and which of them serve as empty scenes and cut-outs."""

    def __init__(self, path: Path) -> None:
        self.pictures = tuple(read_pack(path))
        sources = np.array([picture.source for picture in self.pictures])
        people = np.array([_share(picture, PERSON) for picture in self.pictures])
        unsure = np.array([_share(picture, IGNORE) for picture in self.pictures])
        labelled = ~np.isin(sources, ("clothing-unlabelled", "frames"))
        self.empty = np.flatnonzero((people == 0) & (unsure < 0.02))
        self.cut_outs = np.flatnonzero(labelled & (people > 0.05) & (people < 0.7))
        self.rows = {source: np.flatnonzero(sources == source) for source in SHARES}


def _share(picture: PackedPicture, value: int) -> float:
    return float(np.mean(picture.label == value))


def random_affine(rng: Generator, size: tuple[int, int], side: int) -> Floats:
    """Return a (2,3) float32 map from picture to crop pixels: scale, shape, turn, flip, place.

    `size` is the picture's (height, width); the crop lies inside the picture where it fits. People
    are as large in it whatever size the pictures were packed at.
    """
    shrink = USUAL_LONG_SIDE / max(size)
    scale = math.exp(rng.uniform(*LOG_SCALES)) * math.sqrt(side / 224) * shrink
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    angle = math.radians(rng.normal(0, 7))
    flip = rng.choice((-1.0, 1.0))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag([flip * scale * stretch, scale / stretch])
    extent = side / scale / np.array([stretch, 1 / stretch])
    room = np.array([size[1], size[0]]) - extent
    centre = extent / 2 + room * rng.random(2)
    return np.column_stack([linear, side / 2 - 0.5 - linear @ centre]).astype(np.float32)


def warped_classes(classes: Array, size: tuple[int, int], affine: Floats, side: int) -> Floats:
    """Return (21,S/16,S/16) float32: the teacher's (33,33,21) probabilities through `affine`."""
    inverse = cv2.invertAffineTransform(affine)
    centres = np.arange(side // HIGH_STRIDE) * HIGH_STRIDE + HIGH_STRIDE / 2 - 0.5
    columns, rows = np.meshgrid(centres, centres)
    points = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ inverse.T
    grid = points / (np.array([size[1], size[0]]) - 1) * 2 - 1
    planes = torch.from_numpy(classes.astype(np.float32) / 255).permute(2, 0, 1)[None]
    sampled = functional.grid_sample(
        planes, torch.from_numpy(grid).float()[None], padding_mode="border", align_corners=True
    )
    return sampled[0].numpy()


def random_view(rng: Generator, picture: PackedPicture, side: int) -> View:
    """Return a random crop of the picture, its colours untouched."""
    height, width = picture.label.shape
    affine = random_affine(rng, (height, width), side)

    def warp(plane: Array, flags: int, border: tuple[int, ...]) -> Array:
        return np.asarray(
            cv2.warpAffine(plane, affine, (side, side), flags=flags, borderValue=border), np.uint8
        )

    fill = tuple(int(value) for value in rng.integers(0, 256, 3))
    return View(
        warp(picture.image, cv2.INTER_LINEAR, fill),
        warp(picture.label, cv2.INTER_NEAREST, (OUTSIDE,)),
        warp(picture.teacher, cv2.INTER_LINEAR, (0,)),
        warped_classes(picture.classes, (height, width), affine, side),
    )


def pasted(rng: Generator, scene: View, cut_out: View) -> View:
    """Return `scene` with the people of `cut_out` on it; its classes become NaN (unknown)."""
    soft = cv2.GaussianBlur(
        (cut_out.label == PERSON).astype(np.float32), (0, 0), rng.uniform(0.5, 1.5)
    )
    on_top = soft > 0.5
    alpha = soft[:, :, None]
    image = scene.image * (1 - alpha) + coloured(rng, cut_out.image) * alpha
    return View(
        np.round(image).astype(np.uint8),
        np.where(on_top, PERSON, scene.label).astype(np.uint8),
        np.where(on_top, 255, scene.teacher).astype(np.uint8),
        np.full_like(scene.classes, np.nan),
    )


def empty_scene(image: Array) -> View:
    """Return an (S,S,3) picture without people as a view; its classes are NaN (unknown)."""
    side = image.shape[0]
    empty = np.zeros((side, side), np.uint8)
    unknown = np.full((CLASSES, side // HIGH_STRIDE, side // HIGH_STRIDE), np.nan, np.float32)
    return View(image, empty, empty, unknown)


def with_margins(rng: Generator, view: View) -> View:
    """Return the crop made narrower, with margins as an upright video has on a wide screen.

    They show the crop itself, blurred and larger, or one colour; they are background.
    """
    side = view.label.shape[0]
    width = round(side * rng.uniform(0.35, 0.8))
    left = int(rng.integers(0, side - width + 1)) if rng.random() < 0.3 else (side - width) // 2
    middle = (slice(None), slice(left, left + width))
    image = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), view.image.shape).copy()
    if rng.random() < 0.8:
        shown = side - round(side * rng.uniform(0, 0.5))
        start = (side - shown) // 2
        large = cv2.resize(view.image[start : start + shown], (side, side))
        image = cv2.GaussianBlur(large, (0, 0), side * rng.uniform(0.015, 0.06))
    label, teacher = np.zeros_like(view.label), np.zeros_like(view.teacher)
    cut = (side - width) // 2
    kept = slice(cut, cut + width)  # what an upright frame holds, or the whole, squeezed
    if rng.random() < 0.5:
        image[middle] = view.image[:, kept]
        label[middle], teacher[middle] = view.label[:, kept], view.teacher[:, kept]
    else:
        image[middle] = cv2.resize(view.image, (width, side), interpolation=cv2.INTER_AREA)
        label[middle] = cv2.resize(view.label, (width, side), interpolation=cv2.INTER_NEAREST)
        teacher[middle] = cv2.resize(view.teacher, (width, side))
    return View(image, label, teacher, np.full_like(view.classes, np.nan))


def coloured(rng: Generator, image: Array) -> Array:
    """Return the (S,S,3) uint8 picture with other brightness, contrast, gamma, tint, saturation."""
    ramp = np.linspace(0, 1, 256)[:, None] ** math.exp(rng.normal(0, 0.3))
    ramp = (ramp - 0.5) * math.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.1)
    ramp = np.clip(ramp * np.exp(rng.normal(0, 0.08, 3)) * 255, 0, 255)
    image = cv2.LUT(image, np.round(ramp).astype(np.uint8)[None])
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.4, 1.4)
    grey = np.full((3, 3), (1 - saturation) / 3, np.float32)
    return cv2.transform(image, grey + saturation * np.eye(3, dtype=np.float32))


def degraded(rng: Generator, image: Array) -> Array:
    """Return the (S,S,3) uint8 picture with, each at times, blur, noise and JPEG blocks."""
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0))
    if rng.random() < 0.2:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(2, 14)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        _, code = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 90))))
        image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8)
    return image


def augmented(rng: Generator, pack: Pack, side: int) -> View:
    """Return one random training crop of side `side`."""
    source = rng.choice(list(SHARES), p=list(SHARES.values()))
    row, chance = int(rng.choice(pack.rows[source])), PASTE
    if rng.random() < 0.15:
        row, chance = int(rng.choice(pack.empty)), PASTE_ON_EMPTY
    view = random_view(rng, pack.pictures[row], side)
    if rng.random() < chance:
        cut_out = pack.pictures[int(rng.choice(pack.cut_outs))]
        if rng.random() < PASTE_ON_BACKDROP:
            view = empty_scene(backdrop(rng, side))
        view = pasted(rng, view, random_view(rng, cut_out, side))
    if rng.random() < MARGINS:
        view = with_margins(rng, view)
    image = degraded(rng, coloured(rng, view.image))
    return View(image, view.label, view.teacher, view.classes)


class Crops(IterableDataset):
    """An endless stream of (image, label, teacher, classes) arrays, fixed by `seed`."""

    def __init__(self, pack: Pack, side: int, seed: int) -> None:
        self._pack, self._side, self._seed = pack, side, seed

    def __iter__(self) -> Iterator[tuple[Array, Array, Array, Floats]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self._seed, worker.id if worker else 0))
        while True:
            view = augmented(rng, self._pack, self._side)
            yield view.image, view.label, view.teacher, view.classes
