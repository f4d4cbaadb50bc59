"""What is wrong with a set is told by file, all of it, at once; splits are dealt by seed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import (
    MAKERS,
    NAMES,
    draw,
    make_cityscapes,
    make_coco,
    make_folder,
    make_roboflow,
    make_roboflow_masks,
    make_voc,
    write,
)

from rtseg.datasets import DATASETS, Dataset, Problem, Sample, open_dataset
from rtseg.datasets.checks import check
from rtseg.datasets.split import alike, describe_split, leaks, look, new_split, split_dataset
from rtseg.errors import DatasetError
from rtseg.labels import PERSON


def told(folder: Path) -> list[str]:
    """`file: words` of every problem."""
    return [f"{problem.path.name}: {problem.message}" for problem in check(open_dataset(folder))]


@pytest.mark.parametrize("layout", sorted(DATASETS))
def test_a_set_without_faults_has_no_problems_and_every_sample_is_checked(
    layout: str, tmp_path: Path
) -> None:
    dataset = open_dataset(MAKERS[layout](tmp_path))
    steps: list[tuple[int, int]] = []
    assert check(dataset, progress=lambda done, total: steps.append((done, total))) == ()
    assert steps == [(number, len(dataset)) for number in range(1, len(dataset) + 1)]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    images, masks = folder / "images", folder / "masks"
    (masks / "00_0000.png").unlink()
    (images / "00_0001.jpg").unlink()
    write(masks / "00_0002.png", np.zeros((48, 60), np.uint8))
    write(masks / "00_0003.png", np.full((48, 64), 7, np.uint8))
    (images / "00_0004.jpg").write_bytes(b"no picture")
    (masks / "00_0005.png").write_bytes(b"")
    shutil.copy(images / "00_0006.jpg", images / "00_0006.jpeg")
    problems = told(folder)
    for start in (
        "00_0000.jpg: there is no mask with its name",
        "00_0001.png: there is no image with the name of this mask",
        "00_0002.jpg: cannot use the mask",
        "00_0003.jpg: cannot use the mask",
        "00_0004.jpg: cannot read the image",
        "00_0005.jpg: cannot read the mask",
        "00_0006.jpg: has the same name as 00_0006.jpeg",
    ):
        assert len([words for words in problems if words.startswith(start)]) == 1, start
    assert len(problems) == 7
    assert any("it holds the value 7, but there are 3 classes" in words for words in problems)
    assert any("the file is empty" in words for words in problems)


@pytest.mark.parametrize("layout", ["folder", "masks-csv", "voc", "cityscapes", "yolo"])
def test_two_pictures_of_one_name_are_a_problem(tmp_path: Path, layout: str) -> None:
    dataset = open_dataset(MAKERS[layout](tmp_path))
    image = dataset.samples[0].image_path
    other = shutil.copy(image, image.with_suffix(".webp"))
    again = open_dataset(tmp_path)
    assert len(again) == len(dataset)
    (problem,) = again.problems
    assert problem.split == dataset.samples[0].split
    if layout != "yolo":  # there it is that of the labels
        assert problem.path == other


def test_the_same_picture_in_two_splits_is_a_warning_and_no_problem(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, splits=("train", "val"))
    for place in ("images/{}.jpg", "masks/{}.png"):
        source = folder / "train" / place.format("00_0000")
        shutil.copy(source, folder / "train" / place.format("again"))
        shutil.copy(source, folder / "val" / place.format("leaked"))
    dataset = open_dataset(folder)
    assert check(dataset) == ()
    (warning,) = leaks(split_dataset(dataset, seed=1))
    assert "val and train" in warning
    assert "leaked" in warning


def test_a_picture_that_two_lists_name_stays_in_the_first_and_is_told_of(tmp_path: Path) -> None:
    lists = make_voc(tmp_path) / "ImageSets" / "Segmentation"
    with (lists / "val.txt").open("a") as file:
        file.write("00_0003\nstranger\n01_0000\n")
    dataset = open_dataset(tmp_path)
    assert next(s for s in dataset.samples if s.name == "00_0003").split == "train"
    assert {problem.message for problem in check(dataset)} == {
        "00_0003 is also in train, where it stays",
        "stranger has no image in JPEGImages",
        "01_0000 is listed twice",
    }


def _empty_list(folder: Path) -> None:
    make_voc(folder)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")


def _empty_folder(folder: Path) -> None:
    make_folder(folder, splits=("train", "test"))
    (folder / "val" / "images").mkdir(parents=True)


def _empty_roboflow_masks(folder: Path) -> None:
    make_roboflow_masks(folder)
    for path in [*(folder / "valid").glob("*.jpg"), *(folder / "valid").glob("*.png")]:
        path.unlink()


def _empty_coco(folder: Path) -> None:
    path = make_coco(folder) / "annotations" / "instances_val2017.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "images": [], "annotations": []}))


@pytest.mark.parametrize(
    "make",
    [_empty_list, _empty_folder, _empty_roboflow_masks, _empty_coco],
    ids=lambda f: f.__name__,
)
def test_a_split_without_pictures_is_a_problem(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path)
    (words,) = told(tmp_path)
    assert "empty" in words


def test_what_is_wrong_with_coco_annotations_is_told_by_file(tmp_path: Path) -> None:
    path = make_coco(tmp_path) / "annotations" / "instances_train2017.json"
    value = json.loads(path.read_text())
    first, second, third, fourth, *_ = value["annotations"]
    first["category_id"] = 99
    second["segmentation"] = []
    third["image_id"] = 12345
    strange = {"id": "x", "image_id": [1], "category_id": {}}
    value["annotations"].append(strange)
    fourth["segmentation"] = {"size": [1, 1], "counts": [1]}
    (tmp_path / "train2017" / value["images"][5]["file_name"]).unlink()
    value["images"].append(value["images"][4] | {"id": 77})
    path.write_text(json.dumps(value))
    problems = told(tmp_path)
    for words in (
        "annotations of category 99, which it does not name: 1",
        "annotations without an outline (a box is not enough): 2",
        "annotations of images it does not name: 3, 'x'",
        "images that do not exist: 00_0005.jpg",
        "images named twice: 00_0004.jpg",
    ):
        assert f"instances_train2017.json: {words}" in problems
    assert any("cannot use annotation 4" in words for words in problems)
    assert len(problems) == 6


def test_two_pictures_of_one_id_are_a_problem_of_their_split(tmp_path: Path) -> None:
    path = make_coco(tmp_path) / "annotations" / "instances_train2017.json"
    value = json.loads(path.read_text())
    value["images"][1]["id"] = value["images"][0]["id"]
    value["annotations"] = [each for each in value["annotations"] if each["image_id"] != 2]
    path.write_text(json.dumps(value))
    (problem,) = check(open_dataset(tmp_path))
    assert (problem.path, problem.split) == (path, "train")
    assert problem.message.startswith("ids shared by several images")
    assert problem.message.endswith(": 1")


def test_a_picture_without_objects_is_background_and_no_fault(tmp_path: Path) -> None:
    path = make_coco(tmp_path) / "annotations" / "instances_train2017.json"
    value = json.loads(path.read_text())
    value["annotations"] = [each for each in value["annotations"] if each["image_id"] != 1]
    path.write_text(json.dumps(value))
    dataset = open_dataset(tmp_path)
    assert check(dataset) == ()
    assert not dataset.samples[0].read_mask().any()


def test_broken_json_is_a_problem_of_its_split_and_an_error_where_nothing_is_left(
    tmp_path: Path,
) -> None:
    folder = make_roboflow(tmp_path)
    (folder / "valid" / "_annotations.coco.json").write_text('{"images": [')
    dataset = open_dataset(folder)
    assert dataset.splits == ("train", "test")
    assert "it is not JSON" in check(dataset)[0].message
    for split in ("train", "test"):
        (folder / split / "_annotations.coco.json").write_text("[1, 2]")
    with pytest.raises(DatasetError, match="expected object"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"images": [], "annotations": []}, "categories"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "file_name"),
        ([], "expected object"),
    ],
)
def test_json_that_is_not_cocos_is_refused(tmp_path: Path, value: object, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DatasetError, match=words):
        open_dataset(path, format="coco")


def test_a_cityscapes_picture_without_mask_is_a_problem_but_not_a_whole_split(
    tmp_path: Path,
) -> None:
    folder = make_cityscapes(tmp_path, splits=("train", "val", "test"))
    shutil.rmtree(folder / "gtFine" / "test")
    next((folder / "gtFine" / "train").rglob("*_000003_*.png")).unlink()
    dataset = open_dataset(folder)
    assert dataset.splits == ("train", "val")
    (problem,) = check(dataset)
    assert problem.path.name == "trainville_000001_000003_leftImg8bit.png"
    assert "testville" in dataset.notes[0]


def test_a_dataset_made_by_hand_is_checked_for_what_a_layout_would_never_give(
    tmp_path: Path,
) -> None:
    image = write(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    short = Sample("a", image, lambda: np.zeros((3, 4), np.uint8))
    strange = Sample("a", image, lambda: np.full((4, 4), 9, np.uint8))
    found = check(Dataset(tmp_path, "by hand", PERSON, (short, strange)))
    assert [problem.message for problem in found] == [
        "two images are named a",
        "the mask is 3x4 (HxW), the image 4x4",
        "the mask has values that are not classes: [9]",
    ]
    assert check(Dataset(tmp_path, "by hand", PERSON, ())) == (
        Problem(tmp_path, "it has no labelled images"),
    )


def test_a_folder_in_which_nothing_pairs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    write(tmp_path / "masks" / "b.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DatasetError, match="1 image and 1 mask, but no image and"):
        open_dataset(tmp_path)


# Splits


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.name for sample in samples]


def sizes(parts: dict[str, tuple[Sample, ...]]) -> list[int]:
    assert list(parts) == ["train", "val", "test"]
    return [len(part) for part in parts.values()]


def test_the_sets_own_splits_are_kept(tmp_path: Path) -> None:
    dataset = open_dataset(make_roboflow(tmp_path))
    parts = split_dataset(dataset, seed=1)
    assert sizes(parts) == [8, 4, 4]
    assert all(sample.split == split for split, part in parts.items() for sample in part)
    assert describe_split(dataset, seed=1) == "the dataset's own splits"


def test_a_set_without_splits_is_dealt_80_10_10_by_seed(tmp_path: Path) -> None:
    dataset = open_dataset(make_folder(tmp_path, 40, (16, 24)))
    parts = split_dataset(dataset, seed=1)
    assert sizes(parts) == [32, 4, 4]
    dealt = [name for part in parts.values() for name in names(part)]
    assert sorted(dealt) == names(dataset.samples)
    assert names(split_dataset(dataset, seed=2)["val"]) != names(parts["val"])
    assert "80/10/10 train, val and test at random (seed 1)" in describe_split(dataset, seed=1)
    assert sizes(split_dataset(dataset, seed=1, shares=(0.5, 0.5, 0.0))) == [20, 20, 0]


def test_what_is_dealt_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    dataset = open_dataset(make_folder(tmp_path, 20, (16, 24)))
    turned = replace(dataset, samples=dataset.samples[::-1])
    first, second = split_dataset(dataset, seed=7), split_dataset(turned, seed=7)
    for split in ("train", "val", "test"):
        assert names(first[split]) == names(second[split])[::-1]


def test_val_is_taken_from_train_where_only_that_is_missing(tmp_path: Path) -> None:
    dataset = open_dataset(make_folder(tmp_path, 18, (16, 24), splits=("train", "test")))
    parts = split_dataset(dataset, seed=3)
    assert sizes(parts) == [16, 2, 9]
    assert {sample.split for sample in parts["val"]} == {"train"}
    assert (
        describe_split(dataset, seed=3)
        == "the dataset has no val split: taken from train at random (seed 3)"
    )


def test_test_may_be_empty(tmp_path: Path) -> None:
    dataset = open_dataset(make_voc(tmp_path))
    assert sizes(split_dataset(dataset, seed=0)) == [8, 4, 0]
    assert describe_split(dataset, seed=0).endswith("no test split")


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_one_sequence_never_cross_splits(tmp_path: Path, seed: int) -> None:
    for index in range(10):
        make_folder(tmp_path / f"clip{index}", 3, (16, 24), seed=index, names=None)
    dataset = open_dataset(tmp_path)
    parts = split_dataset(dataset, seed=seed)
    assert sizes(parts) == [24, 3, 3]
    places = {(sample.sequence, split) for split, part in parts.items() for sample in part}
    assert len(places) == 10


def test_two_sequences_are_one_to_train_and_one_to_choose(tmp_path: Path) -> None:
    for index in range(2):
        make_folder(tmp_path / f"clip{index}", 3, (16, 24), seed=index, names=None)
    assert sizes(split_dataset(open_dataset(tmp_path), seed=0)) == [3, 3, 0]


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_picture_never_cross_splits(tmp_path: Path, seed: int) -> None:
    make_folder(tmp_path, 20, (16, 24))
    for index in range(20):
        for place in ("images/{}.jpg", "masks/{}.png"):
            original = tmp_path / place.format(f"00_{index:04}")
            shutil.copy(original, tmp_path / place.format(f"copy_{index:04}"))
    dataset = open_dataset(tmp_path)
    for given in (dataset, replace(dataset, samples=dataset.samples[::-1])):
        parts = split_dataset(given, seed=seed)
        assert sizes(parts) == [32, 4, 4]
        for part in parts.values():
            pictures = [sample.image_path.read_bytes() for sample in part]
            assert all(pictures.count(picture) == 2 for picture in pictures)


def test_sequences_that_share_a_picture_stay_together(tmp_path: Path) -> None:
    for index in range(3):
        make_folder(tmp_path / f"clip{index}", 3, (16, 24), seed=index, names=None)
    for place in ("images/{}_0000.jpg", "masks/{}_0000.png"):
        shutil.copy(tmp_path / "clip2" / place.format(20), tmp_path / "clip0" / place.format(99))
    parts = split_dataset(open_dataset(tmp_path), seed=0)
    assert sorted(sizes(parts)) == [0, 3, 7]


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    one = open_dataset(make_folder(tmp_path / "one", 1, names=NAMES))
    with pytest.raises(DatasetError, match="it has 1 image"):
        split_dataset(one, seed=0)
    make_folder(tmp_path / "clips" / "a", 5, (16, 24), names=None)
    clip = open_dataset(tmp_path / "clips", format="folder")
    with pytest.raises(DatasetError, match="of one sequence, which stay together"):
        split_dataset(clip, seed=0)
    twice = make_folder(tmp_path / "twice", 1)
    for place in ("images/{}.jpg", "masks/{}.png"):
        shutil.copy(twice / place.format("00_0000"), twice / place.format("copy"))
    with pytest.raises(DatasetError, match="2 images that are copies, which stay together"):
        split_dataset(open_dataset(twice), seed=0)
    with pytest.raises(DatasetError, match="it has only val"):
        split_dataset(open_dataset(make_voc(tmp_path / "voc"), split="val"), seed=0)


def roboflow_copies(folder: Path, count: int = 30, copies: int = 3) -> Dataset:
    """An export of which everything is in train/: augmented copies of each image."""
    for picture in draw(count, (16, 24)):
        for copy in range(copies):
            name = f"{picture.name}_jpg.rf.{copy:x}{picture.name.encode().hex()}"
            shade = np.clip(picture.image.astype(int) + 9 * copy, 0, 255).astype(np.uint8)
            write(folder / "train" / f"{name}.jpg", shade)
            write(folder / "train" / f"{name}_mask.png", picture.mask)
    rows = "".join(f"{value}, {name}\n" for value, name in enumerate(NAMES))
    (folder / "train" / "_classes.csv").write_text("Pixel Value, Class\n" + rows)
    return open_dataset(folder)


def originals(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.name.partition("_jpg.rf.")[0] for sample in samples}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("anew", [True, False])
def test_roboflows_copies_of_an_image_stay_together(tmp_path: Path, seed: int, anew: bool) -> None:
    dataset = roboflow_copies(tmp_path)
    assert dataset.splits == ("train",)
    classes = {sample.name: set(np.unique(sample.read_mask())) for sample in dataset.samples}
    if anew:
        parts = new_split(dataset, classes, seed=seed, shares=(0.8, 0.1, 0.1))
        assert sizes(parts) == [72, 9, 9]
    else:
        parts = split_dataset(dataset, seed=seed)
        assert sizes(parts) == [81, 9, 0]
    found = [originals(part) for part in parts.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 30
    assert leaks(parts) == ()


def test_copies_of_copies_are_known_by_their_first_name(tmp_path: Path) -> None:
    image = write(tmp_path / "a_jpg.rf.0123456789abcdef_jpg.rf.fedcba9876543210.jpg", DOT)
    other = write(tmp_path / "a_png.rf.Zz0123456789abcdef.jpg", DOT + 1)
    first, second = (Sample(path.stem, path, lambda: DOT[..., 0]) for path in (image, other))
    for split, other in (("val", "train"), ("test", "train"), ("test", "val")):
        (warning,) = leaks({other: (first,), split: (second,)})
        assert f"{split} and {other} share copies" in warning


DOT = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_a_new_split_has_every_class_in_every_part(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    samples = tuple(
        Sample(f"{n:03}", tmp_path / f"{n}.png", lambda: DOT[..., 0]) for n in range(200)
    )
    classes = {
        s.name: {0, *np.flatnonzero(generator.random(3) < (0.9, 0.3, 0.08)) + 1} for s in samples
    }
    dataset = Dataset(tmp_path, "by hand", PERSON, samples)
    parts = new_split(dataset, classes, seed=seed, shares=(0.8, 0.1, 0.1))
    assert np.abs(np.subtract(sizes(parts), (160, 20, 20))).max() <= 3
    for each in range(4):
        whole = sum(each in held for held in classes.values())
        for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
            count = sum(each in classes[sample.name] for sample in parts[split])
            assert abs(count - share * whole) <= 2.5
    turned = replace(dataset, samples=samples[::-1])
    again = new_split(turned, classes, seed=seed, shares=(0.8, 0.1, 0.1))
    assert {split: set(names(part)) for split, part in again.items()} == {
        split: set(names(part)) for split, part in parts.items()
    }


def test_a_new_split_is_what_it_always_was(tmp_path: Path) -> None:
    """By seed and names alone, of images and of sequences, whatever makes it faster."""
    samples = tuple(
        Sample(f"{n}", tmp_path / f"{n}.png", lambda: DOT[..., 0], sequence=f"{n // 3}" * (n < 60))
        for n in range(200)
    )
    classes = {s.name: {c for c in range(12) if int(s.name) * 7 % (c + 1) == 0} for s in samples}
    dataset = Dataset(tmp_path, "by hand", PERSON, samples)
    parts = new_split(dataset, classes, seed=5, shares=(0.7, 0.2, 0.1))
    dealt = json.dumps({split: names(part) for split, part in parts.items()})
    assert hashlib.sha256(dealt.encode()).hexdigest()[:16] == "26b90471a60527a4"


@pytest.mark.parametrize(
    ("count", "shares", "wanted"),
    [
        (2, (0.8, 0.1, 0.1), [1, 1, 0]),
        (5, (0.8, 0.1, 0.1), [3, 1, 1]),
        (10, (0.9, 0.1, 0.0), [9, 1, 0]),
    ],
)
def test_a_new_split_leaves_no_part_empty(
    tmp_path: Path, count: int, shares: tuple[float, float, float], wanted: list[int]
) -> None:
    dataset = open_dataset(make_folder(tmp_path, count, (16, 24)))
    assert sizes(new_split(dataset, {}, seed=0, shares=shares)) == wanted
    one = replace(dataset, samples=dataset.samples[:1])
    with pytest.raises(DatasetError, match="it has 1 image"):
        new_split(one, {}, seed=0, shares=shares)


def test_images_that_look_the_same_are_found_in_other_splits_only() -> None:
    pictures = [picture.image for picture in draw(4)]
    here = Path("a.png")
    samples = [Sample(str(n), here, lambda: DOT[..., 0]) for n in range(6)]
    brighter = [*pictures, pictures[0] + 1, pictures[1] // 2]
    looks = {s.name: look(image) for s, image in zip(samples, brighter, strict=True)}
    (warning,) = alike({"train": samples[:4], "val": samples[4:]}, looks)
    assert warning.endswith("(1): 4 (0)")
    assert alike({"train": samples, "val": ()}, looks) == ()


def test_every_real_set_can_be_split(data: Path) -> None:
    expected = {
        "voc": [393, 150, 0],
        "coco": [160, 158, 0],
        "clothing": [720, 90, 90],
        "camvid": [40, 10, 10],
        "davis": [40, 40, 40],
    }
    for name, wanted in expected.items():
        assert sizes(split_dataset(open_dataset(data / name), seed=0)) == wanted
