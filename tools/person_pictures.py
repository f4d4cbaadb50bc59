"""The sets of pictures that train the person network and that measure it, as they lie on disk.

Each is a function that yields `Picture`s from the folder of data, whose README says which of its
sets may be trained on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BACKGROUND, PERSON, IGNORE = 0, 1, 255
VOC_PERSON, COCO_PERSON = 15, 1
CARRIED = ("bag", "purse", "wallet")
KEEP_EVERY, KEEP_COUNT = 9, 100
CLOTHING_OFF = -1.16, -0.94
"""Pixels by which labels have to move (right, down) so that their edges meet most of the pictures';
measured on every eighth of those to train on."""
RIM = 5.0
"""Pixels that ignore along an edge is wide, at most."""

FRAMES_PER_CLIP = {"intel_asl_": 8, "intel_one-by-one": 45, "liveportrait_": 25, "intel_car": 45}


@dataclass(frozen=True)
class Picture:
    """One picture: `image` (H,W,3) uint8 RGB; `label` (H,W) uint8 of 0, 1, 255, None if unlabelled.

    `certain_background` (H,W) bool marks label 0 that no teacher may turn into ignore.
    """

    name: str
    source: str
    image: Array
    label: Array | None
    certain_background: npt.NDArray[np.bool_] | None = None


def read_rgb(path: Path) -> Array:
    """Return the picture at `path` as (H,W,3) uint8 RGB; raises FileNotFoundError."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"no readable picture at {path}")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def read_index_mask(path: Path) -> Array:
    """Return a palette or grey PNG as its (H,W) uint8 indices."""
    with Image.open(path) as mask:
        return np.array(mask, dtype=np.uint8)


def voc_pictures(data: Path, split: str) -> Iterator[Picture]:
    """Yield the pictures of Pascal VOC's `split` ("train" or "val"); void becomes ignore.

    Of "train", the rim of void around people is halved, see `halved_rim`.
    """
    root = data / "voc"
    for name in (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split():
        classes = read_index_mask(root / "SegmentationClass" / f"{name}.png")
        label = np.where(classes == 255, IGNORE, classes == VOC_PERSON).astype(np.uint8)
        label = halved_rim(label) if split == "train" else label
        yield Picture(name, f"voc-{split}", read_rgb(root / "JPEGImages" / f"{name}.jpg"), label)


def halved_rim(label: Array) -> Array:
    """Return `label` (H,W) uint8 with ignore around people given to whichever side is nearer.

    The labels leave a rim a few pixels wide along every edge, so that the edge is in its middle.
    Ignore that is wider stays.
    """
    person, others = _reached(label, PERSON), _reached(label, BACKGROUND)
    rim = (label == IGNORE) & (np.maximum(person, others) <= RIM)
    return np.where(rim, person < others, label).astype(np.uint8)


def _reached(label: Array, value: int) -> Floats:
    """Return (H,W) float32: the distance to the next pixel with this value; far where none is."""
    return cv2.distanceTransform((label != value).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)


def coco_label(annotations: list[dict], image: Path) -> Array:
    """Return the (H,W) uint8 label of the picture's COCO `annotations`; crowds are ignored."""
    from rtseg.datasets.coco import Outline, Outlines  # who trains from a pack need not have

    people = tuple(
        Outline(a["id"], IGNORE if a["iscrowd"] else PERSON, a["segmentation"])
        for a in annotations
        if a["category_id"] == COCO_PERSON
    )
    return Outlines(image, image, None, people)()


def coco_pictures(data: Path, split: str) -> Iterator[Picture]:
    """Yield the pictures of COCO's `split` ("train" or "val"), with and without people."""
    root = data / "coco"
    instances = json.loads((root / f"instances_{split}.json").read_text())
    for entry in sorted(instances["images"], key=lambda image: image["id"]):
        path = root / split / entry["file_name"]
        own = [a for a in instances["annotations"] if a["image_id"] == entry["id"]]
        yield Picture(path.name, f"coco-{split}", read_rgb(path), coco_label(own, path))


def clothing_pictures(data: Path, kept_aside: bool) -> Iterator[Picture]:
    """Yield the street-fashion photos, either the 100 kept aside to measure with or the others.

    Kept aside: of the names in sorted order every 9th, the first 100 of them. The labels of the
    others are moved to where the pictures' edges are.
    """
    root = data / "clothing"
    carried = [json.loads((root / "classes.json").read_text()).index(name) for name in CARRIED]
    paths = sorted((root / "masks").glob("*.png"))
    held_out = set(paths[::KEEP_EVERY][:KEEP_COUNT])
    for path in (p for p in paths if (p in held_out) == kept_aside):
        classes = read_index_mask(path)
        bags = np.isin(classes, carried).astype(np.uint8)
        label = ((classes > 0) & (bags == 0)).astype(np.uint8)
        if not kept_aside:
            label, bags = moved(label, *CLOTHING_OFF), moved(bags, *CLOTHING_OFF)
        source = "clothing-val" if kept_aside else "clothing-train"
        image = read_rgb(root / "images" / f"{path.stem}.jpg")
        yield Picture(path.stem, source, image, label, bags > 0)


def moved(mask: npt.NDArray[Any], right: float, down: float) -> Array:
    """Return the (H,W) mask as uint8 of 0 and 1, moved by parts of pixels; its margins go on."""
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    there = cv2.warpAffine(
        mask.astype(np.float32), shift, mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE
    )
    return (there >= 0.5).astype(np.uint8)


def unlabelled_pictures(data: Path) -> Iterator[Picture]:
    """Yield the street-fashion photos that have no mask."""
    for path in sorted((data / "clothing" / "unlabelled").glob("*.jpg")):
        yield Picture(path.stem, "clothing-unlabelled", read_rgb(path), None)


def people_pictures(data: Path) -> Iterator[Picture]:
    """Yield the portraits of people/ with their masks: to measure with, never to train on."""
    root = data / "people"
    for path in sorted((root / "masks").glob("*.png"), key=lambda p: int(p.stem)):
        label = (read_index_mask(path) > 0).astype(np.uint8)
        yield Picture(path.stem, "people", read_rgb(root / "images" / f"{path.stem}.jpg"), label)


def count_frames(path: Path) -> int:
    """Return how many frames decode from the clip (headers lie or say nothing)."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def clip_frames(path: Path, wanted: int) -> Iterator[Array]:
    """Yield `wanted` frames (H,W,3) uint8 RGB spread evenly over the clip."""
    chosen = set(np.linspace(0, count_frames(path) - 1, wanted).astype(int).tolist())
    capture = cv2.VideoCapture(str(path))
    for index in range(max(chosen) + 1):
        capture.grab()
        if index in chosen:
            ok, frame = capture.retrieve()
            if not ok:
                raise OSError(f"frame {index} of {path} does not decode")
            yield np.ascontiguousarray(frame[:, :, ::-1], dtype=np.uint8)
    capture.release()


def video_pictures(data: Path) -> Iterator[Picture]:
    """Yield frames of the clips marked for training; those of the car clip are all background."""
    for prefix, wanted in FRAMES_PER_CLIP.items():
        for path in sorted((data / "videos").glob(f"{prefix}*")):
            for number, image in enumerate(clip_frames(path, wanted)):
                label = np.zeros(image.shape[:2], np.uint8) if prefix == "intel_car" else None
                yield Picture(f"{path.stem}#{number}", "frames", image, label)


def training_pictures(data: Path) -> Iterator[Picture]:
    """Yield every picture that may be trained on, in a fixed order."""
    yield from voc_pictures(data, "train")
    yield from coco_pictures(data, "train")
    yield from clothing_pictures(data, kept_aside=False)
    yield from unlabelled_pictures(data)
    yield from video_pictures(data)
