"""The files of annotation tools: each object where it was drawn, or the export refused by name."""

from __future__ import annotations

import base64
import json
import re
import shutil
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import (
    NAMES,
    draw,
    make_coco,
    make_cvat,
    make_folder,
    make_labelme,
    make_supervisely,
    make_voc,
    make_yolo,
    write,
)
from PIL import Image as Pictures

from rtseg.datasets import Dataset, open_dataset
from rtseg.errors import DatasetError
from rtseg.labels import VOID

BOX = np.zeros((48, 64), np.uint8)
BOX[10:20, 5:25] = 1


def counts(dataset: Dataset) -> dict[str, int]:
    return dict(Counter(sample.split for sample in dataset.samples))


def wrong(dataset: Dataset) -> float:
    """The largest share of a mask that is not as drawn, by classes' names."""
    drawn = {picture.name: picture.mask for seed in (0, 1) for picture in draw(8, seed=seed)}
    index = np.array([dataset.labels.index(name) for name in NAMES], np.uint8)
    return max((s.read_mask() != index[drawn[s.name]]).mean() for s in dataset.samples)


def png(mask: np.ndarray, mode: str = "L") -> bytes:
    file = BytesIO()
    image = Pictures.fromarray(mask * 255)
    if mode == "RGBA":
        image = Pictures.merge("RGBA", [image.point(lambda level: 255)] * 3 + [image])
    image.convert(mode).save(file, "PNG")
    return file.getvalue()


def blank(path: Path) -> Path:
    return write(path, np.zeros((48, 64, 3), np.uint8))


# labelme


def labelme(folder: Path, shapes: list[dict], **others: object) -> Dataset:
    blank(folder / "a.png")
    value = {"shapes": shapes, "imagePath": "a.png", "flags": {}, **others}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.json").write_text(json.dumps(value))
    return open_dataset(folder)


CORNERS = [[5, 10], [25, 20]]


def test_an_image_that_is_only_inside_a_labelme_file_is_named(tmp_path: Path) -> None:
    shape = {"shape_type": "rectangle", "label": "bag", "points": CORNERS}
    labelme(tmp_path, [shape])
    (tmp_path / "b.json").write_text(
        json.dumps({"shapes": [shape], "imagePath": "b.png", "imageData": "iVBORw0KGgo="})
    )
    (problem,) = open_dataset(tmp_path).problems
    assert problem.path.name == "b.json"
    assert "imageData" in problem.message


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("rectangle", CORNERS),
        ("rectangle", CORNERS[::-1]),
        ("polygon", [[5, 10], [25, 10], [25, 20], [5, 20]]),
        ("mask", [[5, 10], [24, 19]]),
    ],
)
def test_labelme_shapes_cover_their_pixels(tmp_path: Path, kind: str, points: list) -> None:
    shape = {"label": "thing", "shape_type": kind, "points": points}
    if kind == "mask":
        shape["mask"] = base64.b64encode(png(BOX[10:20, 5:25])).decode()
    dataset = labelme(tmp_path, [shape])
    assert dataset.format == "labelme"
    assert dataset.labels.names == ("background", "thing")
    assert (dataset.samples[0].read_mask() == BOX).all()


def test_a_circle_of_labelme_is_round(tmp_path: Path) -> None:
    shape = {"label": "disc", "shape_type": "circle", "points": [[30, 24], [40, 24]]}
    mask = labelme(tmp_path, [shape]).samples[0].read_mask()
    assert mask.sum() == pytest.approx(np.pi * 100, rel=0.03)


def test_labelme_draws_later_shapes_over_earlier_ones_and_ignores_a_class(tmp_path: Path) -> None:
    def square(label: str, size: int) -> dict:
        return {"label": label, "points": [[0, 0], [size, 0], [size, size], [0, size]]}

    shapes = [square("small", 10), square("large", 20), square("__ignore__", 5)]
    dataset = labelme(tmp_path, shapes)
    mask = dataset.samples[0].read_mask()
    assert dataset.labels.names == ("background", "large", "small")
    assert (mask[:5, :5] == VOID).all()
    assert (mask[6:20, 6:20] == 1).all()


def test_labelme_finds_images_by_their_last_name_and_names_those_it_lacks(tmp_path: Path) -> None:
    shape = {"label": "thing", "points": [[0, 0], [9, 0], [9, 9]]}
    assert len(labelme(tmp_path, [shape], imagePath="..\\photos\\a.png")) == 1
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(DatasetError, match=r"its image \.\.\\photos\\a\.png does not exist"):
        open_dataset(tmp_path)


def test_outlines_of_labelme_drawn_on_an_image_of_another_size_are_refused(tmp_path: Path) -> None:
    shape = {"label": "thing", "points": [[0, 0], [9, 0], [9, 9]]}
    dataset = labelme(tmp_path, [shape], imageHeight=96, imageWidth=128)
    with pytest.raises(DatasetError, match=r"it is 96x128 \(HxW\), its image a.png is 48x64"):
        dataset.samples[0].read_mask()


def test_labelme_lines_are_a_problem(tmp_path: Path) -> None:
    good = {"label": "thing", "points": [[0, 0], [9, 0], [9, 9]]}
    line = {"label": "thing", "points": [[0, 0], [9, 9]], "shape_type": "line"}
    (problem,) = labelme(tmp_path, [good, line]).problems
    assert problem.message.endswith("are not enough): 2")


def test_labelme_folders_named_like_splits_are_splits_and_a_file_names_the_classes(
    tmp_path: Path,
) -> None:
    for number, split in enumerate(("train", "val")):
        make_labelme(tmp_path / split, 8 // (1 + number), seed=number)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndisc\nbox\n")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train": 8, "val": 4}
    assert dataset.labels.names == ("_background_", "disc", "box")
    assert dataset.labels.background == 0


# CVAT


def cvat(folder: Path, shapes: str) -> Dataset:
    blank(folder / "images" / "a.png")
    text = f'<image name="a.png" width="64" height="48">{shapes}</image>'
    (folder / "annotations.xml").write_text(f"<annotations>{text}</annotations>")
    return open_dataset(folder)


def test_cvats_masks_are_run_lengths_along_the_rows_of_their_box(tmp_path: Path) -> None:
    ring = np.ones((4, 6), np.uint8)
    ring[1:3, 1:5] = 0
    mask = '<mask label="ring" rle="0, 7, 4, 2, 4, 7" left="10" top="20" width="6" height="4"/>'
    found = cvat(tmp_path, mask).samples[0].read_mask()
    assert (found[20:24, 10:16] == ring).all()
    assert found.sum() == ring.sum()


def test_cvats_shapes_lie_over_one_another_by_their_z_order(tmp_path: Path) -> None:
    polygon = '<polygon label="{}" points="0,0;20,0;20,20;0,20" z_order="{}"/>'
    dataset = cvat(tmp_path, polygon.format("top", 3) + polygon.format("below", -1))
    assert set(np.unique(dataset.samples[0].read_mask())) == {0, dataset.labels.index("top")}


@pytest.mark.parametrize(("degrees", "last"), [("0", (24, 42)), ("90.00", (30, 36)), ("45", None)])
def test_cvats_ellipses_are_turned_clockwise(
    tmp_path: Path, degrees: str, last: tuple[int, int] | None
) -> None:
    ellipse = f'<ellipse label="a" cx="32" cy="20" rx="10" ry="4" rotation="{degrees}"/>'
    rows, columns = cvat(tmp_path, ellipse).samples[0].read_mask().nonzero()
    if last is None:  # its long axis goes down to the right
        assert np.corrcoef(rows, columns)[0, 1] > 0.5
    else:
        assert (rows.max(), columns.max()) == pytest.approx(last, abs=1.5)


def test_cvats_subsets_are_splits(tmp_path: Path) -> None:
    dataset = open_dataset(make_cvat(tmp_path, splits=("Train", "Validation")))
    assert dataset.problems == ()
    assert counts(dataset) == {"train": 8, "val": 4}
    assert dataset.labels.names == NAMES
    assert wrong(dataset) < 0.04


def test_the_boxes_of_cvat_are_a_problem(tmp_path: Path) -> None:
    good = '<polygon label="a" points="0,0;9,0;9,9"/>'
    assert (
        cvat(tmp_path, good).problems == open_dataset(tmp_path / "annotations.xml").problems == ()
    )
    (problem,) = cvat(tmp_path, good + '<box label="a" xtl="1" ytl="1" xbr="5" ybr="5"/>').problems
    assert problem.message.endswith("are not enough): 2")


# Supervisely


def supervisely(folder: Path, one: dict) -> np.ndarray:
    make_supervisely(folder, 1, splits=("ds",))
    blank(folder / "ds" / "img" / "00_0000.jpg")
    value = {"size": {"height": 48, "width": 64}, "objects": [{"classTitle": "disc", **one}]}
    (folder / "ds" / "ann" / "00_0000.jpg.json").write_text(json.dumps(value))
    (sample,) = open_dataset(folder).samples
    return sample.read_mask()


@pytest.mark.parametrize("mode", ["L", "RGBA", "1"])
def test_supervisely_bitmaps_lie_at_their_origin(tmp_path: Path, mode: str) -> None:
    data = base64.b64encode(zlib.compress(png(BOX[10:20, 5:25], mode))).decode()
    bitmap = {"data": data, "origin": [5, 10]}
    mask = supervisely(tmp_path, {"geometryType": "bitmap", "bitmap": bitmap})
    assert (mask == BOX).all()


def test_supervisely_polygons_have_holes(tmp_path: Path) -> None:
    points = {
        "exterior": [[5, 10], [25, 10], [25, 20], [5, 20]],
        "interior": [[[10, 12], [15, 12], [15, 16], [10, 16]]],
    }
    wanted = BOX.copy()
    wanted[12:16, 10:15] = 0
    mask = supervisely(tmp_path, {"geometryType": "polygon", "points": points})
    assert (mask == wanted).all()


def test_a_damaged_bitmap_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"annotation 1 of .*its bitmap cannot be read"):
        supervisely(
            tmp_path, {"geometryType": "bitmap", "bitmap": {"data": "AAAA", "origin": [0, 0]}}
        )


# YOLO

YAMLS = {
    "map": "train: images/train\nval: images/val\nnames:\n  0: disc\n  1: box\n",
    "list": "train: images/train\nval: images/val\nnames:\n- disc\n- 'box'\n",
    "inline": "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['disc', \"box\"]\n",
    "lines": "train: [images/train]\nval: [images/val]\nnames: [disc,  # the first\n  box]\n",
    "inline map": "names: {1: box, 0: disc}\ntrain: images/train # here\nval: images/val\n",
}


@pytest.mark.parametrize("form", YAMLS)
def test_yolo_names_are_read_in_every_form_that_people_write(tmp_path: Path, form: str) -> None:
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(YAMLS[form])
    for given in (tmp_path, tmp_path / "data.yaml"):
        dataset = open_dataset(given)
        assert dataset.labels.names == NAMES
        assert counts(dataset) == {"train": 8, "val": 4}
        assert wrong(dataset) < 0.04


def test_yolo_names_are_text_and_what_is_not_yaml_is_one_line(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [no, 1]\ntrain: images/train\nval: images/val\n")
    (tmp_path / "a.yaml").write_text("services: {{ all }}: [\n")
    assert open_dataset(tmp_path).labels.names == ("background", "no", "1")
    with pytest.raises(DatasetError, match="it is not YAML") as raised:
        open_dataset(tmp_path / "a.yaml", format="yolo")
    assert "\n" not in str(raised.value)
    (tmp_path / "b.yaml").write_text("names: [no, [1]]\n")
    with pytest.raises(DatasetError, match=r"cannot read names in .*b.yaml"):
        open_dataset(tmp_path / "b.yaml", format="yolo")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [a, b]\nnames: [b, a]\n", "'names' occurs twice"),
        ("names: {0: a, 1: b, 1: c}\n", "'1' occurs twice"),
        ("names: {0: a, 2: b}\n", "not 0, 1, 2"),
        ("names: {1: a, 2: b}\n", "not 0, 1, 2"),
    ],
)
def test_yolo_names_that_would_shift_the_classes_are_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path)


def test_roboflows_yolo_has_a_folder_per_split(tmp_path: Path) -> None:
    make_yolo(tmp_path, splits=("train", "valid"))
    for split in ("train", "valid"):
        for part in ("images", "labels"):
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / part / split).rename(tmp_path / split / part)
        (tmp_path / "images").rmdir() if split == "valid" else None
    (tmp_path / "labels").rmdir()
    text = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['disc', 'box']\n"
    (tmp_path / "data.yaml").write_text(text)
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train": 8, "val": 4}
    assert wrong(dataset) < 0.04


@pytest.mark.parametrize(("start", "path"), [("./", "."), ("", ".."), ("ABSOLUTE/", ".")])
def test_yolos_splits_may_be_lists_of_images(tmp_path: Path, start: str, path: str) -> None:
    root = make_yolo(tmp_path / "set", splits=("all",))
    names = [image.relative_to(root).as_posix() for image in sorted(root.rglob("*.jpg"))]
    start = start.replace("ABSOLUTE", root.as_posix())
    path = path.replace("..", "../set")
    for split, part in {"train": names[:5], "val": names[5:7]}.items():
        (root / f"{split}.txt").write_text("".join(f"{start}{name}\n" for name in part))
    yaml = f"path: {path}\ntrain: train.txt\nval: val.txt\ntest: no.txt\nnames: [disc, box]\n"
    (root / "data.yaml").write_text(yaml)
    dataset = open_dataset(root)
    assert dataset.problems == ()
    assert counts(dataset) == {"train": 5, "val": 2, "": 1}
    with (root / "val.txt").open("a") as file:
        file.write(f"{start}{names[0]}\n./images/all/none.jpg\n")
    messages = [problem.message for problem in open_dataset(root).problems]
    assert messages == [
        f"{start}{names[0]} is also in train, where it stays",
        "there is no labelled image named ./images/all/none.jpg",
    ]
    (root / "val.txt").write_text("none.jpg\n")
    messages = [problem.message for problem in open_dataset(root).problems]
    assert messages == ["none of its 1 line names a labelled image"]


def test_yolo_images_of_a_split_that_its_list_leaves_out_are_not_in_it(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    (tmp_path / "some.txt").write_text("./images/train/00_0000.jpg\n")
    (tmp_path / "data.yaml").write_text("train: some.txt\nval: images/val\nnames: [disc, box]\n")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train": 1, "val": 4}
    assert dataset.notes == ("7 images in no list of its split left out",)


def test_a_yolo_image_without_labels_has_no_objects_and_classes_may_be_in_a_text_file(
    tmp_path: Path,
) -> None:
    make_yolo(tmp_path, splits=("train",))
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DatasetError, match="no class names for the YOLO labels"):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("disc\nbox\n")
    (tmp_path / "labels" / "train" / "00_0000.txt").unlink()
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 8
    assert not dataset.samples[0].read_mask().any()


def test_yolo_boxes_are_refused_and_single_ones_are_problems(tmp_path: Path) -> None:
    make_yolo(tmp_path, splits=("train",))
    labels = sorted((tmp_path / "labels" / "train").iterdir())
    labels[0].write_text("0 0.5 0.5 0.2 0.2\n7 0.1 0.1 0.2 0.1 0.2 0.2\n")
    messages = [problem.message for problem in open_dataset(tmp_path).problems]
    assert messages == [
        "its class is not one of 2, in line 2",
        "objects without an outline (boxes, lines and points are not enough): line 1",
    ]
    for path in labels:
        path.write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DatasetError, match="YOLO boxes for detection"):
        open_dataset(tmp_path)


def test_yolo_poses_are_not_taken_for_outlines(tmp_path: Path) -> None:
    make_yolo(tmp_path, splits=("train",))
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("kpt_shape: [17, 3]\n")
    with pytest.raises(DatasetError, match="YOLO poses"):
        open_dataset(tmp_path)


# Refused


STUDIO = [{"id": 1, "annotations": [{"result": [{"type": "polygonlabels"}], "completed_by": 1}]}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("export.json", json.dumps(STUDIO), "a Label Studio export"),
        ("project-1/min.json", '[{"image": "a", "label": [{"polygonlabels": ["x"]}]}]', "Label S"),
        ("via.json", '{"a.png1": {"regions": [{"shape_attributes": {}}]}}', "VGG Image Annotator"),
        ("task.json", '{"name": "t", "start_frame": 0, "data_chunk_size": 36}', "a CVAT backup"),
        ("ann.xml", '<annotations><track id="0"></track></annotations>', "a CVAT video export"),
        ("Annotations/a.xml", "<annotation><object><bndbox/></object></annotation>", "detection"),
        ("rows.ndjson", '{"data_row": {"id": 1}}\n{"data_row": {}}', "a Labelbox export"),
        ("default.json", '{"dm_format_version": "1.0", "items": []}', "a Datumaro export"),
        ("samples.json", '{"samples": [{"filepath": "a", "_cls": "Sample"}]}', "a FiftyOne"),
        ("default.json", '{"categories": {"label": {"labels": []}}, "items": []}', "a Datumaro"),
        ("tasks.csv", 'image,label\na.png,"[{""polygonlabels"": [""x""]}]"\n', "Label Studio"),
        ("a.xml", "<annotation><object><polygon></polygon></object></annotation>", "LabelMe"),
        ("frames/labels.txt", "0 1e-05 0.5 2.5E-1 1\n", "a set of YOLO labels"),
        ("panoptic.json", '{"annotations": [{"segments_info": []}]}', "a COCO panoptic file"),
        ("frames/a.txt", "0 0.5 0.5 0.1 0.1\n", "without images/ and labels/"),
    ],
)
@pytest.mark.parametrize("with_image", [True, False])
def test_other_exports_are_refused_by_name(
    tmp_path: Path, name: str, text: str, words: str, with_image: bool
) -> None:
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    if with_image:
        blank(tmp_path / "set" / "images" / "a.png")
    with pytest.raises(DatasetError, match=words) as raised:
        open_dataset(tmp_path / "set")
    assert "known layout" not in str(raised.value)
    assert raised.value.do
    assert raised.value.exit_code == 2
    if path.suffix in (".json", ".xml", ".ndjson"):
        with pytest.raises(DatasetError, match=words):
            open_dataset(path)


def test_an_archive_is_refused_unless_its_images_lie_beside_it(tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "set"), "zip", make_folder(tmp_path / "raw"))
    for path in (Path(packed), tmp_path / "folder"):
        if path.suffix == "":
            path.mkdir()
            shutil.copy(packed, path)
        with pytest.raises(DatasetError, match="this is an archive"):
            open_dataset(path)
    blank(tmp_path / "folder" / "a.png")
    with pytest.raises(DatasetError, match="known layout"):
        open_dataset(tmp_path / "folder")


def test_labels_whose_image_has_another_name_are_a_problem_beside_images_without_labels(
    tmp_path: Path,
) -> None:
    make_yolo(tmp_path, 4)
    labels = sorted((tmp_path / "labels").rglob("*.txt"))
    shutil.copy(labels[0], labels[0].with_name("more.txt"))
    assert open_dataset(tmp_path).notes == ("1 file of labels without an image left out",)
    labels[0].rename(labels[0].with_name("renamed.txt"))
    problems = open_dataset(tmp_path).problems
    assert [problem.path.name for problem in problems] == ["more.txt", "renamed.txt"]


@pytest.mark.parametrize(
    "maker",
    [make_labelme, make_supervisely, make_yolo, make_cvat, make_coco, make_voc, make_folder],
)
def test_names_that_macos_wrote_in_two_characters_are_found(
    tmp_path: Path, maker: Callable[..., Path]
) -> None:
    """Images decomposed, as unpacked from its archives; annotations composed, or the other way."""
    root = maker(tmp_path / "set", 8)
    expected = {s.name: s.read_mask() for s in open_dataset(root).samples}
    for path in sorted(root.rglob("*"), reverse=True):
        form = "NFD" if path.suffix == ".jpg" else "NFC"
        if path.stem[:2].isdecimal():
            path.rename(path.with_name(unicodedata.normalize(form, f"é{path.name}")))
        elif path.suffix in (".json", ".xml", ".txt") and path.stem not in ("meta", "classes"):
            path.write_text(re.sub(r"\b0\d_0", lambda found: f"é{found[0]}", path.read_text()))
    for path in root.rglob("é*.json"):
        path.write_text(re.sub(r"\b0\d_0", lambda found: f"é{found[0]}", path.read_text()))
    dataset = open_dataset(root)
    assert not dataset.problems
    found = {unicodedata.normalize("NFC", s.name): s.read_mask() for s in dataset.samples}
    assert found.keys() == {f"é{name}" for name in expected}
    assert all((found[f"é{name}"] == mask).all() for name, mask in expected.items())
