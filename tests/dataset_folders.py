"""Small labelled sets of every layout, written to disk: red discs and blue boxes on grey.

Each `make_...` fills a folder and returns it. What is drawn depends only on the seed; a network
that looks at colours can learn it in a few steps. A split holds other pictures than the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

NAMES = ("background", "disc", "box")
COLOURS_BGR = ((128, 128, 128), (40, 40, 220), (220, 60, 40))
SIZE = (48, 64)


@dataclass(frozen=True)
class Picture:
    """A drawn picture: (H, W, 3) uint8 BGR, its (H, W) uint8 classes of `NAMES`, and outlines."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    outlines: tuple[tuple[int, NDArray[np.int32]], ...]


def draw(count: int = 8, size: tuple[int, int] = SIZE, seed: int = 0) -> Iterator[Picture]:
    """So many pictures, each with a disc, a box, or both side by side; some noise over all."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        mask = np.zeros(size, np.uint8)
        outlines = tuple(_shapes(index, size, generator))
        for shape, outline in outlines:
            cv2.fillPoly(mask, [outline], shape)
        image = np.array(COLOURS_BGR, np.uint8)[mask].astype(np.int16)
        image += generator.integers(-20, 21, image.shape, np.int16)
        yield Picture(f"{seed:02}_{index:04}", image.clip(0, 255).astype(np.uint8), mask, outlines)


def _shapes(
    index: int, size: tuple[int, int], generator: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    height, width = size
    radius = min(height, width // 2) // 2 - 2
    for side, shape in enumerate((1, 2)):
        if index % 3 == 2 - side:  # of three pictures one has only a disc, one only a box
            continue
        r = int(generator.integers(max(2, radius // 2), radius + 1))
        x = int(generator.integers(r + 1, width // 2 - r)) + side * width // 2
        y = int(generator.integers(r + 1, height - r))
        if shape == 1:
            yield shape, cv2.ellipse2Poly((x, y), (r, r), 0, 0, 359, 15)
        else:
            yield shape, np.array([[x - r, y - r], [x + r, y - r], [x + r, y + r], [x - r, y + r]])


def write(path: Path, image: NDArray[np.uint8]) -> Path:
    """A picture file; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def _of_splits(
    splits: Sequence[str], count: int, size: tuple[int, int], seed: int
) -> Iterator[tuple[str, list[Picture]]]:
    """The pictures of each split: `count` in the first, half as many in the others."""
    for number, split in enumerate(splits):
        many = count if number == 0 else max(2, count // 2)
        yield split, list(draw(many, size, 10 * seed + number))


def make_folder(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = (),
    names: Sequence[str] | None = NAMES,
    binary: bool = False,
) -> Path:
    """`images/` and `masks/` (in a folder per split, if any) and classes.json, unless None.

    With `binary`, masks are 0 and 255: nothing and something; give `names=None` or two names.
    """
    for split, pictures in _of_splits(splits or ("",), count, size, seed):
        for picture in pictures:
            mask = np.where(picture.mask > 0, 255, 0).astype(np.uint8) if binary else picture.mask
            write(folder / split / "images" / f"{picture.name}.jpg", picture.image)
            write(folder / split / "masks" / f"{picture.name}.png", mask)
    if names is not None:
        (folder / "classes.json").write_text(json.dumps(list(names)))
    return folder


def make_voc(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "val"),
) -> Path:
    """Pascal VOC: discs are persons (15), boxes cars (7), their outlines 255."""
    values = np.array([0, 15, 7], np.uint8)
    for split, pictures in _of_splits(splits, count, size, seed):
        for picture in pictures:
            mask = values[picture.mask]
            cv2.polylines(mask, [line for _, line in picture.outlines], True, 255)
            write(folder / "JPEGImages" / f"{picture.name}.jpg", picture.image)
            write(folder / "SegmentationClass" / f"{picture.name}.png", mask)
        lists = folder / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{p.name}\n" for p in pictures))
    return folder


def make_cityscapes(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "val"),
    kind: str = "labelIds",
) -> Path:
    """Cityscapes: all is road, discs are persons, boxes cars; two sequences per split."""
    values = {"labelIds": [7, 24, 26], "labelTrainIds": [0, 11, 13]}[kind]
    for split, pictures in _of_splits(splits, count, size, seed):
        for index, picture in enumerate(pictures):
            city = f"{split}ville"
            name = f"{city}_{index % 2:06}_{index:06}"
            write(folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture.image)
            mask = np.array(values, np.uint8)[picture.mask]
            write(folder / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", mask)
    return folder


def make_roboflow_masks(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "valid", "test"),
) -> Path:
    """Roboflow's "PNG masks": `a.jpg`, `a_mask.png` and `_classes.csv` in each split's folder."""
    for split, pictures in _of_splits(splits, count, size, seed):
        for picture in pictures:
            write(folder / split / f"{picture.name}.jpg", picture.image)
            write(folder / split / f"{picture.name}_mask.png", picture.mask)
        rows = "".join(f"{value}, {name}\n" for value, name in enumerate(NAMES))
        (folder / split / "_classes.csv").write_text("Pixel Value, Class\n" + rows)
    return folder


CATEGORIES = (
    {"id": 3, "name": "disc", "supercategory": "shapes"},
    {"id": 7, "name": "box", "supercategory": "shapes"},
)
_CATEGORY_OF = {1: 3, 2: 7}


def coco_json(pictures: Sequence[Picture], categories: Sequence[dict] = CATEGORIES) -> dict:
    """The pictures as COCO has them: polygons; ids of images and annotations count from 1."""
    images, annotations = [], []
    for number, picture in enumerate(pictures, 1):
        height, width = picture.mask.shape
        images.append(
            {"id": number, "file_name": f"{picture.name}.jpg", "width": width, "height": height}
        )
        for shape, outline in picture.outlines:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": _CATEGORY_OF[shape],
                    "segmentation": [outline.astype(float).ravel().tolist()],
                    "area": float(cv2.contourArea(outline)),
                    "bbox": [float(value) for value in cv2.boundingRect(outline)],
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def make_coco(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "val"),
) -> Path:
    """COCO's own: annotations/instances_train2017.json and train2017/, with gaps in the ids."""
    for split, pictures in _of_splits(splits, count, size, seed):
        for picture in pictures:
            write(folder / f"{split}2017" / f"{picture.name}.jpg", picture.image)
        _dump(folder / "annotations" / f"instances_{split}2017.json", coco_json(pictures))
    return folder


def make_roboflow(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "valid", "test"),
) -> Path:
    """Roboflow's COCO export: a folder per split, and the superclass 0 that nothing uses."""
    categories = ({"id": 0, "name": "shapes", "supercategory": "none"}, *CATEGORIES)
    for split, pictures in _of_splits(splits, count, size, seed):
        for picture in pictures:
            write(folder / split / f"{picture.name}.jpg", picture.image)
        _dump(folder / split / "_annotations.coco.json", coco_json(pictures, categories))
    return folder


def _dump(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _points(outline: NDArray[np.int32]) -> list[list[float]]:
    return outline.astype(float).tolist()


def make_labelme(folder: Path, count: int = 8, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """labelme: `a.json` beside `a.jpg`, as it saves them."""
    for picture in draw(count, size, seed):
        write(folder / f"{picture.name}.jpg", picture.image)
        shapes = [
            {
                "label": NAMES[shape],
                "points": _points(outline),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for shape, outline in picture.outlines
        ]
        value = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{picture.name}.jpg",
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
        }
        _dump(folder / f"{picture.name}.json", value)
    return folder


def make_cvat(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = (),
) -> Path:
    """ "CVAT for images 1.1": annotations.xml, and images/ with a folder per subset, if any."""
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES[1:])
    text = f"<annotations><meta><task><labels>{labels}</labels></task></meta>"
    for split, pictures in _of_splits(splits or ("",), count, size, seed):
        for number, picture in enumerate(pictures):
            write(folder / "images" / split / f"{picture.name}.jpg", picture.image)
            subset = f' subset="{split}"' if split else ""
            text += f'<image id="{number}" name="{picture.name}.jpg"{subset} '
            text += f'width="{size[1]}" height="{size[0]}">'
            for shape, outline in picture.outlines:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline)
                text += f'<polygon label="{NAMES[shape]}" points="{points}" z_order="0"/>'
            text += "</image>"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.xml").write_text('<?xml version="1.0"?>' + text + "</annotations>")
    return folder


def make_supervisely(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "val"),
) -> Path:
    """Supervisely: meta.json, and img/ and ann/ in a folder per dataset."""
    _dump(folder / "meta.json", {"classes": [{"title": name} for name in NAMES[1:]], "tags": []})
    for split, pictures in _of_splits(splits, count, size, seed):
        for picture in pictures:
            write(folder / split / "img" / f"{picture.name}.jpg", picture.image)
            objects = [
                {
                    "classTitle": NAMES[shape],
                    "geometryType": "polygon",
                    "points": {"exterior": _points(outline), "interior": []},
                }
                for shape, outline in picture.outlines
            ]
            value = {"tags": [], "size": {"height": size[0], "width": size[1]}, "objects": objects}
            _dump(folder / split / "ann" / f"{picture.name}.jpg.json", value)
    return folder


def make_yolo(
    folder: Path,
    count: int = 8,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train", "val"),
) -> Path:
    """Ultralytics' YOLO for segmentation: images/train, labels/train and data.yaml."""
    for split, pictures in _of_splits(splits, count, size, seed):
        for picture in pictures:
            write(folder / "images" / split / f"{picture.name}.jpg", picture.image)
            lines = [
                " ".join([str(shape - 1), *(f"{v:.6f}" for v in (outline / size[::-1]).ravel())])
                for shape, outline in picture.outlines
            ]
            path = folder / "labels" / split / f"{picture.name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
    text = "".join(f"{split}: images/{split}\n" for split in splits)
    (folder / "data.yaml").write_text(f"path: .  # here\n{text}\nnames:\n  0: disc\n  1: box\n")
    return folder


MAKERS = {
    "coco": make_coco,
    "masks-csv": make_roboflow_masks,
    "cityscapes": make_cityscapes,
    "voc": make_voc,
    "labelme": make_labelme,
    "cvat": make_cvat,
    "supervisely": make_supervisely,
    "yolo": make_yolo,
    "folder": make_folder,
}
"""Row of `DATASETS` -> what makes a small set of that layout."""
