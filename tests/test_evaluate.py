"""Evaluation is deployment: figures of the segmenter that runs live, on sets of every shape."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_network import make_network
from dataset_folders import (
    COLOURS_BGR,
    draw,
    make_cityscapes,
    make_coco,
    make_folder,
    make_roboflow_masks,
    make_voc,
    write,
)
from sklearn.metrics import confusion_matrix, jaccard_score

import rtseg
from rtseg.backends import fitted
from rtseg.backends.base import fit_size
from rtseg.datasets import open_dataset
from rtseg.datasets.folders import Values
from rtseg.errors import DatasetError, RtsegError, UsageError
from rtseg.evaluation import networks
from rtseg.evaluation.networks import SHAPES, InputPolicy, Network
from rtseg.evaluation.report import Evaluation, draw_confusion, result
from rtseg.evaluation.scoring import FlickerCounter, Worst, score
from rtseg.evaluation.sets import SetSpec, open_set, read_suite
from rtseg.frame import Frame, Segmentation
from rtseg.labels import PERSON as PERSON_LABELS
from rtseg.labels import VOID, LabelSet, voc_colours
from rtseg.metrics import ConfusionMatrix, Flicker
from rtseg.nets import find_model
from rtseg.segmenter import Pair
from rtseg.zoo import MODELS


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """Tells discs and boxes by their colours, at any input size."""
    return Network("colours", find_model(make_network(tmp_path / "colours.onnx")))


def shapes(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """One picture of each size, in this order."""
    for number, size in enumerate(sizes):
        picture = next(draw(1, size, seed=number))
        write(folder / "images" / f"{number:03}.png", picture.image)
        write(folder / "masks" / f"{number:03}.png", picture.mask)
    (folder / "classes.json").write_text(json.dumps(["background", "disc", "box"]))
    return folder


# --- the figures ---------------------------------------------------------------------------------


def test_a_score_is_that_of_the_live_segmenter(tmp_path: Path, network: Network) -> None:
    folder = shapes(tmp_path / "set", [(48, 64), (64, 48), (50, 90), (48, 64)])
    network.policy = InputPolicy("exact")
    found = score(network, open_set(SetSpec(folder)))
    truth, predicted = [], []
    for sample in open_dataset(folder).samples:
        image = sample.read_image()
        with rtseg.load(tmp_path / "colours.onnx", frame_size=image.shape[:2]) as live:
            predicted.append(live(image).mask.ravel())
        truth.append(sample.read_mask().ravel())
    pixels = np.concatenate(truth), np.concatenate(predicted)
    assert (found.matrix.counts[:, :3] == confusion_matrix(*pixels, labels=[0, 1, 2])).all()
    iou = jaccard_score(*pixels, average="macro")
    assert result(found)["mean_iou"] == pytest.approx(iou, abs=1e-9)
    assert 0.85 < iou < 1, "edges suffer from the small input, and nothing else does"
    assert (found.pictures, found.chosen, found.complete) == (4, 4, True)


def test_truth_and_prediction_are_not_swapped(tmp_path: Path) -> None:
    """A network that takes every disc for a box: discs have no accuracy, boxes no precision."""
    swapped = [COLOURS_BGR[0], (255, 0, 255), COLOURS_BGR[1]]
    blind = Network("blind", find_model(make_network(tmp_path / "blind.onnx", colours=swapped)))
    found = score(blind, open_set(SetSpec(make_folder(tmp_path / "set", 3))))
    counts = found.matrix.counts
    assert counts[1, 2] > 100, "rows are the truth: discs in the column of boxes"
    assert counts[2, 1] == 0
    assert found.matrix.class_accuracy[1] == 0


def test_pixels_that_nobody_labelled_are_not_counted(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc", 4)
    names = ["background", "person", "car"]
    model = find_model(make_network(tmp_path / "net.onnx", names=names))
    chosen = open_set(SetSpec(folder))
    found = score(Network("net", model), chosen)
    masks = [sample.read_mask() for sample in chosen.samples]
    known = sum(int((mask != 255).sum()) for mask in masks)
    assert found.matrix.pixels == known < sum(mask.size for mask in masks)
    assert set(found.labels.names) == {"background", "person", "car"}


def test_the_boundary_score_is_measured_on_request(tmp_path: Path, network: Network) -> None:
    chosen = open_set(SetSpec(make_folder(tmp_path / "set", 3)))
    assert result(score(network, chosen))["mean_boundary_f"] is None
    found = result(score(network, chosen, boundary=True))
    assert found["mean_boundary_f"] > 0.9
    assert found["classes"][1]["boundary_f"] > 0.9


def sequence(folder: Path, colours: list[int]) -> Path:
    """Frames whose truth is one half disc, drawn in the colours of these classes."""
    for number, colour in enumerate(colours):
        mask = np.zeros((48, 64), np.uint8)
        mask[:, :32] = 1
        image = np.array(COLOURS_BGR, np.uint8)[np.where(mask == 1, colour, 0)]
        write(folder / "images" / "walk" / f"{number:03}.png", image)
        write(folder / "masks" / "walk" / f"{number:03}.png", mask)
    (folder / "classes.json").write_text(json.dumps(["background", "disc", "box"]))
    return folder


@pytest.mark.parametrize(("colours", "flicker"), [([1, 1, 1], 0.0), ([1, 2, 1, 1], 1 / 3)])
def test_flicker_is_measured_on_sequences(
    tmp_path: Path, network: Network, colours: list[int], flicker: float
) -> None:
    """The labels never change; half the picture changes class in two of the three steps."""
    chosen = open_set(SetSpec(sequence(tmp_path / "set", colours)))
    assert result(score(network, chosen))["flicker"] == pytest.approx(flicker, abs=1e-9)


@pytest.mark.parametrize("make", [make_folder, make_coco])
@pytest.mark.parametrize("move", [(2, 3), (-3, 1), (0, -2)])
def test_labels_that_lie_beside_what_they_label_are_moved(
    tmp_path: Path, make: Callable[[Path, int], Path], move: tuple[int, int]
) -> None:
    spec = SetSpec(make(tmp_path / "set", 1))
    lying = open_set(spec).samples[0]
    mended = open_set(replace(spec, move=move)).samples[0]
    table = np.arange(256, dtype=np.uint8)
    before, after = lying.read_mask(), mended.read_mask()
    right, down = move
    expected = np.full_like(before, VOID)
    for y, x in np.ndindex(before.shape):
        if 0 <= y - down < before.shape[0] and 0 <= x - right < before.shape[1]:
            expected[y, x] = before[y - down, x - right]
    assert (after == expected).all()
    assert (mended.read_as(table) == expected).all()
    assert np.ptp(before) > 0


def test_frames_that_do_not_follow_one_another_have_no_flicker(
    tmp_path: Path, network: Network
) -> None:
    folder = sequence(tmp_path / "set", [1, 2, 1, 2])
    every_other = score(network, open_set(SetSpec(folder, max_pictures=2)))
    assert every_other.pictures == 2
    assert result(every_other)["flicker"] is None
    (tmp_path / "names.txt").write_text("000\n002\n003\n")
    named = score(network, open_set(SetSpec(folder, names=tmp_path / "names.txt")))
    assert named.pictures == 3
    assert named.flicker.counted == 48 * 64  # of the last two alone
    single = score(network, open_set(SetSpec(make_folder(tmp_path / "pictures", 3))))
    assert single.flicker.counted == 0


def test_flicker_of_a_clip_counts_what_stands_still() -> None:
    """Of four pixels one moves; of the three others one changes its class in each step."""

    def pair(index: int, moving: int, mask: list[int]) -> Pair:
        image = np.full((1, 4, 3), 100, np.uint8)
        image[0, 3] = moving
        scores = (np.arange(2)[:, None, None] == np.array([mask])).astype(np.float32)
        return Frame(image, index, index / 30, 0.0), Segmentation(scores, PERSON_LABELS, (1, 4))

    def flicker(pairs: list[Pair]) -> Flicker:
        counter = FlickerCounter()
        for each in pairs:
            counter.add(each)
        return counter.flicker

    clip = [pair(0, 0, [0, 0, 1, 0]), pair(1, 90, [0, 1, 1, 1]), pair(2, 0, [0, 0, 1, 0])]
    assert flicker(clip).share == pytest.approx(1 / 3)
    assert flicker(clip).counted == 6
    gap = [*clip[:2], pair(5, 0, [0, 0, 1, 0])]
    assert flicker(gap).counted == 3, "frames 1 and 5 do not follow one another"
    assert math.isnan(flicker(clip[:1]).share)


# --- the input -----------------------------------------------------------------------------------

PERSON = replace(MODELS["lraspp_mobilenet_v3_large"].input, size=(288, 512))
SPEC = replace(MODELS["lraspp_mobilenet_v3_large"], input=PERSON)


@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (1920, 1080), (375, 500), (512, 512)])
def test_pictures_of_a_camera_s_shape_get_the_input_they_get_live(size: tuple[int, int]) -> None:
    assert InputPolicy().size_for(SPEC, *size) == fit_size(SPEC, size[1], size[0])
    assert InputPolicy("exact").size_for(SPEC, *size) == fit_size(SPEC, size[1], size[0])


def test_pictures_of_any_shape_need_few_inputs() -> None:
    dice = np.random.default_rng(0)
    pictures = [tuple(map(int, pair)) for pair in dice.integers(100, 1000, (500, 2))]
    auto = {InputPolicy().size_for(SPEC, *size) for size in pictures}
    assert len(auto) <= len(SHAPES) == 19
    exact = {InputPolicy("exact").size_for(SPEC, *size) for size in pictures}
    assert exact == {fit_size(SPEC, width, height) for height, width in pictures}
    assert len(exact) > 40
    for height, width in pictures:
        if 0.5 <= width / height <= 2:
            h, w = InputPolicy().size_for(SPEC, height, width)
            assert abs(math.log(w / h * height / width)) < 0.14, "shape nearly kept"


def test_the_long_side_and_fixed_sizes() -> None:
    policy = InputPolicy("long", side=320)
    assert policy.size_for(SPEC, 375, 500) == (240, 320)
    assert policy.size_for(SPEC, 500, 333) == (320, 208)
    assert policy.size_for(SPEC, 50, 5000) == (32, 320)
    assert InputPolicy("fixed", size=(64, 96)).size_for(SPEC, 500, 333) == (64, 96)
    one = replace(SPEC, input=replace(PERSON, size=(256, 256), fixed=True))
    for kind in ("auto", "exact", "long"):
        assert InputPolicy(kind, side=320).size_for(one, 375, 500) == (256, 256)
        assert "256x256" in InputPolicy(kind, side=320).describe(one)


def test_each_input_size_is_opened_once(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = networks.open_backend

    def counting(*args, input_size, **options):
        opened.append(input_size)
        return real(*args, input_size=input_size, **options)

    monkeypatch.setattr(networks, "open_backend", counting)
    monkeypatch.setattr(fitted, "KEPT_OPEN", 2)
    folder = shapes(tmp_path / "set", [(48, 64), (64, 48), (48, 48), (32, 64), (24, 64)] * 3)
    found = score(network, open_set(SetSpec(folder)))
    assert len(opened) == len(set(opened)) == 5
    assert sorted(found.inputs.values()) == [3] * 5
    assert set(found.inputs) == set(opened)


def test_what_really_runs_is_in_the_report(tmp_path: Path, network: Network) -> None:
    found = result(score(network, open_set(SetSpec(make_folder(tmp_path / "set", 2)))))
    assert found["runs_on"]["name"] == "onnx"
    assert found["runs_on"]["provider"].endswith("ExecutionProvider")
    assert found["inputs"] == [{"height": 48, "width": 64, "pictures": 2}]
    assert "48x64" in found["input_policy"]


# --- which pictures ------------------------------------------------------------------------------


def test_val_is_taken_where_nothing_is_said(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc", 6)
    assert len(open_set(SetSpec(folder)).samples) == 3
    assert len(open_set(SetSpec(folder, split="train")).samples) == 6
    assert len(open_set(SetSpec(folder, split="all")).samples) == 9
    assert {s.split for s in open_set(SetSpec(folder)).samples} == {"val"}
    with pytest.raises(DatasetError, match=r"no split 'test'.*train, val"):
        open_set(SetSpec(folder, split="test"))
    assert open_set(SetSpec(make_folder(tmp_path / "plain", 4))).split == ""


def test_only_pictures_with_enough_of_a_class(tmp_path: Path, network: Network) -> None:
    chosen = open_set(SetSpec(make_coco(tmp_path / "coco", 8), split="train"))
    disc = chosen.dataset.labels.index("disc")
    shares = [float(np.mean(sample.read_mask() == disc)) for sample in chosen.samples]
    least = sorted(shares)[-3]
    spec = replace(chosen.spec, min_share={"disc": least})
    found = score(network, replace(chosen, spec=spec))
    assert (found.pictures, found.of) == (3, 8)
    nowhere = replace(chosen, spec=replace(spec, min_share={"disc": 0.99}))
    with pytest.raises(DatasetError, match=r"no image of coco is left.*disc 99.0%"):
        score(network, nowhere)
    with pytest.raises(UsageError, match="unknown class 'cat'"):
        score(network, replace(chosen, spec=replace(spec, min_share={"cat": 0.1})))


def test_fewer_pictures_are_spread_over_the_set(tmp_path: Path, network: Network) -> None:
    folder = make_folder(tmp_path / "set", 9)
    seen: list[int] = []
    found = score(
        network,
        open_set(SetSpec(folder, max_pictures=3)),
        worst=9,
        on_picture=lambda score: seen.append(score.pictures),
    )
    assert found.worst is not None
    assert sorted(kept.name for kept in found.worst.kept) == ["00_0000", "00_0003", "00_0006"]
    assert seen == [0, 1, 2, 3]


def test_a_list_names_the_pictures(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set", 5)
    listed = tmp_path / "names.txt"
    listed.write_text("00_0004\n00_0001\n")
    chosen = open_set(SetSpec(folder, names=listed))
    assert [sample.name for sample in chosen.samples] == ["00_0001", "00_0004"]


def test_everything_wrong_with_a_set_is_told_at_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "set", 6)
    (folder / "masks" / "00_0001.png").unlink()
    cv2.imwrite(str(folder / "masks" / "00_0003.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(DatasetError) as caught:
        open_set(SetSpec(folder))
    assert "00_0001" in str(caught.value)
    assert "00_0003" in str(caught.value)
    assert "2 problems" in str(caught.value)


def _spoilt_voc(folder: Path) -> None:
    make_voc(folder)
    (folder / "SegmentationClass" / "00_0001.png").write_bytes(b"")
    (folder / "SegmentationClass" / "00_0002.png").unlink()


def _spoilt_folder(folder: Path) -> None:
    masks = make_folder(folder, splits=("train", "val")) / "train" / "masks"
    (masks / "00_0001.png").write_bytes(b"")
    (masks / "00_0002.png").unlink()


def _spoilt_roboflow_masks(folder: Path) -> None:
    train = make_roboflow_masks(folder) / "train"
    (train / "00_0001_mask.png").write_bytes(b"")
    (train / "00_0002.jpg").unlink()


def _spoilt_cityscapes(folder: Path) -> None:
    masks = make_cityscapes(folder) / "gtFine" / "train" / "trainville"
    next(masks.glob("*_000001_gtFine*")).write_bytes(b"")
    next(masks.glob("*_000002_gtFine*")).unlink()


def _spoilt_coco(folder: Path) -> None:
    pictures = make_coco(folder) / "train2017"
    (pictures / "00_0002.jpg").unlink()


def _spoilt_lists(folder: Path) -> None:
    make_folder(folder, 9)
    (folder / "train.txt").write_text("00_0000\n00_0001\nstranger\n00_0000\n")
    (folder / "val.txt").write_text("".join(f"00_{number:04}\n" for number in range(3, 7)))


@pytest.mark.parametrize(
    "spoil",
    [
        _spoilt_voc,
        _spoilt_folder,
        _spoilt_roboflow_masks,
        _spoilt_cityscapes,
        _spoilt_coco,
        _spoilt_lists,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_wrong_in_another_split_does_not_stop_it_but_is_told(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    spoil(tmp_path / "set")
    chosen = open_set(SetSpec(tmp_path / "set"))
    assert (chosen.split, len(chosen.samples)) == ("val", 4)
    assert chosen.dataset.notes[-1].startswith("problems in images that are not measured: ")
    for split in ("train", "all"):
        with pytest.raises(DatasetError, match="problem"):
            open_set(SetSpec(tmp_path / "set", split=split))


def test_masks_of_other_splits_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_voc(tmp_path / "voc")
    read: list[str] = []
    values_read = Values.read

    def recorded(self: Values, mask: Path, image: Path) -> np.ndarray:
        read.append(mask.stem)
        return values_read(self, mask, image)

    monkeypatch.setattr(Values, "read", recorded)
    assert [s.name for s in open_set(SetSpec(folder)).samples] == read
    assert len(read) == 4


def test_what_is_wrong_with_pictures_that_a_list_leaves_out_does_not_stop_it(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path / "set", 6)
    (folder / "masks" / "00_0001.png").unlink()
    (folder / "masks" / "00_0002.png").write_bytes(b"")
    listed = tmp_path / "names.txt"
    listed.write_text("00_0003\n00_0004\n")
    assert len(open_set(SetSpec(folder, names=listed)).samples) == 2
    listed.write_text("00_0002\n00_0004\n")
    with pytest.raises(DatasetError, match=r"1 problem: .*00_0002"):
        open_set(SetSpec(folder, names=listed))


def test_a_split_that_is_broken_as_a_whole_is_not_passed_over(tmp_path: Path) -> None:
    folder = make_coco(tmp_path / "set", splits=("train", "val", "test"))
    (folder / "annotations" / "instances_val2017.json").write_text("{")
    for split in ("", "val"):
        with pytest.raises(DatasetError, match="it is not JSON"):
            open_set(SetSpec(folder, split=split))
    assert open_set(SetSpec(folder, split="test")).split == "test"


def test_a_picture_that_breaks_while_it_runs_ends_the_run(tmp_path: Path, network: Network) -> None:
    folder = make_folder(tmp_path / "set", 4)
    chosen = open_set(SetSpec(folder))
    mask = folder / "masks" / "00_0002.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"00_0002\.png"):
        score(network, chosen)


def test_a_set_without_a_class_of_the_network_is_refused(tmp_path: Path) -> None:
    cats = find_model(make_network(tmp_path / "cats.onnx", names=["background", "cat", "dog"]))
    with pytest.raises(RtsegError, match="no class in common"):
        score(Network("cats", cats), open_set(SetSpec(make_folder(tmp_path / "set", 2))))


def test_stopping_early_keeps_what_was_measured(tmp_path: Path, network: Network) -> None:
    seen: list[int] = []
    found = score(
        network,
        open_set(SetSpec(make_folder(tmp_path / "set", 6))),
        on_picture=lambda score: seen.append(score.pictures),
        stop=lambda: bool(seen) and seen[-1] >= 2,
    )
    assert (found.pictures, found.chosen, found.complete) == (2, 6, False)
    assert found.matrix.pixels == 2 * 48 * 64
    assert not Evaluation((found,)).to_plain()["complete"]


# --- what is written -----------------------------------------------------------------------------


def test_the_worst_pictures_are_written_the_worst_first(tmp_path: Path, network: Network) -> None:
    folder = make_folder(tmp_path / "set", 4)
    bad = folder / "masks" / "00_0002.png"
    cv2.imwrite(str(bad), 2 - np.minimum(cv2.imread(str(bad), 0), 2))  # the wrong way round
    found = score(network, open_set(SetSpec(folder)), worst=2)
    assert found.worst is not None
    paths = found.worst.write(tmp_path / "out" / "worst")
    assert len(paths) == 2
    assert paths == sorted(paths)
    iou, _, name = paths[0].stem.partition("_")
    assert name == "00_0002"
    assert float(iou) < 0.3
    assert cv2.imread(str(paths[0])).shape == (48, 2 * 64 + 4, 3)
    by_class = score(network, open_set(SetSpec(folder)), worst=9, worst_class="disc").worst
    assert by_class is not None
    with_disc = {kept.name for kept in by_class.kept}
    assert with_disc < {f"00_{number:04}" for number in range(4)}, "some have no disc at all"


def test_worst_pictures_of_similar_names_are_all_written(tmp_path: Path) -> None:
    worst, truth = Worst(5, PERSON_LABELS), np.ones((8, 8), np.uint8)
    for name in ("set/a_b_2", "set/a b", "set/a_b", "set a/b", "set/A b"):
        matrix = ConfusionMatrix(2)
        matrix.update(truth, 0 * truth)
        worst.add(name, matrix, np.zeros((8, 8, 3), np.uint8), truth, 0 * truth)
    paths = worst.write(tmp_path)
    assert len({str(path).casefold() for path in paths}) == len(list(tmp_path.iterdir())) == 5


def test_what_was_not_measured_is_null_in_json(tmp_path: Path, network: Network) -> None:
    folder = make_folder(tmp_path / "set", 2)
    write(folder / "masks" / "00_0000.png", np.full((48, 64), 255, np.uint8))
    found = score(network, open_set(SetSpec(folder, max_pictures=1)), boundary=True, worst=1)
    text = json.dumps(Evaluation((found,)).to_plain(), allow_nan=False)
    first = json.loads(text)["results"][0]
    assert first["mean_iou"] is first["pixel_accuracy"] is first["mean_boundary_f"] is None
    assert first["classes"][0] == {
        "name": "background", "iou": None, "accuracy": None, "share": None, "boundary_f": None,
    }  # fmt: skip
    assert first["pictures"] == 1
    assert found.worst is not None
    assert found.worst.kept == []
    write(folder / "masks" / "00_0001.png", np.full((48, 64), 255, np.uint8))
    with pytest.raises(DatasetError, match="all are 255 or ignored"):
        score(network, open_set(SetSpec(folder)))


@pytest.mark.parametrize("classes", [2, 21, 150])
def test_the_confusion_matrix_as_a_picture(tmp_path: Path, network: Network, classes: int) -> None:
    found = score(network, open_set(SetSpec(make_folder(tmp_path / "set", 2))))
    matrix = ConfusionMatrix(classes)
    matrix.counts[0, 1], matrix.counts[0, 0], matrix.counts[1, -1] = 30, 10, 5
    names = tuple(f"class ${index}" for index in range(classes))
    labels = LabelSet(names, voc_colours(classes))
    figure = draw_confusion(replace(found, labels=labels, matrix=matrix))
    width, height = figure.get_size_inches()
    assert 2 < height <= width < 24
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (classes, classes + 1), "the last column is of pixels without a class"
    assert shown[0, :2].tolist() == [0.25, 0.75]
    assert shown[1, -1] == 1
    figure.savefig(tmp_path / "out.png")
    tight = ConfusionMatrix(classes)
    tight.counts[0, 0] = 1
    plain = draw_confusion(replace(found, labels=labels, matrix=tight))
    assert plain.axes[0].images[0].get_array().shape == (classes, classes)


# --- suites --------------------------------------------------------------------------------------

SUITE = """
root = "sets"

[[set]]
name = "mine"
path = "a"
split = "val"
classes = ["person=*"]
min_share = { person = 0.05 }
names = "some.txt"

[[set]]
path = "b"

[[network]]
name = "selfie"
model = "nets/selfie.onnx"
labels = "person"
imgsz = "256"

[[network]]
model = "person"
"""


def test_a_suite_names_sets_and_networks(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    suite = read_suite(path)
    first, second = suite.sets
    assert first == SetSpec(
        tmp_path / "sets" / "a",
        name="mine",
        split="val",
        classes=("person=*",),
        min_share={"person": 0.05},
        names=tmp_path / "some.txt",
    )
    assert second == SetSpec(tmp_path / "sets" / "b")
    selfie, person = suite.networks
    assert selfie.model == str(tmp_path / "sets" / "nets" / "selfie.onnx")
    assert (selfie.name, selfie.imgsz, selfie.settings) == ("selfie", "256", {"labels": "person"})
    assert person.model == "person", "a name of the zoo is no file"
    moved = read_suite(path, tmp_path / "elsewhere")
    assert moved.sets[1].path == tmp_path / "elsewhere" / "b"
    assert moved.sets[0].names == tmp_path / "some.txt", "lists lie beside the suite"


@pytest.mark.parametrize(
    ("model", "is_file"),
    [
        ("hf:owner/name:onnx/model.onnx", False),
        ("hf:owner/mit-b0.1", False),
        ("fpn_timm:resnet18.a1_in1k", False),
        ("stub?delay=0.1s", False),
        ("person", False),
        ("other", False),
        ("runs/mine", True),
        ("net.onnx", True),
    ],
)
def test_a_model_of_a_suite_is_a_name_or_a_file(tmp_path: Path, model: str, is_file: bool) -> None:
    for folder in ("runs/mine", "person"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "names.txt").write_text("a\nb\n")
    path = tmp_path / "suite.toml"
    path.write_text(f'[[set]]\npath = "a"\n[[network]]\nmodel = "{model}"\nlabels = "names.txt"\n')
    (network,) = read_suite(path).networks
    assert network.model == (str(tmp_path / model) if is_file else model)
    assert network.settings == {"labels": str(tmp_path / "names.txt")}


def test_labels_of_a_suite_may_be_a_long_list(tmp_path: Path) -> None:
    names = ",".join(f"class {number}" for number in range(150))
    path = tmp_path / "suite.toml"
    path.write_text(f'[[set]]\npath = "a"\n[[network]]\nmodel = "n.onnx"\nlabels = "{names}"\n')
    (network,) = read_suite(path).networks
    assert network.settings == {"labels": names}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[set]", "is not TOML"),
        ("", r"has no \[\[set\]\]"),
        ("[[sets]]\npath = 'a'", "unknown field 'sets'"),
        ("[[set]]\npath = 'a'\nsplitt = 'val'", "unknown field 'splitt'"),
        ("[[set]]\nname = 'a'", "missing required field path"),
        ("[[set]]\npath = 3", r"set\[0\].path is 3"),
        ("[[set]]\npath = 'a'\nclasses = 'person'", "classes is 'person': expected list"),
        ("[[set]]\npath = 'a'\nmin_share = { person = 5 }", "min_share"),
        (f"[[set]]\npath = 'a'\nname = '{'x' * 201}'", "plain characters"),
        ('[[set]]\npath = "a"\nname = "\\u001b[2J"', "plain characters"),
        ("[[set]]\npath = 'a'\nmax_pictures = -1", "max_pictures must be 0 or more"),
        ("[[set]]\npath = 'a'\nmove = [-101, 0]", "move must be at most 100 pixels"),
        ("[[set]]\npath = 'a'\nmove = [1]", r"move is \[1\]"),
        ("[set]\npath = 'a'", "set is .*expected list"),
    ],
)
def test_a_suite_that_makes_no_sense_says_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_suite(path)
    assert "suite.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("place", "words"), [("", "empty path"), (" ", "empty path"), ("/", "root")]
)
def test_a_suite_of_no_folder_or_a_whole_disk(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "suite.toml").write_text(f"[[set]]\npath = {place!r}\n")
    with pytest.raises(UsageError, match=words):
        read_suite(tmp_path / "suite.toml")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a root folder")
def test_a_whole_disk_is_not_a_dataset() -> None:
    for root in ("/", "//", "/tmp/.."):
        with pytest.raises(DatasetError, match="root of a disk"):
            open_dataset(root)


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_suite(tmp_path / "none.toml")
