"""Pictures and masks as they are read: exact values, on the right pixels, or a clear error."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import write
from PIL import Image as Pictures
from pycocotools.coco import COCO

from rtseg.datasets import Sample, open_dataset
from rtseg.datasets.coco import Outline, Outlines
from rtseg.datasets.contract import read_index_mask
from rtseg.errors import DatasetError
from rtseg.images import image_size, read_image
from rtseg.labels import VOC, VOID, voc_colours

ORIENTATION = 0x0112


def indices(height: int = 6, width: int = 8) -> np.ndarray:
    return np.arange(height * width, dtype=np.uint8).reshape(height, width) % 5


# Index masks


def test_a_palette_mask_gives_its_indices_whatever_its_colours(tmp_path: Path) -> None:
    picture = Pictures.fromarray(indices()).convert("L")
    picture.putpalette([channel for colour in voc_colours() for channel in colour])
    picture.save(tmp_path / "a.png")
    assert (read_index_mask(tmp_path / "a.png") == indices()).all()


def test_a_grey_mask_gives_its_values(tmp_path: Path) -> None:
    mask = read_index_mask(write(tmp_path / "a.png", indices()))
    assert mask.dtype == np.uint8
    assert (mask == indices()).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_mask_of_few_bits_gives_its_indices(tmp_path: Path, bits: int) -> None:
    wanted = (indices() % (1 << bits)).astype(np.uint8)
    picture = Pictures.fromarray(wanted).convert("P")
    picture.putdata(wanted.ravel().tolist())
    picture.putpalette([0, 0, 0, 9, 9, 9, 50, 60, 70, 1, 2, 3, 4, 4, 4])
    picture.save(tmp_path / "a.png", bits=bits)
    assert (read_index_mask(tmp_path / "a.png") == wanted).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_mask_of_few_bits_gives_its_values_not_shades(tmp_path: Path, bits: int) -> None:
    wanted = np.arange(16, dtype=np.uint8).reshape(2, 8) % (1 << bits)
    (tmp_path / "a.png").write_bytes(_grey_png(wanted, bits))
    assert (read_index_mask(tmp_path / "a.png") == wanted).all()


def _grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of so many bits, which no library at hand writes."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return (
        signature
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def test_three_equal_channels_are_grey(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.repeat(indices()[..., None], 3, axis=2))
    assert (read_index_mask(path) == indices()).all()


def test_exact_colours_of_voc_give_its_classes_and_its_void(tmp_path: Path) -> None:
    wanted = np.array([[0, 15, 20], [7, 255, 1]], np.uint8)
    colours = np.array([*voc_colours(255), (224, 224, 192)], np.uint8)
    path = write(tmp_path / "a.png", np.ascontiguousarray(colours[wanted][..., ::-1]))
    assert (read_index_mask(path, VOC.colours) == wanted).all()
    assert (read_index_mask(path) == wanted).all()


def test_a_colour_of_no_class_is_named(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (1, 2, 3)
    with pytest.raises(DatasetError, match="#030201 does not belong to a class"):
        read_index_mask(write(tmp_path / "a.png", image))


def test_masks_that_cannot_hold_indices_are_refused(tmp_path: Path) -> None:
    deep = write(tmp_path / "deep.png", indices().astype(np.uint16) * 300)
    with pytest.raises(DatasetError, match="more than 8 bits"):
        read_index_mask(deep)
    with pytest.raises(DatasetError, match="JPEG compression changes pixel values"):
        read_index_mask(write(tmp_path / "lossy.jpg", indices()))
    clear = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(DatasetError, match="transparent") as raised:
        read_index_mask(write(tmp_path / "clear.png", clear))
    assert "Save it as an 8-bit PNG" in str(raised.value)


@pytest.mark.parametrize("read", [partial(read_image, failure=DatasetError), read_index_mask])
def test_files_that_are_damaged_are_named(tmp_path: Path, read) -> None:
    whole = write(
        tmp_path / "whole.png", np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)
    )
    for name, content in {
        "empty.png": b"",
        "words.png": b"these are words",
        "cut.png": whole.read_bytes()[:900],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=f"cannot read the .* {tmp_path / name}: ."):
            read(tmp_path / name)
    with pytest.raises(DatasetError, match="no such file"):
        read(tmp_path / "absent.png")


def test_a_value_of_no_class_is_told_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.jpg", np.zeros((6, 8, 3), np.uint8))
    write(tmp_path / "masks" / "a.png", indices())
    (tmp_path / "classes.txt").write_text("background\ndog\ncat\n")
    (sample,) = open_dataset(tmp_path).samples
    with pytest.raises(DatasetError, match="the values 3, 4, but there are 3 classes") as raised:
        sample.read_mask()
    assert "classes.txt" in str(raised.value)


# Pictures


def _turned(path: Path, orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a picture with an EXIF orientation; its stored and its upright red plane."""
    stored = np.zeros((40, 64), np.uint8)
    stored[:20, :16] = 250
    picture = Pictures.fromarray(np.stack([stored, stored * 0, stored * 0], axis=2))
    exif = Pictures.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(exist_ok=True)
    picture.save(path, exif=exif)
    return stored, read_image(path, DatasetError)[..., 2]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright_and_a_mask_drawn_on_it_stays(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    _, upright = _turned(tmp_path / "images" / f"a.{suffix}", orientation)
    write(tmp_path / "masks" / "a.png", (upright > 125).astype(np.uint8))
    (sample,) = open_dataset(tmp_path).samples
    image, mask = sample.read_image(), sample.read_mask()
    assert image_size(sample.image_path, DatasetError) == mask.shape == image.shape[:2]
    assert ((image[..., 2] > 125) == (mask == 1)).all()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_lying_picture_is_turned_with_it(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    stored, _ = _turned(tmp_path / "images" / f"a.{suffix}", orientation)
    write(tmp_path / "masks" / "a.png", (stored > 125).astype(np.uint8))
    (sample,) = open_dataset(tmp_path).samples
    image, mask = sample.read_image(), sample.read_mask()
    assert image.shape[:2] == mask.shape == (64, 40)
    assert ((image[..., 2] > 125) == (mask == 1)).all()


def test_an_image_turned_by_xmp_alone_has_one_size_everywhere(tmp_path: Path) -> None:
    stored = np.zeros((40, 64, 3), np.uint8)
    stored[:20, :16] = 250
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Pictures.fromarray(stored).save(tmp_path / "a.jpg", xmp=xmp)
    image = read_image(tmp_path / "a.jpg", DatasetError)
    assert image_size(tmp_path / "a.jpg", DatasetError) == image.shape[:2] == (64, 40)
    assert ((image[..., 2] > 125) == np.rot90(stored[..., 2] > 125, -1)).all()


# COCO's outlines


def coco_set(
    folder: Path,
    annotations: list[dict],
    size: tuple[int, int] = (10, 12),
    *,
    sized: bool = True,
) -> np.ndarray:
    """The mask of one picture with these annotations; categories 2 and 5 are classes 1 and 2."""
    write(folder / "a.png", np.zeros((*size, 3), np.uint8))
    image = {"id": 1, "file_name": "a.png"} | (
        {"height": size[0], "width": size[1]} if sized else {}
    )
    records = [
        {"id": number, "image_id": 1, "iscrowd": 0, **each}
        for number, each in enumerate(annotations, 1)
    ]
    categories = [{"id": 5, "name": "box"}, {"id": 2, "name": "disc"}]
    (folder / "a.json").write_text(
        json.dumps({"images": [image], "annotations": records, "categories": categories})
    )
    (sample,) = open_dataset(folder).samples
    return sample.read_mask()


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def test_a_polygon_covers_the_pixels_between_its_corners(tmp_path: Path) -> None:
    mask = coco_set(tmp_path, [{"category_id": 5, "segmentation": rectangle(2, 3, 7, 8)}])
    wanted = np.zeros((10, 12), np.uint8)
    wanted[3:8, 2:7] = 2
    assert (mask == wanted).all()


def test_a_picture_whose_size_the_file_does_not_give_is_asked(tmp_path: Path) -> None:
    annotations = [{"category_id": 2, "segmentation": rectangle(0, 0, 12, 5)}]
    assert (coco_set(tmp_path, annotations, sized=False)[:5] == 1).all()


def test_run_lengths_go_down_the_columns(tmp_path: Path) -> None:
    counts = [0, 10, 5, 5, 100]  # the first column, and the lower half of the second
    segmentation = {"size": [10, 12], "counts": counts}
    mask = coco_set(tmp_path, [{"category_id": 2, "segmentation": segmentation}])
    wanted = np.zeros((10, 12), np.uint8)
    wanted[:, 0] = 1
    wanted[5:, 1] = 1
    assert (mask == wanted).all()


def test_compressed_run_lengths_are_the_same_as_others(tmp_path: Path) -> None:
    from pycocotools import mask as runs

    drawn = (np.random.default_rng(3).random((10, 12)) > 0.6).astype(np.uint8)
    encoded = runs.encode(np.asfortranarray(drawn))
    segmentation = {"size": [10, 12], "counts": encoded["counts"].decode()}
    mask = coco_set(tmp_path, [{"category_id": 2, "segmentation": segmentation}])
    assert (mask == drawn).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_smaller_object_lies_over_the_larger_wherever_it_stands_in_the_file(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    both = [
        {"category_id": 2, "segmentation": rectangle(0, 0, 12, 10)},
        {"category_id": 5, "segmentation": rectangle(4, 4, 6, 6)},
    ]
    mask = coco_set(tmp_path, [both[index] for index in order])
    assert (mask[4:6, 4:6] == 2).all()
    assert (mask == 1).sum() == 120 - 4


def test_of_objects_of_one_size_the_later_lies_on_top(tmp_path: Path) -> None:
    same = rectangle(2, 2, 8, 8)
    mask = coco_set(
        tmp_path,
        [{"category_id": 5, "segmentation": same}, {"category_id": 2, "segmentation": same}],
    )
    assert set(np.unique(mask)) == {0, 1}


def test_a_crowd_is_not_scored_except_where_another_object_lies(tmp_path: Path) -> None:
    crowd = {"size": [10, 12], "counts": [0, 30, 90]}  # three columns: smaller than the object
    mask = coco_set(
        tmp_path,
        [
            {"category_id": 2, "segmentation": rectangle(2, 0, 12, 10)},
            {"category_id": 2, "segmentation": crowd, "iscrowd": 1},
        ],
    )
    assert (mask[:, :2] == VOID).all()
    assert (mask[:, 2:] == 1).all()


@pytest.mark.parametrize("iscrowd", ["x", "no", 2, -1, "yes"])
def test_a_crowd_that_is_neither_one_nor_none_is_refused(tmp_path: Path, iscrowd: object) -> None:
    square = rectangle(2, 2, 8, 8)
    with pytest.raises(DatasetError, match="iscrowd of annotation"):
        coco_set(tmp_path, [{"category_id": 2, "segmentation": square, "iscrowd": iscrowd}])


def test_an_object_of_two_points_is_no_object(tmp_path: Path) -> None:
    """pycocotools would read four numbers as a box."""
    mask = coco_set(
        tmp_path, [{"category_id": 2, "segmentation": [[1, 1, 5, 5], *rectangle(8, 8, 10, 10)]}]
    )
    assert (mask > 0).sum() == 4


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [9, 12], "counts": [0, 108]}, r"for \[9, 12\] \(HxW\), its image is 10x12"),
        ({"size": [10, 12], "counts": [0, 1000]}, "its runs cover 1000 of 120 pixels"),
        ({"size": [10, 12], "counts": "zzzz"}, "its runs cover 50 of 120 pixels"),
        ({"size": [10, 12], "counts": "\u00ff"}, "cannot use annotation 1"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
        ([[0, 0, float("nan"), 0, 5, 5]], "far outside"),
        ([["a", "b", "c", "d", "e", "f"]], "its points are not numbers"),
        ([["1", "1", "9", "1", "9", "9"]], "its points are not numbers"),
        ({"size": [10, 12], "counts": [0.5, 119.5]}, "its counts are not whole numbers"),
        ({"size": [10, 12], "counts": [True, 119]}, "its counts are not whole numbers"),
        ({"size": [10, 12], "counts": [-1, 121]}, "a run has the length -1"),
    ],
)
def test_an_outline_that_cannot_be_read_names_its_annotation(
    tmp_path: Path, segmentation: object, words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        coco_set(tmp_path, [{"category_id": 2, "segmentation": segmentation}])


def test_real_outlines_are_those_of_pycocotools(data: Path) -> None:
    dataset = open_dataset(data / "coco" / "instances_val.json")
    reference = COCO(data / "coco" / "instances_val.json")
    classes = {number: i for i, number in enumerate(sorted(reference.getCatIds()), 1)}
    by_name = {image["file_name"]: image["id"] for image in reference.imgs.values()}
    for sample in dataset.samples[::8]:
        mask = sample.read_mask()
        objects = reference.loadAnns(reference.getAnnIds(by_name[sample.image_path.name]))
        covers: dict[int, np.ndarray] = {}  # class, or VOID for crowds -> where any of it lies
        for each in objects:
            index = VOID if each["iscrowd"] else classes[each["category_id"]]
            here = covers.setdefault(index, np.zeros(mask.shape, bool))
            here |= _by_pycocotools(reference, each)
        count = sum(covers.values(), np.zeros(mask.shape, int))
        assert ((mask > 0) == (count > 0)).all()
        for index, area in covers.items():
            assert not (mask == index)[~area].any()
            assert (mask == index)[area & (count == 1)].all()
        if VOID in covers:
            assert not (mask == VOID)[count > 1].any()


def _by_pycocotools(reference: COCO, annotation: dict) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, under numpy 2
        return reference.annToMask(annotation).astype(bool)


def test_an_object_that_counts_as_background_hides_nothing_of_the_one_under_it(
    tmp_path: Path,
) -> None:
    image = tmp_path / "a.png"
    Pictures.new("RGB", (30, 20)).save(image)
    person, tie = [[2, 2, 28, 2, 28, 18, 2, 18]], [[10, 5, 14, 5, 14, 15, 10, 15]]
    both = Outlines(
        tmp_path / "a.json", image, (20, 30), (Outline(1, 1, person), Outline(2, 2, tie))
    )
    only_people = np.zeros(256, np.uint8)
    only_people[[1, 255]] = 1, 255
    sample = Sample("a", image, both)
    assert (sample.read_mask()[8, 12], sample.read_mask()[8, 20]) == (2, 1)
    assert (sample.read_as(only_people)[8, 12], sample.read_as(only_people)[0, 0]) == (1, 0)
