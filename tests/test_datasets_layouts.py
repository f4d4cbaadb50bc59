"""Every layout opens by itself, and keeps the contract of a dataset."""

from __future__ import annotations

import codecs
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import (
    CATEGORIES,
    MAKERS,
    NAMES,
    coco_json,
    draw,
    make_cityscapes,
    make_coco,
    make_folder,
    make_roboflow,
    make_roboflow_masks,
    make_voc,
    write,
)
from PIL import Image

from rtseg.datasets import DATASETS, Dataset, folders, layout_of, named_samples, open_dataset
from rtseg.datasets.checks import check_masks
from rtseg.errors import DatasetError, UsageError
from rtseg.labels import CITYSCAPES, VOC, VOID, voc_colours


def counts(dataset: Dataset) -> dict[str, int]:
    return dict(Counter(sample.split for sample in dataset.samples))


def named(dataset: Dataset, name: str) -> np.ndarray:
    return next(sample for sample in dataset.samples if sample.name == name).read_mask()


@pytest.fixture(params=sorted(DATASETS))
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_row_of_the_table_has_a_maker() -> None:
    assert set(MAKERS) == set(DATASETS)


def test_every_layout_is_recognised_and_keeps_the_contract(layout: str, tmp_path: Path) -> None:
    dataset = open_dataset(MAKERS[layout](tmp_path / "set"))
    assert dataset.format == layout == layout_of(tmp_path / "set")
    assert dataset.problems == ()
    assert len({sample.name for sample in dataset.samples}) == len(dataset) >= 8
    assert (dataset.labels.background is None) == (layout == "cityscapes")
    for sample in dataset.samples:
        image, mask = sample.read_image(), sample.read_mask()
        assert (image.dtype, mask.dtype) == (np.uint8, np.uint8)
        assert image.shape == (48, 64, 3)
        assert mask.shape == (48, 64)
        assert set(np.unique(mask)) <= {*range(len(dataset.labels)), VOID}
        red = image[..., 2].astype(int) - image[..., 0] > 100
        disc = mask == next(
            i for i, name in enumerate(dataset.labels.names) if name in ("disc", "person")
        )
        assert (red[mask != VOID] == disc[mask != VOID]).mean() > 0.97, "the mask fits its picture"


def test_the_order_is_the_same_whenever_it_is_opened_and_samples_travel(
    layout: str, tmp_path: Path
) -> None:
    folder = MAKERS[layout](tmp_path / "set")
    first, second = open_dataset(folder), open_dataset(folder)
    assert first == second
    assert [s.name for s in first.samples] == [s.name for s in second.samples]
    sample = first.samples[0]
    sent = pickle.loads(pickle.dumps(sample))  # to the worker processes that read for training
    assert (sent.read_mask() == sample.read_mask()).all()


def test_a_format_that_is_named_is_not_guessed(layout: str, tmp_path: Path) -> None:
    folder = MAKERS[layout](tmp_path / "set")
    assert open_dataset(folder, format=layout).format == layout
    with pytest.raises(UsageError, match="unknown format 'nonsense': formats are coco, masks-csv"):
        open_dataset(folder, format="nonsense")


def test_a_format_that_the_folder_is_not_is_an_error(layout: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DatasetError):
        open_dataset(tmp_path, format=layout)


def test_an_unknown_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", next(draw(1)).image)
    with pytest.raises(DatasetError, match="of a known layout") as raised:
        open_dataset(tmp_path)
    for row in DATASETS:
        assert f"{row}: " in str(raised.value)
    assert raised.value.exit_code == 2


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        open_dataset(tmp_path / "absent")


def test_one_folder_in_another_is_looked_into(tmp_path: Path) -> None:
    make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    assert len(open_dataset(tmp_path)) == 12


def test_a_split_is_kept_and_an_unknown_one_lists_those_there_are(tmp_path: Path) -> None:
    folder = make_roboflow(tmp_path / "set")
    assert counts(open_dataset(folder, split="valid")) == {"val": 4}
    assert open_dataset(folder).splits == ("train", "val", "test")
    with pytest.raises(DatasetError, match="splits are train, val, test"):
        open_dataset(folder, split="minival")
    with pytest.raises(DatasetError, match="it has none"):
        open_dataset(make_folder(tmp_path / "other"), split="val")


def test_names_in_a_file_are_kept_and_unknown_ones_are_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set")
    names = tmp_path / "keep.txt"
    names.write_text("00_0005\n\n00_0002\n")
    kept = named_samples(open_dataset(folder), names)
    assert [sample.name for sample in kept] == ["00_0002", "00_0005"]
    names.write_text("00_0005\nstranger\n")
    with pytest.raises(DatasetError, match="not in the dataset: stranger") as raised:
        named_samples(open_dataset(folder), names)
    assert "Write names like 00_0000" in str(raised.value)


def test_masks_can_be_checked_alone(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set")
    write(folder / "masks" / "00_0003.png", np.zeros((48, 63), np.uint8))
    dataset = open_dataset(folder)
    assert dataset.problems == ()
    (problem,) = check_masks(dataset.samples, set())
    assert problem.path.name == "00_0003.jpg"
    assert "48x63 (HxW), its image 00_0003.jpg is 48x64" in problem.message


# COCO


def test_coco_classes_are_background_then_categories_in_the_order_of_their_ids(
    tmp_path: Path,
) -> None:
    dataset = open_dataset(make_coco(tmp_path))
    assert dataset.labels.names == NAMES
    assert dataset.labels.background == 0
    assert counts(dataset) == {"train": 8, "val": 4}


def test_coco_masks_are_the_outlines_that_were_drawn(tmp_path: Path) -> None:
    dataset = open_dataset(make_coco(tmp_path))
    for picture in draw(8):
        wrong = named(dataset, picture.name) != picture.mask
        assert wrong.mean() < 0.03, "pycocotools rounds edges otherwise than OpenCV"


def _coco_beside(folder: Path, pictures_in: str, json_at: str) -> Path:
    pictures = list(draw(3))
    for picture in pictures:
        write(folder / pictures_in / f"{picture.name}.jpg", picture.image)
    path = folder / json_at
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco_json(pictures)))
    return path


@pytest.mark.parametrize(
    ("pictures_in", "json_at", "split"),
    [
        ("train", "instances_train.json", "train"),
        ("images/val2017", "annotations/instances_val2017.json", "val"),
        ("images/default", "annotations/instances_default.json", ""),
        ("images", "labels.json", ""),
        (".", "export.json", ""),
        ("valid", "valid/_annotations.coco.json", "val"),
        ("test/images", "test/annotations/annotations.json", "test"),
    ],
)
def test_the_pictures_of_a_coco_file_are_found_from_its_folder_and_from_the_file(
    tmp_path: Path, pictures_in: str, json_at: str, split: str
) -> None:
    path = _coco_beside(tmp_path, pictures_in, json_at)
    assert counts(open_dataset(tmp_path)) == {split: 3}
    assert open_dataset(tmp_path).problems == ()
    assert counts(open_dataset(path)) == {split: 3}


def test_roboflows_superclass_that_nothing_uses_is_left_out_and_said(tmp_path: Path) -> None:
    dataset = open_dataset(make_roboflow(tmp_path))
    assert dataset.labels.names == NAMES
    assert counts(dataset) == {"train": 8, "val": 4, "test": 4}
    assert any("category 0, shapes" in note for note in dataset.notes)


def test_a_category_0_that_is_used_stays(tmp_path: Path) -> None:
    categories = ({"id": 0, "name": "shapes", "supercategory": "none"}, *CATEGORIES)
    written = coco_json(list(draw(3)), categories)
    written["annotations"][0]["category_id"] = 0
    for picture in draw(3):
        write(tmp_path / f"{picture.name}.jpg", picture.image)
    (tmp_path / "a.json").write_text(json.dumps(written))
    assert open_dataset(tmp_path).labels.names == ("background", "shapes", "disc", "box")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["p0.jpg", "p0.png", "p1.jpg"], ["p0.jpg", "p0.png", "p1"]),
        (["a/p0.jpg", "b/p0.jpg", "p1.v2.jpg"], ["a/p0", "b/p0", "p1.v2"]),
        (["one", "two"], ["one", "two"]),
        (["a.b/one", "a.b/two"], ["one", "two"]),
    ],
)
def test_coco_pictures_that_differ_have_names_that_differ(
    tmp_path: Path, files: list[str], names: list[str]
) -> None:
    pictures = list(draw(len(files)))
    content = coco_json(pictures)
    for image, picture, file in zip(content["images"], pictures, files, strict=True):
        image["file_name"] = file
        png = write(tmp_path / "drawn.png", picture.image)
        (tmp_path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        png.rename(tmp_path / "images" / file)
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()
    assert [sample.name for sample in dataset.samples] == names
    for sample, picture in zip(dataset.samples, pictures, strict=True):
        assert (sample.read_mask() > 0).any()
        assert (sample.read_image() == picture.image).all()


def test_coco_images_of_one_file_are_a_problem(tmp_path: Path) -> None:
    first, second = draw(2)
    content = coco_json([first, second])
    for image, folder in zip(content["images"], "ab", strict=True):
        image["file_name"] = f"{folder}/p.png"
    write(tmp_path / "images" / "p.png", first.image)
    (tmp_path / "all.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    (problem,) = dataset.problems
    assert problem.message.endswith("exists: b/p.png")


def test_coco_files_that_name_different_pictures_alike_keep_both(tmp_path: Path) -> None:
    first, second = draw(2)
    for letter, suffix, picture in (("a", "jpg", first), ("b", "png", second)):
        content = coco_json([picture])
        content["images"][0]["file_name"] = f"p.{suffix}"
        write(tmp_path / "images" / f"p.{suffix}", picture.image)
        (tmp_path / f"{letter}.json").write_text(json.dumps(content))
    assert [sample.name for sample in open_dataset(tmp_path).samples] == ["p.jpg", "p.png"]


def test_a_category_called_background_is_the_background(tmp_path: Path) -> None:
    categories = ({"id": 9, "name": "Background"}, *CATEGORIES)
    for picture in draw(3):
        write(tmp_path / f"{picture.name}.jpg", picture.image)
    (tmp_path / "a.json").write_text(json.dumps(coco_json(list(draw(3)), categories)))
    dataset = open_dataset(tmp_path)
    assert dataset.labels.names == ("Background", "disc", "box")
    assert dataset.labels.background == 0


def test_files_that_call_one_category_by_two_names_are_refused(tmp_path: Path) -> None:
    path = make_coco(tmp_path) / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"disc"', '"ring"'))
    with pytest.raises(DatasetError, match="names category 3 'ring', another file 'disc'"):
        open_dataset(tmp_path)


MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("layout", ["coco", "masks-csv", "voc", "folder"])
def test_text_may_begin_with_a_byte_order_mark(layout: str, encoding: str, tmp_path: Path) -> None:
    folder = MAKERS[layout](tmp_path / "set")
    plain = open_dataset(folder)
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".csv", ".txt"):
            text = path.read_text("utf-8").replace("\n", "\r\n")
            path.write_bytes(MARKS[encoding] + text.encode(encoding))
    marked = open_dataset(folder)
    assert (marked.problems, marked.labels, counts(marked)) == ((), plain.labels, counts(plain))


def coco_folder(
    folder: Path, change: Callable[[dict], None], count: int = 6, images: str = "images"
) -> Dataset:
    """Images and one JSON, changed; opened."""
    content = coco_json(list(draw(count)))
    for picture in draw(count):
        write(folder / images / f"{picture.name}.jpg", picture.image)
    change(content)
    (folder / "labels.json").write_text(json.dumps(content))
    return open_dataset(folder)


def drawn(dataset: Dataset) -> float:
    """The largest share of a mask that is not as drawn."""
    pictures = {picture.name: picture.mask for picture in draw(12)}
    return max((s.read_mask() != pictures[s.name]).mean() for s in dataset.samples)


@pytest.mark.parametrize("crowds", [1.0, 0.8])
@pytest.mark.parametrize("flag", [1, True, "1"])
def test_crowds_are_objects_where_most_annotations_are(
    tmp_path: Path, crowds: float, flag: int | bool | str
) -> None:
    def mark(content: dict) -> None:
        for annotation in content["annotations"][: round(crowds * len(content["annotations"]))]:
            annotation["iscrowd"] = flag

    dataset = coco_folder(tmp_path, mark)
    assert drawn(dataset) < 0.03
    assert any("crowds (iscrowd): taken as objects" in note for note in dataset.notes)


def test_a_category_all_of_whose_annotations_are_crowds_is_one_of_objects(tmp_path: Path) -> None:
    def mark(content: dict) -> None:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = int(annotation["category_id"] == 7)
        content["annotations"] += [  # many others
            {**content["annotations"][0], "id": 100 + n, "category_id": 3, "iscrowd": 0}
            for n in range(20)
        ]

    dataset = coco_folder(tmp_path, mark, 12)
    assert drawn(dataset) < 0.03
    assert "8 of 8 annotations of some categories" in dataset.notes[0]


def test_a_few_crowds_stay_unlabelled(tmp_path: Path) -> None:
    def mark(content: dict) -> None:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = "0"
        content["annotations"][0]["iscrowd"] = 1

    dataset = coco_folder(tmp_path, mark)
    assert (dataset.samples[0].read_mask() == VOID).any()
    assert dataset.notes == ()


@pytest.mark.parametrize("sized", [64, 1, 0.0])
def test_coordinates_from_0_to_1_are_scaled_to_the_images(tmp_path: Path, sized: float) -> None:
    def shrink(content: dict) -> None:
        for annotation in content["annotations"]:
            (polygon,) = annotation["segmentation"]
            shares = np.reshape(polygon, (-1, 2)) / (64, 48)
            annotation["segmentation"] = [shares.ravel().tolist()]
        for image in content["images"]:
            image["width"], image["height"] = sized, 48 if sized == 64 else sized

    dataset = coco_folder(tmp_path, shrink)
    assert drawn(dataset) < 0.03
    assert dataset.problems == ()
    assert dataset.notes == ("coordinates in labels.json go from 0 to 1: scaled to the images",)


def test_a_polygon_need_not_be_in_a_list_of_polygons(tmp_path: Path) -> None:
    def flatten(content: dict) -> None:
        for annotation in content["annotations"]:
            (annotation["segmentation"],) = annotation["segmentation"]

    assert drawn(coco_folder(tmp_path, flatten)) < 0.03


def test_coordinates_of_two_units_are_a_problem(tmp_path: Path) -> None:
    def shrink(content: dict) -> None:
        for annotation in content["annotations"][:3]:
            (polygon,) = annotation["segmentation"]
            annotation["segmentation"] = [[value / 64 for value in polygon]]

    (problem,) = coco_folder(tmp_path, shrink).problems
    assert problem.message.endswith("from 0 to 1, others are in pixels: 1, 2, 3")


@pytest.mark.parametrize("splits", [(), ("train", "validation")])
def test_fiftyones_labels_and_data_are_found(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits or (".",):
        assert drawn(coco_folder(tmp_path / split, lambda content: None, images="data")) < 0.03
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()
    assert counts(dataset) == ({"train": 6, "val": 6} if splits else {"": 6})


def test_images_that_are_nowhere_are_reported_with_where_they_were_looked_for(
    tmp_path: Path,
) -> None:
    folder = make_coco(tmp_path, splits=("train",))
    (folder / "train2017").rename(folder / "elsewhere")
    with pytest.raises(DatasetError, match=r"images that do not exist in .*: 00_0000\.jpg"):
        open_dataset(folder)


# Pascal VOC


def test_voc_has_its_21_classes_and_the_splits_of_its_lists(tmp_path: Path) -> None:
    dataset = open_dataset(make_voc(tmp_path))
    assert dataset.labels == VOC
    assert counts(dataset) == {"train": 8, "val": 4}


def test_voc_trainval_is_no_split_of_its_own_beside_its_halves(tmp_path: Path) -> None:
    lists = make_voc(tmp_path) / "ImageSets" / "Segmentation"
    halves = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
    (lists / "trainval.txt").write_text(halves)
    assert counts(open_dataset(tmp_path)) == {"train": 8, "val": 4}
    assert open_dataset(tmp_path).problems == ()
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    assert counts(open_dataset(tmp_path)) == {"train": 12}


@pytest.mark.parametrize(
    ("lists", "train"),
    [(("trainaug", "val"), 5), (("trainaug", "trainval", "val"), 5), (("trainval", "val"), 5),
     (("train", "trainaug", "val"), 3)],
)  # fmt: skip
def test_voc_trains_on_the_augmented_list_where_there_is_no_other(
    tmp_path: Path, lists: tuple[str, ...], train: int
) -> None:
    folder = make_voc(tmp_path) / "ImageSets" / "Segmentation"
    names = sorted(path.stem for path in (tmp_path / "SegmentationClass").iterdir())
    shutil.rmtree(folder)
    folder.mkdir()
    counted = {"train": 3, "trainaug": 5, "trainval": 7, "val": 2}
    for name in lists:
        some = names[5:7] if name == "val" else names[: counted[name]]
        (folder / f"{name}.txt").write_text("".join(f"{each}\n" for each in some))
    dataset = open_dataset(tmp_path)
    assert counts(dataset)["train"] == train
    assert dataset.problems == ()
    assert any("trainaug.txt" in note for note in dataset.notes) == ("train" in lists)
    assert any("2 of its images stay" in note for note in dataset.notes) == (
        lists == ("trainval", "val")
    )


def test_voc_without_lists_takes_every_mask(tmp_path: Path) -> None:
    shutil.rmtree(make_voc(tmp_path) / "ImageSets")
    assert counts(open_dataset(tmp_path)) == {"": 12}


def test_cvats_labelmap_names_the_classes_and_the_colours_of_masks_in_full_colour(
    tmp_path: Path,
) -> None:
    colours = np.array([(0, 0, 0), (10, 20, 30), (50, 50, 50)], np.uint8)  # RGB
    for picture in draw(3):
        write(tmp_path / "JPEGImages" / f"{picture.name}.jpg", picture.image)
        write(
            tmp_path / "SegmentationClass" / f"{picture.name}.png",
            np.ascontiguousarray(colours[picture.mask][..., ::-1]),
        )
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndisc:10,20,30::\nbox:50,50,50::\n"
    )
    dataset = open_dataset(tmp_path)
    assert dataset.labels.names == NAMES
    assert dataset.labels.colours[1] == (10, 20, 30)
    for picture in draw(3):
        assert (named(dataset, picture.name) == picture.mask).all()


def test_labelmes_older_voc_export_has_its_masks_in_a_folder_of_pngs(tmp_path: Path) -> None:
    shutil.rmtree(make_voc(tmp_path) / "ImageSets")
    (tmp_path / "SegmentationClass").rename(tmp_path / "SegmentationClassPNG")
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "SegmentationClass" / "00_0000.npy").write_bytes(b"")
    assert counts(open_dataset(tmp_path)) == {"": 12}


# Cityscapes


def test_cityscapes_label_ids_become_the_19_trained_classes(tmp_path: Path) -> None:
    dataset = open_dataset(make_cityscapes(tmp_path))
    assert dataset.labels == CITYSCAPES
    assert counts(dataset) == {"train": 8, "val": 4}
    path = tmp_path / "gtFine" / "train" / "trainville"
    ids = np.zeros((48, 64), np.uint8)
    ids[0, :8] = [0, 7, 8, 9, 24, 29, 33, 30]
    write(path / "trainville_000000_000000_gtFine_labelIds.png", ids)
    assert dataset.samples[0].read_mask()[0, :8].tolist() == [255, 0, 1, 255, 11, 255, 18, 255]


def test_cityscapes_train_ids_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    dataset = open_dataset(make_cityscapes(tmp_path, kind="labelTrainIds"))
    assert dataset.problems == ()
    assert set(np.unique(dataset.samples[0].read_mask())) == {0, 11, 13}


def test_cityscapes_frames_of_one_drive_are_one_sequence(tmp_path: Path) -> None:
    dataset = open_dataset(make_cityscapes(tmp_path))
    assert {sample.sequence for sample in dataset.samples} == {
        "trainville_000000", "trainville_000001", "valville_000000", "valville_000001",
    }  # fmt: skip


def test_cityscapes_lists_of_pictures_and_masks_give_the_splits(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    pictures = sorted((tmp_path / "leftImg8bit" / "train").rglob("*.png"))
    lines = []
    for path in pictures[:3]:
        image = path.relative_to(tmp_path).as_posix()
        mask = image.replace("leftImg8bit.png", "gtFine_labelIds.png")
        lines.append(f"{image} {mask.replace('leftImg8bit/', 'gtFine/')}")
    (tmp_path / "val.txt").write_text("\n".join(lines[:1]))
    (tmp_path / "train.txt").write_text("\n".join(lines[1:]))
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train": 2, "val": 1}
    assert set(np.unique(dataset.samples[0].read_mask())) <= {0, 11, 13}
    assert any("9 labelled images left out: in no list" in note for note in dataset.notes)


def test_each_mask_that_cityscapes_lists_name_is_read_by_its_own_kind(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    make_cityscapes(tmp_path, kind="labelTrainIds")
    lines = []
    for name, kind in (("000000_000000", "labelIds"), ("000001_000001", "labelTrainIds")):
        stem = f"train/trainville/trainville_{name}"
        lines.append(f"leftImg8bit/{stem}_leftImg8bit.png gtFine/{stem}_gtFine_{kind}.png")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    dataset = open_dataset(tmp_path)
    for sample, picture in zip(dataset.samples, draw(2), strict=True):
        assert (sample.read_mask() == np.array([0, 11, 13], np.uint8)[picture.mask]).all()


def test_a_mask_of_no_kind_of_cityscapes_is_refused(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    stem = "train/trainville/trainville_000000_000000"
    colours = f"gtFine/{stem}_gtFine_color.png"
    shutil.copy(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", tmp_path / colours)
    (tmp_path / "train.txt").write_text(f"leftImg8bit/{stem}_leftImg8bit.png {colours}")
    (sample,) = open_dataset(tmp_path).samples
    with pytest.raises(DatasetError, match="neither labelIds nor labelTrainIds"):
        sample.read_mask()


@pytest.mark.parametrize("place", ["list", "lists", "list/cityscapes", "."])
@pytest.mark.parametrize("suffix", ["lst", "txt"])
@pytest.mark.parametrize("blank", ["\t", " "])
def test_cityscapes_lists_may_be_in_a_folder_of_lists(
    tmp_path: Path, place: str, suffix: str, blank: str
) -> None:
    make_cityscapes(tmp_path, splits=("train", "val", "test"))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tmp_path / "gtFine" / "test")
    for split, most in (("train", 3), ("val", 2), ("test", 9)):
        pictures = sorted((tmp_path / "leftImg8bit" / split).rglob("*.png"))[:most]
        names = [path.relative_to(tmp_path).as_posix() for path in pictures]
        masks = [name.replace("leftImg8bit/", "gtFine/") for name in names]
        masks = [name.replace("leftImg8bit.png", "gtFine_labelIds.png") for name in masks]
        pairs = zip(names, masks, strict=True)
        lines = names if split == "test" else [f"{a}{blank}{b}" for a, b in pairs]
        (tmp_path / place / f"{split}.{suffix}").write_text("\n".join(lines) + "\n")
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()
    assert counts(dataset) == {"train": 3, "val": 2}
    assert any("test" in note and "images has a mask" in note for note in dataset.notes)


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_frames_of_one_name_in_two_splits_keep_their_own_masks(tmp_path: Path, kind: str) -> None:
    pictures = {"train": list(draw(3, seed=0)), "val": list(draw(3, seed=1))}
    values = np.array([7, 24, 26] if kind == "labelIds" else [0, 11, 13], np.uint8)
    for split, drawn in pictures.items():
        for number, picture in enumerate(drawn):
            stem = f"{split}/city/city_000000_{number:06}"
            write(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", picture.image)
            write(tmp_path / "gtFine" / f"{stem}_gtFine_{kind}.png", values[picture.mask])
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()
    assert counts(dataset) == {"train": 3, "val": 3}
    for sample, picture in zip(
        dataset.samples, [*pictures["train"], *pictures["val"]], strict=True
    ):
        assert (sample.read_mask() == np.array([0, 11, 13], np.uint8)[picture.mask]).all()


def test_cityscapes_without_masks_is_refused_with_what_to_make(tmp_path: Path) -> None:
    for mask in list(make_cityscapes(tmp_path).glob("gtFine/*/*/*.png")):
        mask.rename(mask.with_name(mask.name.replace("labelIds.png", "polygons.json")))
    for file in tmp_path.glob("gtFine/*/*/*.json"):
        file.write_text('{"imgHeight": 48, "imgWidth": 64, "objects": []}')
    with pytest.raises(DatasetError, match="Cityscapes polygons"):
        open_dataset(tmp_path)


def test_an_image_does_not_take_the_mask_of_another_split(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    stem = "train/trainville/trainville_000000_000000"
    mask = tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png"
    moved = tmp_path / "gtFine" / "val" / "trainville" / mask.name
    moved.parent.mkdir()
    mask.rename(moved)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 11
    assert {problem.split for problem in dataset.problems} == {"train", "val"}


# Roboflow's PNG masks


def test_the_csv_says_which_value_is_which_class(tmp_path: Path) -> None:
    folder = make_roboflow_masks(tmp_path)
    assert open_dataset(folder).labels.names == NAMES
    for split in ("train", "valid", "test"):
        rows = "Pixel Value, Class\n0, background\n2, disc\n1, box\n"
        (folder / split / "_classes.csv").write_text(rows)
    assert open_dataset(folder).labels.names == ("background", "box", "disc")


def test_a_value_that_the_csv_leaves_out_is_told_with_those_it_has(tmp_path: Path) -> None:
    folder = make_roboflow_masks(tmp_path)
    for split in ("train", "valid", "test"):
        (folder / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n7, disc\n")
    with pytest.raises(DatasetError, match=r"2 classes \(0, 7, 255 is unlabelled\)"):
        [sample.read_mask() for sample in open_dataset(folder).samples]


def test_a_value_that_the_csv_has_twice_is_refused(tmp_path: Path) -> None:
    folder = make_roboflow_masks(tmp_path)
    rows = "Pixel Value, Class\n0, background\n1, disc\n2, hat\n1, box\n"
    (folder / "train" / "_classes.csv").write_text(rows)
    with pytest.raises(DatasetError, match="given twice: 1"):
        open_dataset(folder)


def test_splits_whose_csv_differ_are_refused(tmp_path: Path) -> None:
    folder = make_roboflow_masks(tmp_path)
    (folder / "test" / "_classes.csv").write_text("Pixel Value, Class\n0, nothing\n1, disc\n")
    with pytest.raises(DatasetError, match="its classes differ from"):
        open_dataset(folder)


# Folders


def _folders(root: Path, image: str, mask: str, count: int = 3) -> Path:
    for picture in draw(count):
        write(root / image.format(picture.name), picture.image)
        write(root / mask.format(picture.name), picture.mask)
    return root


@pytest.mark.parametrize(
    ("image", "mask", "split"),
    [
        ("images/{}.jpg", "masks/{}.png", ""),
        ("imgs/{}.JPG", "labels/{}.PNG", ""),
        ("img/{}.webp", "gt/{}.bmp", ""),
        ("train/images/{}.jpeg", "train/masks/{}.png", "train"),
        ("images/training/{}.jpg", "annotations/training/{}.png", "train"),
        ("val/{}.png", "valannot/{}.png", "val"),
        ("test/{}.png", "test_labels/{}_L.png", "test"),
        ("images/{}.jpg", "masks/{}_mask.png", ""),
        ("{}.jpg", "{}_mask.png", ""),
        ("img_dir/train/{}.jpg", "ann_dir/train/{}.png", "train"),
        ("img_dir/{}.jpg", "ann_dir/{}.png", ""),
        ("val/image_dir/{}.jpg", "val/label_dir/{}.png", "val"),
        ("img_dir/{}.png", "ann_dir/{}_instance_color_RGB.png", ""),
        ("images/{}.png", "annotations/{}_labelTrainIds.png", ""),
        ("data/{}.jpg", "labels/{}.png", ""),
        ("data/train/{}.jpg", "data/train_labels/{}.png", "train"),
        ("images/train2017/{}.jpg", "masks/train2017/{}.png", "train"),
        ("val2017/{}.jpg", "stuffthingmaps/val2017/{}.png", "val"),
        ("train_images/{}.jpg", "train_masks/{}.png", "train"),
        ("Img_Val/{}.jpg", "Mask_Val/{}.png", "val"),
        ("test-set/images/{}.jpg", "test-set/labels/{}.png", "test"),
    ],
)
def test_usual_folders_of_pictures_and_masks_pair_up(
    tmp_path: Path, image: str, mask: str, split: str
) -> None:
    dataset = open_dataset(_folders(tmp_path, image, mask))
    assert dataset.format == "folder"
    assert dataset.problems == ()
    assert counts(dataset) == {split: 3}
    assert [sample.name for sample in dataset.samples] == [picture.name for picture in draw(3)]
    for picture in draw(3):
        assert (named(dataset, picture.name) == picture.mask).all()


@pytest.mark.parametrize("place", ["{}2017", "{}-set", "{}"])
def test_coco_folders_named_after_splits_and_years(tmp_path: Path, place: str) -> None:
    for split, count in (("train", 4), ("val", 2)):
        make_coco(tmp_path / split, splits=("all",), count=count)
        ((source, *_), folder) = sorted((tmp_path / split).rglob("*.json")), place.format(split)
        images = [p for p in (tmp_path / split).rglob("*") if p.suffix in (".jpg", ".png")]
        (tmp_path / "set" / folder).mkdir(parents=True)
        for path in (source, *images):
            shutil.copy(path, tmp_path / "set" / folder)
    assert counts(open_dataset(tmp_path / "set")) == {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("image", "mask"),
    [("train/{}.jpg", "train_masks/{}_mask.gif"),  # Carvana's
     ("images/{}.tif", "masks/{}.gif"), ("images/{}.gif", "masks/{}.png")],
)  # fmt: skip
def test_images_and_masks_may_be_still_gifs(tmp_path: Path, image: str, mask: str) -> None:
    for picture in draw(3):
        for pattern, values in ((image, picture.image[..., ::-1]), (mask, picture.mask)):
            path = tmp_path / pattern.format(picture.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(values)).save(path)
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()
    for picture in draw(3):
        assert (named(dataset, picture.name) == picture.mask).all()
        sample = next(each for each in dataset.samples if each.name == picture.name)
        assert np.abs(sample.read_image().astype(int) - picture.image).mean() < 30


@pytest.mark.parametrize(
    ("image", "mask", "sequence"),
    [
        ("{}/frames/{:05}.jpg", "{}/masks/{:05}.png", "{}"),
        ("JPEGImages/480p/{}/{:05}.jpg", "Annotations/480p/{}/{:05}.png", "480p/{}"),
    ],
)
def test_further_folders_are_sequences(
    tmp_path: Path, image: str, mask: str, sequence: str
) -> None:
    for name in ("dog", "parkour"):
        for number, picture in enumerate(draw(2)):
            write(tmp_path / image.format(name, number), picture.image)
            write(tmp_path / mask.format(name, number), np.where(picture.mask, 255, 0))
    dataset = open_dataset(tmp_path)
    assert [sample.sequence for sample in dataset.samples] == [
        sequence.format(name) for name in ("dog", "dog", "parkour", "parkour")
    ]
    assert len({sample.name for sample in dataset.samples}) == 4
    assert dataset.labels.names == ("background", "foreground")


@pytest.mark.parametrize(
    "line", ["{name}", "images/{name}.jpg", "./images/{name}.jpg masks/{name}.png",
             "{root}/images/{name}.jpg", "images/{name}.jpg,masks/{name}.png"],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", ["train.txt", "train_list.txt", "lists/train2017.lst", "../train.txt"]
)
def test_lists_give_the_splits(tmp_path: Path, line: str, place: str) -> None:
    root = _folders(tmp_path / "set", "images/{}.jpg", "masks/{}.png")
    pictures = list(draw(3))
    for split, part in (("train", pictures[:2]), ("val", pictures[2:])):
        path = root / place.replace("train", split)
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(line.format(name=p.name, root=root) + "\n" for p in part))
    dataset = open_dataset(root)
    assert dataset.problems == ()
    assert counts(dataset) == {"train": 2, "val": 1}
    assert any("splits come from" in note for note in dataset.notes)


def test_lists_of_another_dataset_beside_it_are_not_taken(tmp_path: Path) -> None:
    root = _folders(tmp_path / "set", "images/{}.jpg", "masks/{}.png")
    (tmp_path / "train.txt").write_text(f"{next(iter(draw(1))).name}\nof_another_set\n")
    dataset = open_dataset(root)
    assert (counts(dataset), dataset.problems) == ({"": 3}, ())


def test_what_is_no_list_beside_it_is_not_read(tmp_path: Path) -> None:
    root = _folders(tmp_path / "set", "images/{}.jpg", "masks/{}.png")
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "val.txt").mkdir()
    assert counts(open_dataset(root)) == {"": 3}
    (tmp_path / "train.txt").write_text(f"{next(iter(draw(1))).name}\n")
    dataset = open_dataset(root)
    assert (counts(dataset), dataset.problems) == ({"train": 1}, ())
    assert dataset.notes[-1] == f"splits come from {tmp_path / 'train.txt'}"


def test_a_list_may_name_sequences(tmp_path: Path) -> None:
    for name in ("dog", "parkour", "cat"):
        _folders(tmp_path, f"JPEGImages/480p/{name}/{{}}.jpg", f"Annotations/480p/{name}/{{}}.png")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "train.txt").write_text("parkour\n")
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("dog\n")
    dataset = open_dataset(tmp_path)
    assert {(sample.split, sample.sequence) for sample in dataset.samples} == {
        ("train", "480p/parkour"), ("val", "480p/dog"),
    }  # fmt: skip


def test_pictures_in_a_folder_without_any_mask_are_no_samples_and_are_told_of(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path)
    for picture in draw(2, seed=5):
        write(folder / "unlabelled" / f"{picture.name}.jpg", picture.image)
    dataset = open_dataset(folder)
    assert len(dataset) == 8
    assert dataset.problems == ()
    assert dataset.notes == ("images without masks are left out: 2 in unlabelled/",)


def test_a_folder_of_several_sets_is_not_mixed_up(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        make_folder(tmp_path / name)
    with pytest.raises(DatasetError, match=r"several datasets in .* names in cats, dogs"):
        open_dataset(tmp_path)


def test_names_may_lie_in_the_parts_of_a_set_and_above_a_split_that_is_named_alone(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path, splits=("train", "val"))
    assert open_dataset(folder / "val").labels.names == NAMES
    names = (folder / "classes.json").rename(folder / "train" / "classes.json")
    shutil.copy(names, folder / "val")
    assert open_dataset(folder).labels.names == NAMES


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    real = make_folder(tmp_path / "disk")
    (tmp_path / "set").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "set" / name).symlink_to(real / name, target_is_directory=True)
    (tmp_path / "set" / "images" / "back").symlink_to(tmp_path / "set", target_is_directory=True)
    dataset = open_dataset(tmp_path / "set", allow_outside=True)
    assert len(dataset) == 8
    assert dataset.problems == ()


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path)
    scan = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("masks"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DatasetError, match=r"cannot read the folder .*masks: Permission denied"):
        open_dataset(tmp_path, format="folder")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.json", '["nothing", "disc", "box"]'),
        ("classes.json", '{"nothing": 0, "box": 2, "disc": 1}'),
        ("labels.json", '{"0": "nothing", "1": "disc", "2": "box"}'),
        ("classes.json", '{"names": ["nothing", "disc", "box"]}'),
        ("classes.txt", "nothing\ndisc\nbox\n"),
        ("labels.txt", "\ufeff0 nothing\n1 disc\n2 box\n"),
        ("class_dict.csv", "name,r,g,b\nnothing,0,0,0\ndisc,1,2,3\nbox,4,5,6\n"),
        ("class_dict.csv", "nothing,0,0,0\ndisc,1,2,3\nbox,4,5,6\n"),
    ],
)
def test_names_are_read_from_the_usual_files(tmp_path: Path, name: str, text: str) -> None:
    folder = make_folder(tmp_path, names=None)
    (folder / name).write_text(text, "utf-8")
    labels = open_dataset(folder).labels
    assert labels.names == ("nothing", "disc", "box")
    assert labels.background == 0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classes.json", '["a", "b"', "it is not JSON"),
        ("classes.json", '{"a": 0, "b": 2}', "do not count from 0 on without a gap"),
        ("classes.txt", "a\nb\nA\n", "named twice: A, a"),
        ("class_dict.csv", "name,r,g,b\na,0,0,0\nb,1,2,300\n", "is not a colour"),
        ("class_dict.csv", "", "there are 0"),
        ("class_dict.csv", "# nothing yet\n", "there are 0"),
        ("class_dict.csv", "name,r,g,b\n", "there are 0"),
        ("classes.txt", "", "there are 0"),
    ],
)
def test_names_that_make_no_sense_are_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    folder = make_folder(tmp_path, names=None)
    (folder / name).write_text(text)
    with pytest.raises(DatasetError, match=words):
        open_dataset(folder)


def test_without_names_classes_are_called_after_the_values_and_it_is_said(tmp_path: Path) -> None:
    dataset = open_dataset(make_folder(tmp_path, names=None))
    assert dataset.labels.names == ("background", "class_1", "class_2")
    assert "0, 1, 2 in 8 of 8 masks" in dataset.notes[0]


@pytest.mark.parametrize("names", [None, ("background", "thing"), ("thing",)])
def test_masks_of_0_and_255_are_nothing_and_something(tmp_path: Path, names) -> None:
    dataset = open_dataset(make_folder(tmp_path, names=names, binary=True))
    assert dataset.labels.names == ("background", "foreground" if names is None else "thing")
    for picture in draw(8):
        assert (named(dataset, picture.name) == (picture.mask > 0)).all()


@pytest.mark.parametrize("most", [4, 500])
@pytest.mark.parametrize("names", [None, ("background", "person"), ("person",)])
def test_masks_of_0_and_255_are_known_where_the_first_ones_show_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names, most: int
) -> None:
    monkeypatch.setattr(folders, "MOST_MASKS_READ", most)
    make_folder(tmp_path, 24, names=names, binary=True)
    for index in range(20 if most == 500 else 23):
        write(tmp_path / "masks" / f"00_{index:04}.png", np.zeros((48, 64), np.uint8))
    dataset = open_dataset(tmp_path)
    person = "foreground" if names is None else "person"
    assert dataset.labels.names == ("background", person)
    assert dataset.notes == (f"masks hold 0 and 255: background and {person}",)
    assert set(np.unique(dataset.samples[-1].read_mask())) == {0, 1}


@pytest.mark.parametrize("values", [(0, 127, 255), (0, 85, 170, 255), (0, 1, 9, 40, 230, 255)])
def test_grey_levels_are_refused_unless_their_names_say_what_they_are(
    tmp_path: Path, values: tuple[int, ...]
) -> None:
    make_folder(tmp_path, names=None)
    mask = np.resize(np.array(values, np.uint8), (48, 64))
    for path in (tmp_path / "masks").iterdir():
        write(path, mask)
    with pytest.raises(DatasetError, match=r"grey levels, not class indices: 0, .*, 255 in 8 of 8"):
        open_dataset(tmp_path)


PAINT = ((0, 0, 0), (128, 0, 0), (0, 128, 0))


def reduced(mask: np.ndarray, *, reverse: bool) -> Image.Image:
    """As programs that make PNGs smaller write full colour: with a palette of what occurs."""
    used = sorted(np.unique(mask).tolist(), reverse=reverse)
    table = np.zeros(256, np.uint8)
    table[used] = range(len(used))
    image = Image.fromarray(table[mask])
    image.putpalette([part for index in used for part in PAINT[index]])
    return image


@pytest.mark.parametrize("named", ["class_dict.csv", "full colour", "voc"])
def test_palettes_of_each_mask_are_read_by_their_colours(tmp_path: Path, named: str) -> None:
    """One of the masks has no disc, another has its colours in another order."""
    pictures = list(draw(4))
    pictures[0].mask[pictures[0].mask == 1] = 0
    places = ("JPEGImages", "SegmentationClass") if named == "voc" else ("images", "masks")
    for number, picture in enumerate(pictures):
        write(tmp_path / places[0] / f"{picture.name}.png", picture.image)
        mask = tmp_path / places[1] / f"{picture.name}.png"
        mask.parent.mkdir(exist_ok=True)
        image = reduced(picture.mask, reverse=number == 1)
        (image.convert("RGB") if named == "full colour" and number == 2 else image).save(mask)
    if named == "class_dict.csv":
        rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(NAMES, PAINT, strict=True)]
        (tmp_path / named).write_text("\n".join(["name,r,g,b", *rows]))
    dataset = open_dataset(tmp_path)
    for sample, picture in zip(dataset.samples, pictures, strict=True):
        assert (sample.read_mask() == picture.mask).all()


@pytest.mark.parametrize("names", [None, NAMES])
def test_palettes_that_contradict_are_refused(tmp_path: Path, names) -> None:
    make_folder(tmp_path, 4, names=names)
    for number, picture in enumerate(draw(4)):
        image = reduced(picture.mask, reverse=number == 1)
        image.save(tmp_path / "masks" / f"{picture.name}.png")
    with pytest.raises(DatasetError, match=r"class_dict\.csv"):
        open_dataset(tmp_path)


def test_palettes_of_other_colours_than_the_classes_leave_the_indices(tmp_path: Path) -> None:
    make_folder(tmp_path, 4, names=None)
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(NAMES, PAINT, strict=True)]
    (tmp_path / "class_dict.csv").write_text("\n".join(rows))
    for number, picture in enumerate(draw(4)):
        image = Image.fromarray(np.where(picture.mask == 1, VOID, picture.mask).astype(np.uint8))
        image.putpalette([9, 9, 9, *PAINT[2], *PAINT[1]] + [0] * 756 + [number] * 3)
        image.save(tmp_path / "masks" / f"{picture.name}.png")
    for sample, picture in zip(open_dataset(tmp_path).samples, draw(4), strict=True):
        assert (sample.read_mask() == np.where(picture.mask == 1, VOID, picture.mask)).all()


def test_a_colour_of_no_class_in_palettes_that_contradict_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, 4, names=None)
    (tmp_path / "class_dict.csv").write_text("nothing,0,0,0\ndisc,128,0,0\n")
    for number, picture in enumerate(draw(4)):
        image = reduced(picture.mask, reverse=number == 1)
        image.save(tmp_path / "masks" / f"{picture.name}.png")
    problems = [str(problem) for problem in check_masks(open_dataset(tmp_path).samples, set())]
    assert problems
    assert all("#008000 does not belong to a class" in problem for problem in problems)


def test_a_palette_of_grey_levels_contradicts_no_other(tmp_path: Path) -> None:
    make_folder(tmp_path, 4)
    for number, picture in enumerate(draw(4)):
        image = Image.fromarray(picture.mask)
        palette = PAINT if number else [(level,) * 3 for level in range(3)]
        image.putpalette([part for colour in palette for part in colour])
        image.save(tmp_path / "masks" / f"{picture.name}.png")
    for sample, picture in zip(open_dataset(tmp_path).samples, draw(4), strict=True):
        assert (sample.read_mask() == picture.mask).all()


@pytest.mark.parametrize("names", [None, ("background", "person"), ("person",)])
def test_masks_without_any_object_are_background_and_it_is_said(tmp_path: Path, names) -> None:
    make_folder(tmp_path, 3, names=names)
    for path in (tmp_path / "masks").iterdir():
        write(path, np.zeros((48, 64), np.uint8))
    dataset = open_dataset(tmp_path)
    assert len(dataset.labels) == 2
    assert dataset.notes == ("masks hold only 0: background",)
    assert not dataset.samples[0].read_mask().any()


def test_a_border_of_255_around_objects_of_1_stays_no_class(tmp_path: Path) -> None:
    make_folder(tmp_path, 30, names=("background", "person"))
    for index in range(30):
        mask = np.zeros((48, 64), np.uint8)
        mask[:4], mask[4:6] = index == 29, 255  # one object of 1, far back
        write(tmp_path / "masks" / f"00_{index:04}.png", mask)
    assert set(np.unique(named(open_dataset(tmp_path), "00_0029"))) == {0, 1, VOID}


def test_camvid_is_known_by_the_names_of_its_frames(tmp_path: Path) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name in ("Seq05VD_f00120", "0001TP_009210"):
        write(tmp_path / "train" / f"{name}.png", np.zeros((3, 4, 3), np.uint8))
        write(tmp_path / "trainannot" / f"{name}.png", mask)
    dataset = open_dataset(tmp_path)
    assert dataset.labels.names[8:] == ("car", "pedestrian", "cyclist")
    assert dataset.labels.background is None
    assert dataset.samples[0].read_mask().ravel().tolist() == [*range(11), VOID]
    write(tmp_path / "train" / "other.png", np.zeros((3, 4, 3), np.uint8))
    write(tmp_path / "trainannot" / "other.png", mask)
    assert open_dataset(tmp_path).labels.names[:2] == ("background", "class_1")


def test_255_is_no_class_where_the_names_contradict(tmp_path: Path) -> None:
    dataset = open_dataset(make_folder(tmp_path, names=NAMES, binary=True))
    assert set(np.unique(dataset.samples[0].read_mask())) == {0, VOID}


@pytest.mark.parametrize("named_by", ["classes.txt", None])
def test_grey_colours_are_classes_where_other_masks_are_in_colour(
    tmp_path: Path, named_by: str | None
) -> None:
    """VOC's car is (128, 128, 128), its diningtable (192, 128, 0)."""
    colours = np.array(voc_colours(21), np.uint8)[:, ::-1]
    for number, (picture, thing) in enumerate(zip(draw(3), (7, 11, 7), strict=True)):
        write(tmp_path / "images" / f"{number}.jpg", picture.image)
        mask = np.where(picture.mask > 0, thing, 0)
        write(tmp_path / "masks" / f"{number}.png", np.ascontiguousarray(colours[mask]))
    if named_by:
        (tmp_path / named_by).write_text("\n".join(VOC.names))
    dataset = open_dataset(tmp_path)
    assert len(dataset.labels) == (21 if named_by else 12)
    found = [set(np.unique(sample.read_mask())) for sample in dataset.samples]
    assert found == [{0, 7}, {0, 11}, {0, 7}]


def test_one_mask_of_three_values_makes_255_no_class(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, names=None, binary=True)
    mask = np.zeros((48, 64), np.uint8)
    mask[:2], mask[2:4] = 1, 255
    write(folder / "masks" / "00_0004.png", mask)
    dataset = open_dataset(folder)
    assert dataset.labels.names == ("background", "foreground")
    assert (named(dataset, "00_0004") == mask).all()


# Real sets


@pytest.mark.parametrize(
    ("name", "format", "expected", "num_classes"),
    [
        ("voc", "voc", {"train": 393, "val": 150}, 21),
        ("coco", "coco", {"train": 160, "val": 158}, 81),
        ("clothing", "folder", {"": 900}, 59),
        ("people", "folder", {"": 145}, 2),
        ("camvid", "folder", {"train": 40, "val": 10, "test": 10}, 11),
        ("davis", "folder", {"": 120}, 2),
    ],
)
def test_real_sets_open_by_themselves(
    data: Path, name: str, format: str, expected: dict[str, int], num_classes: int
) -> None:
    dataset = open_dataset(data / name)
    assert dataset.format == format
    assert dataset.problems == ()
    assert counts(dataset) == expected
    assert len(dataset.labels) == num_classes
    for sample in dataset.samples[:: len(dataset) // 10]:
        image, mask = sample.read_image(), sample.read_mask()
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {*range(num_classes), VOID}


# Images outside the dataset


def _escape_coco(root: Path, secret: Path, how: str) -> None:
    file = root / "annotations" / "instances_train2017.json"
    _rename(file, "images", "file_name", how, secret, root / "train2017")


def _rename(file: Path, key: str, name: str, how: str, secret: Path, folder: Path) -> None:
    value = json.loads(file.read_text())
    record = value[key][0] if key else value
    record[name] = _path_to(secret, how, folder, record[name])
    file.write_text(json.dumps(value))


def _path_to(secret: Path, how: str, folder: Path, name: str) -> str:
    if how == "absolute":
        return str(secret)
    if how == "dots":
        return os.path.relpath(secret, folder)
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    return name


def _escape_labelme(root: Path, secret: Path, how: str) -> None:
    _rename(root / "00_0000.json", "", "imagePath", how, secret, root)


def _escape_cvat(root: Path, secret: Path, how: str) -> None:
    file = root / "annotations.xml"
    found = _path_to(secret, how, root / "images", "00_0000.jpg")
    file.write_text(file.read_text().replace('name="00_0000.jpg"', f'name="{found}"'))


def _escape_list(root: Path, secret: Path, how: str) -> None:
    found = _path_to(secret, "dots" if how == "absolute" else how, root, "images/00_0000.jpg")
    (root / "train.txt").write_text(f"{found} masks/00_0000.png\nimages/00_0001.jpg\n")


def _escape_mask(root: Path, secret: Path, how: str) -> None:
    mask = root / "masks" / "00_0000.png"
    shutil.copy(mask, secret.with_suffix(".png"))
    found = _path_to(secret.with_suffix(".png"), "link" if how == "link" else "dots", root, mask)
    (root / "train.txt").write_text(f"images/00_0000.jpg {found}\n")


def _escape_folder(root: Path, secret: Path, how: str) -> None:
    images = root / "images" / "train"
    shutil.move(images, secret.parent / "train")
    images.symlink_to(secret.parent / "train")


ESCAPES = {
    "coco": _escape_coco,
    "labelme": _escape_labelme,
    "cvat": _escape_cvat,
    "folder": _escape_list,
    "voc": lambda root, secret, how: _path_to(secret, "link", root / "JPEGImages", "00_0000.jpg"),
    "supervisely": lambda root, secret, how: _path_to(
        secret, "link", root / "train" / "img", "00_0000.jpg"
    ),
    "yolo": _escape_folder,
}


@pytest.mark.parametrize("how", ["absolute", "dots", "link"])
@pytest.mark.parametrize("layout", [*ESCAPES, "mask"])
def test_images_outside_the_dataset_are_refused_unless_allowed(
    tmp_path: Path, layout: str, how: str
) -> None:
    name = "folder" if layout == "mask" else layout
    root = MAKERS[name](tmp_path / "set", 4)
    secret = write(tmp_path / "secret.jpg", np.zeros((48, 64, 3), np.uint8))
    inside = open_dataset(root)
    ESCAPES.get(layout, _escape_mask)(root, secret, how)
    with pytest.raises(DatasetError, match="outside its folder") as caught:
        open_dataset(root)
    assert "--allow-outside" in caught.value.do
    allowed = open_dataset(root, allow_outside=True)
    places = [sample.image_path.resolve() for sample in allowed.samples]
    places += [sample.mask_path.resolve() for sample in allowed.samples if sample.mask_path]
    assert not all(place.is_relative_to(root) for place in places)
    assert len(allowed) <= len(inside)


def test_links_within_a_dataset_and_to_the_whole_of_it_are_fine(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real" / "set", 4)
    image = root / "images" / "00_0000.jpg"
    image.rename(root / "stored.jpg")
    image.symlink_to(root / "stored.jpg")
    (tmp_path / "link").symlink_to(root)
    assert len(open_dataset(tmp_path / "link")) == 4


def test_a_file_of_annotations_reads_the_images_beside_its_folder_and_no_others(
    tmp_path: Path,
) -> None:
    root = make_coco(tmp_path / "set", 4)
    file = root / "annotations" / "instances_train2017.json"
    assert len(open_dataset(file)) == 4
    write(tmp_path / "secret.jpg", np.zeros((48, 64, 3), np.uint8))
    value = json.loads(file.read_text())
    value["images"][0]["file_name"] = "../../secret.jpg"
    file.write_text(json.dumps(value))
    with pytest.raises(DatasetError, match="outside its folder"):
        open_dataset(file)


@pytest.mark.parametrize("name", [10**300, "a" * 5000 + ".jpg"], ids=["number", "text"])
def test_an_image_whose_name_no_file_can_have_is_missing(tmp_path: Path, name: object) -> None:
    root = make_coco(tmp_path / "set", 4)
    file = root / "annotations" / "instances_train2017.json"
    value = json.loads(file.read_text())
    value["images"][0]["file_name"] = name
    file.write_text(json.dumps(value))
    problems = open_dataset(file).problems
    assert [str(name)[:200] in problem.message for problem in problems] == [True], problems
