"""Training runs, start to end, on pictures made here."""

# ruff: noqa: F811 - fixtures are imported
from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from dataset_folders import MAKERS, NAMES, make_folder, make_roboflow
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score
from training import CHARTS, SMALLEST, Told, one_thread, quick, small  # noqa: F401 - autouse, and a fixture

import rtseg
from rtseg.cli.app import main
from rtseg.datasets import open_dataset
from rtseg.documents import read_toml
from rtseg.draw import blend, overlay_table
from rtseg.errors import DatasetError, DeviceError, UsageError
from rtseg.labels import LabelSet, random_colours
from rtseg.metrics import ConfusionMatrix
from rtseg.nets import find_model
from rtseg.nets.state import read_checkpoint, save_checkpoint
from rtseg.options import from_values
from rtseg.training import TrainOptions, program, trainable
from rtseg.training.charts import ALPHA
from rtseg.training.folder import RunFolder
from rtseg.training.loop import TrainingLoop, load_state
from rtseg.training.prepare import open_data, resumed
from rtseg.training.program import Result, export_best, train, without_effect
from rtseg.training.trainable import Figures, Trainable, moving_average
from rtseg.zoo import ModelSpec

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own; and no charts, which take longer than the training, but in `finished`."""
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    for chart in CHARTS:
        monkeypatch.setattr(program, chart, lambda *arguments: None)


@pytest.fixture(scope="module")
def robo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in COCO-JSON, in the three folders of a Roboflow export."""
    return make_roboflow(tmp_path_factory.mktemp("sets") / "robo", count=12)


@pytest.fixture(scope="module")
def finished(
    robo: Path, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Told]:
    """A run that learnt something."""
    torch.set_num_threads(1)
    told = Told()
    out = tmp_path_factory.mktemp("runs") / "finished"
    return train(quick(robo, small, out, epochs=6, lr=2e-3, seed=2), callback=told), told


def state(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path)[1])


def equal(one: Path, other: Path) -> bool:
    first, second = state(one), state(other)
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["coco", "cityscapes"])
def test_a_layout_trains_and_its_checkpoint_runs_live_and_through_onnx(
    layout: str, small: Path, tmp_path: Path
) -> None:
    """That the others give the same samples: test_datasets_layouts.py."""
    dataset, told = MAKERS[layout](tmp_path / layout, count=8), Told()
    result = train(quick(dataset, small, tmp_path / "run"), callback=told)
    assert result.rows[1].train_loss < result.rows[0].train_loss
    assert f"({layout})" in told.said("dataset")
    masks = []
    for backend in ("torch", "onnx"):
        with rtseg.load(result.folder.best, backend=backend, device="cpu") as segmenter:
            assert segmenter.input_size == (64, 64)
            frames = rtseg.stream("test://?size=96x80&frames=2", segmenter)
            masks.append(np.stack([segmentation.mask for _, segmentation in frames]))
    assert masks[0].shape == (2, 80, 96)
    assert np.mean(masks[0] == masks[1]) > 0.999  # float ties aside


def test_a_run_learns_and_its_checkpoint_says_who_it_is(finished: tuple[Result, Told]) -> None:
    result, told = finished
    assert result.rows[-1].train_loss < 0.7 * result.rows[0].train_loss
    assert result.best is not None
    assert result.best.miou > 0.35  # all background would be 0.28
    spec, weights = read_checkpoint(result.folder.best)
    assert spec is not None
    assert spec.labels.names == NAMES
    assert spec.labels.background == 0
    assert spec.input.size == (64, 64)
    assert spec.architecture == SMALLEST
    assert spec.name == f"{SMALLEST}-robo"
    assert spec.dataset == "robo (validation split)"
    assert spec.miou == pytest.approx(100 * result.best.miou, abs=0.006)
    numbers = sum(v.numel() for k, v in weights.items() if "running" not in k and "num_b" not in k)
    assert spec.parameters == pytest.approx(numbers / 1e6)
    assert told.said("runs on") == "cpu, fp32"


def test_the_run_folder_holds_what_was_asked_used_and_found(finished: tuple[Result, Told]) -> None:
    result, _ = finished
    folder = result.folder
    assert {file.name for file in folder.path.iterdir()} == {
        *("config.toml", "versions.json", "split.json", "metrics.csv", "curves.png"),
        *("confusion.png", "preview.png", "samples.png"),
        *("best.pth", "last.ckpt", "test.json", "test.png"),
    }
    assert folder.read_options() == replace(folder.read_options(), epochs=6, batch_size=4, lr=2e-3)
    assert json.loads(folder.versions.read_text())["torch"] == torch.__version__
    split = json.loads(folder.split.read_text())
    assert [len(split[name]) for name in ("train", "val", "test")] == [12, 6, 6]
    assert "own splits" in split["from"]
    rows = list(csv.DictReader(folder.metrics.read_text().splitlines()))
    assert [float(row["miou"]) for row in rows] == [row.miou for row in result.rows]
    assert [float(row["iou disc"]) for row in rows] == [row.ious[1] for row in result.rows]
    for picture in (folder.curves, folder.samples, folder.test_samples):
        drawn = cv2.imread(str(picture))
        assert drawn.shape[1] >= 1000
        assert drawn.std() > 10
    assert cv2.imread(str(folder.confusion)).std() > 10
    check_preview(cv2.imread(str(folder.preview)), result)


def labels_of(result: Result) -> LabelSet:
    spec = read_checkpoint(result.folder.best)[0]
    assert spec is not None
    return spec.labels


def check_preview(drawn: np.ndarray, result: Result) -> None:
    """The validation images side by side, each with its truth above and a prediction below."""
    samples = open_dataset(result.folder.read_options().dataset).samples
    val = [sample for sample in samples if sample.split == "val"]
    assert drawn.shape == (2 * 64, len(val) * 64, 3)
    table = overlay_table(labels_of(result), ALPHA)
    for column, sample in enumerate(val):
        truth, predicted = (
            drawn[top : top + 48, 64 * column : 64 * column + 64] for top in (0, 64)
        )
        image, mask = sample.read_image(), sample.read_mask()
        assert np.abs(truth.astype(int) - blend(image, mask, table)).max() <= 2
        same = np.abs(predicted.astype(int) - truth).max(axis=2) <= 2
        assert 0.4 < same.mean() < 1


def test_the_time_left_goes_down_to_nothing(finished: tuple[Result, Told]) -> None:
    result, told = finished
    seconds = sum(row.seconds for row in result.rows)
    per_epoch = len(told.left) // len(result.rows)
    assert all(left >= 0 for left in told.left)
    assert told.left[per_epoch - 1] > 0.2 * seconds  # five epochs are left
    assert told.left[-1] < 2 * max(row.seconds for row in result.rows[-4:-1])


def test_the_best_checkpoint_is_of_the_epoch_with_the_least_loss(
    finished: tuple[Result, Told],
) -> None:
    rows = finished[0].rows
    losses = [row.val_loss for row in rows]
    assert finished[0].best == rows[int(np.argmin(losses))]
    best = [row.val_loss for row in rows if row.best]
    assert all(later < earlier for earlier, later in pairwise(best))


def test_validation_figures_are_those_of_scikit_learn(finished: tuple[Result, Told]) -> None:
    result, _ = finished
    assert result.best is not None
    truth, predicted, losses = independent(result)
    best = result.best
    assert best.pixel_accuracy == pytest.approx(accuracy_score(truth, predicted), abs=1e-6)
    assert best.mean_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-6)
    ious = jaccard_score(truth, predicted, average=None, labels=[0, 1, 2])
    assert best.ious == pytest.approx(tuple(ious), abs=1e-6)
    assert best.miou == pytest.approx(ious.mean(), abs=1e-6)
    assert best.val_loss == pytest.approx(losses.mean(), abs=1e-5)


def independent(result: Result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, prediction and loss of every labelled validation pixel, without the code of training.

    TrainingImages of 48x64 at 64x64: the whole width, 16 rows below of the mean colour.
    """
    from rtseg.nets.build import build

    network = build(SMALLEST, 3)
    network.load_state_dict(state(result.folder.best))
    names = json.loads(result.folder.split.read_text())["val"]
    options = result.folder.read_options()
    found = {s.name: s for s in open_dataset(options.dataset).samples}
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    parts: list[list[np.ndarray]] = [[], [], []]
    for name in names:
        rgb = np.tile(np.round(255 * mean), (64, 64, 1))
        rgb[:48] = found[name].read_image()[..., ::-1]
        fed = torch.from_numpy((rgb / 255 - mean) / std).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            logits = network(fed)["out"][0, :, :48].double()
        truth = found[name].read_mask().astype(int)
        known = truth < 255
        log_likelihood = logits.log_softmax(0).numpy()
        parts[0].append(truth[known])
        parts[1].append(logits.argmax(0).numpy()[known])
        parts[2].append(-np.take_along_axis(log_likelihood, truth[None] % 3, 0)[0][known])
    truth, predicted, losses = (np.concatenate(part) for part in parts)
    return truth, predicted, losses


def test_test_figures_are_those_of_rtseg_eval(
    finished: tuple[Result, Told], capsys: Capture
) -> None:
    result, _ = finished
    assert result.test is not None
    assert result.test.pictures == 6
    options = result.folder.read_options()
    arguments = ["--data", options.dataset, "-m", str(result.folder.best)]
    assert main(["eval", *arguments, "--split", "test", "-b", "torch", "-d", "cpu"]) == 0
    assert f"{result.test.miou:.3f}" in capsys.readouterr().out
    written = json.loads(result.folder.test.read_text())
    assert written["miou"] == result.test.miou
    assert list(written["class_iou"]) == list(NAMES)


@pytest.mark.slow
def test_the_seed_repeats_a_run_exactly(robo: Path, small: Path, tmp_path: Path) -> None:
    told = [Told() for _ in range(3)]
    for number, seed in enumerate((0, 0, 1)):
        settings = quick(robo, small, tmp_path / f"{number}", max_steps=2, seed=seed)
        train(settings, callback=told[number])
    assert told[0].losses == told[1].losses
    assert equal(tmp_path / "0" / "best.pth", tmp_path / "1" / "best.pth")
    assert told[0].losses != told[2].losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"),
    [
        (None, {"ema": 0.5}),
        ("deeplabv3_mobilenet_v3_large", {"weights": "scratch"}),  # it has dropout
    ],
)
def test_a_resumed_run_ends_as_if_nothing_had_happened(
    model: str | None, more: dict[str, Any], robo: Path, small: Path, tmp_path: Path
) -> None:
    whole = train(quick(robo, model or small, tmp_path / "whole", **more), callback=Told())
    settings = quick(robo, model or small, tmp_path / "parts", **more)
    first = Told(enough=lambda told: told.steps == 2)  # in the middle of the first epoch
    stopped = train(settings, callback=first, stop=first.stop)
    assert stopped.stopped
    assert stopped.rows == ()
    again = Told(enough=lambda told: told.steps == 3)  # in the middle of the second
    assert train(settings, callback=again, stop=again.stop, resume=True).stopped
    resumed = train(settings, resume=True)
    assert not resumed.stopped
    same = [replace(row, seconds=0) for row in whole.rows]
    assert [replace(row, seconds=0) for row in resumed.rows] == same
    assert equal(whole.folder.best, resumed.folder.best)


class Breaks(Told):
    """Ends a run at a step as a crash would."""

    def on_step(self, *arguments: Any) -> None:
        super().on_step(*arguments)
        if self.steps == 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_that_crashed_goes_on_from_the_last_save_within_its_epoch(
    robo: Path, small: Path, tmp_path: Path
) -> None:
    options = quick(robo, small, tmp_path / "whole", epochs=1)
    whole = train(options, callback=Told())
    options = replace(options, out=str(tmp_path / "parts"), save_every=1e-9)
    with pytest.raises(KeyboardInterrupt):
        train(options, callback=Breaks())
    told = Told()
    resumed = train(options, callback=told, resume=True)
    assert told.steps == 1  # two of three were saved
    assert [replace(row, seconds=0) for row in resumed.rows] == [
        replace(row, seconds=0) for row in whole.rows
    ]
    assert equal(whole.folder.best, resumed.folder.best)


@pytest.mark.slow
def test_a_stopped_run_leaves_a_best_checkpoint_that_runs(
    robo: Path, small: Path, tmp_path: Path
) -> None:
    told = Told(enough=lambda told: len(told.rows) == 1)
    result = train(quick(robo, small, tmp_path / "run", epochs=9), callback=told, stop=told.stop)
    assert result.stopped
    assert len(result.rows) == 1
    with rtseg.load(result.folder.best, backend="torch", device="cpu") as segmenter:
        assert segmenter(np.zeros((48, 64, 3), np.uint8)).mask.shape == (48, 64)


def script(monkeypatch: pytest.MonkeyPatch, **scripted: tuple[float, ...]) -> list[dict]:
    """Let the epochs of a run have these validation losses or IoUs of disc (class 1), without
    training; returns the weights after each, all equal to a number of its own."""
    weights: list[dict] = []

    def step(self: Trainable, batch: object, rate: float) -> float:
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.fill_((len(weights) + 1) / 1000)  # finite scores
        return 0.0

    def measure(self: Trainable, *arguments: Any) -> Figures:
        epoch = len(weights)
        weights.append(self.weights())
        matrix = ConfusionMatrix(3)
        matrix.counts[0, 0] = matrix.counts[2, 2] = 100
        disc = round(100 * scripted.get("iou", (0.5,) * 9)[epoch])
        matrix.counts[1, :2] = 100 - disc, disc
        return Figures(scripted.get("loss", (1.0,) * 9)[epoch], matrix)

    monkeypatch.setattr(Trainable, "step", step)
    monkeypatch.setattr(Trainable, "measure", measure)
    return weights


@pytest.mark.parametrize(
    ("monitor", "scripted", "best"),
    [
        ("loss", {"loss": (3.0, 1.0, 2.0, 1.5, 0.5)}, [True, True, False, False]),
        pytest.param(
            "miou",
            {"iou": (0.3, 0.6, 0.5, 0.6, 0.9)},
            [True, True, False, False],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mean_accuracy",
            {"iou": (0.6, 0.5, 0.2, 0.9, 0.9)},
            [True, False, False],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "pixel_accuracy", {"iou": (0.1, 0.2, 0.3, 0.4, 0.5)}, [True] * 5, marks=pytest.mark.slow
        ),
        pytest.param(
            "iou:disc",
            {"iou": (0.2, 0.1, 0.3, 0.1, 0.1)},
            [True, False, True, False, False],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "iou:box",
            {"iou": (0.2, 0.3, 0.4, 0.5, 0.6)},
            [True, False, False],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_best_checkpoint_and_early_stopping_follow_the_monitored_figure(
    monitor: str,
    scripted: dict[str, tuple[float, ...]],
    best: list[bool],
    robo: Path,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = script(monkeypatch, **scripted)
    options = quick(robo, small, tmp_path / "run", epochs=5, patience=2, monitor=monitor)
    result = train(replace(options, batch_size=12))
    assert [row.best for row in result.rows] == best
    assert result.early == (len(best) - 1 - max(np.flatnonzero(best)) == 2)
    kept = state(result.folder.best)
    expected = weights[int(max(np.flatnonzero(best)))]
    assert all(torch.equal(value, expected[key]) for key, value in kept.items())


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ("iou:cat", "the classes are background, disc, box"),
        ("iou:box", "no validation image has a pixel of box"),
    ],
)
def test_a_class_that_cannot_be_monitored_is_refused(
    monitor: str, words: str, small: Path, tmp_path: Path
) -> None:
    dataset = make_folder(tmp_path / "folder", count=4, splits=("train", "val"))
    for file in (dataset / "val" / "masks").iterdir():
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.where(mask == 2, 0, mask))
    with pytest.raises(UsageError, match=words):
        train(quick(dataset, small, tmp_path / "run", monitor=monitor))
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_splits_is_split_by_seed_and_written_down(
    small: Path, tmp_path: Path
) -> None:
    dataset = make_folder(tmp_path / "folder", count=10)
    train(quick(dataset, small, tmp_path / "run", max_steps=1))
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert [len(split[name]) for name in ("train", "val", "test")] == [8, 1, 1]
    assert "80/10/10" in split["from"]
    assert "seed 0" in split["from"]


@pytest.mark.slow
def test_split_splits_anew_and_eval_takes_the_split(
    small: Path, tmp_path: Path, capsys: Capture
) -> None:
    dataset = make_roboflow(tmp_path / "robo", count=8)  # 8 + 4 + 4, in three splits
    told = Told()
    options = quick(dataset, small, tmp_path / "run", max_steps=1, split="50/25/25")
    train(options, callback=told)
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert [len(split[name]) for name in ("train", "val", "test")] == [8, 4, 4]
    assert split["from"] == "50/25/25 by classes (--split, seed 0)"
    assert split["from"] in told.said("split")
    assert (
        from_values(TrainOptions, read_toml(tmp_path / "run" / "config.toml")).split == "50/25/25"
    )
    names = tmp_path / "run" / "split.json"
    for given, name in ((), "val"), (("--split", "test"), "test"):
        command = ["eval", "--data", str(dataset), "--names", str(names), *given]
        assert main([*command, "-m", str(tmp_path / "run" / "best.pth"), "--json", "-"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["results"]
        assert found["pictures"] == found["pictures_in_set"] == len(split[name])


def test_a_set_of_one_class_is_refused(small: Path, tmp_path: Path) -> None:
    dataset = make_folder(tmp_path / "folder", count=4, splits=("train", "val"))
    for mask in (dataset / "train" / "masks").iterdir():
        cv2.imwrite(str(mask), np.zeros((48, 64), np.uint8))
    with pytest.raises(DatasetError, match="in train, all labelled pixels are of one class, back"):
        train(quick(dataset, small, tmp_path / "run"))


def test_images_that_leak_into_val_are_warned_about(small: Path, tmp_path: Path) -> None:
    dataset = make_folder(tmp_path / "folder", count=4, splits=("train", "val"))
    image = cv2.imread(str(dataset / "train" / "images" / "00_0000.jpg"))
    cv2.imwrite(
        str(dataset / "val" / "images" / "01_0001.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60]
    )
    told = Told()
    train(quick(dataset, small, tmp_path / "run", max_steps=1), callback=told)
    assert "(1): 01_0001 (00_0000)" in told.said("warning")


def test_classes_can_be_merged(robo: Path, small: Path, tmp_path: Path) -> None:
    settings = quick(robo, small, tmp_path / "run", max_steps=1, classes=("thing=disc,box",))
    result = train(replace(settings, palette="random:3"))
    assert labels_of(result).names == ("background", "thing")
    assert labels_of(result).colours == random_colours(3, 2)


def test_a_palette_that_is_not_there_is_refused_before_it_starts(
    robo: Path, small: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="neither a palette nor a file"):
        train(quick(robo, small, tmp_path / "run", palette="mine.txt"))
    assert not (tmp_path / "run").exists()


def test_the_best_model_is_exported_with_its_classes_and_colours(
    finished: tuple[Result, Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtseg.exporting.program.ROUNDS", 1)
    folder = RunFolder(tmp_path)
    shutil.copy(finished[0].folder.best, folder.best)
    exported = export_best(replace(finished[0], folder=folder))
    assert exported.path == folder.onnx
    assert exported.parity.mean > 0.999
    assert exported.parity.frames == 6  # all validation images
    assert find_model(folder.onnx).spec.labels == labels_of(finished[0])


@pytest.mark.slow
def test_the_command_line_exports_at_the_end(
    robo: Path, small: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--size", "64", "--epochs", "1", "--batch-size", "4", "-d", "cpu", "--workers", "0"]
    flags += ["--export", "onnx", "--palette", "random:3"]
    assert main(["train", "--data", str(robo), "-m", str(small), *flags]) == 0
    said = capsys.readouterr().err
    assert "parity   with torch fp32 on 6 frames of the validation images" in said
    assert "wrote    run/best.onnx" in said
    assert find_model("run/best.onnx").spec.labels.colours == random_colours(3, 3)
    Path("run/best.onnx").unlink()
    assert main(["train", "--resume", "-q"]) == 0
    assert Path("run/best.onnx").is_file()


def test_every_fault_of_a_dataset_is_told_at_once_by_file(
    robo: Path, tmp_path: Path, capsys: Capture
) -> None:
    dataset = make_folder(tmp_path / "folder", count=6)
    pictures = sorted((dataset / "images").iterdir())
    masks = sorted((dataset / "masks").iterdir())
    pictures[0].write_bytes(b"no picture")
    cv2.imwrite(str(masks[1]), np.zeros((5, 5), np.uint8))
    cv2.imwrite(str(masks[2]), np.full((48, 64), 77, np.uint8))
    arguments = ["train", "--data", str(dataset), "--out", str(tmp_path / "run"), "-d", "cpu"]
    assert main([*arguments, "-q"]) == 2
    said = capsys.readouterr().err
    for file in (pictures[0], pictures[1], pictures[2]):
        assert sum(file.name in line for line in said.splitlines()) == 1
    assert "3 problems, listed above" in said
    assert not (tmp_path / "run").exists()


class Deletes(Told):
    """Deletes the training images once they were checked."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def note(self, heading: str, text: str) -> None:
        super().note(heading, text)
        if heading == "plan":
            for image in self.folder.glob("*.jpg"):
                image.unlink()


def test_an_image_that_is_lost_during_the_run_ends_it_and_its_workers(
    robo: Path, small: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(robo, tmp_path / "robo"))
    options = quick(mine, small, tmp_path / "run", workers=1)
    told = Deletes(mine / "train")
    with pytest.raises(DatasetError, match="cannot read the image") as failure:
        train(options, callback=told)
    assert "worker" not in told.said("note"), "no core has more than one"
    assert failure.value.exit_code == 2
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_that_gain_nothing_or_do_not_fit_are_noted(
    robo: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "usable_cores", lambda: 2)
    monkeypatch.setattr(program, "fitting_workers", lambda *given: 0)
    told = Told(enough=lambda told: True)
    train(quick(robo, small, tmp_path / "run", workers=3), callback=told)
    assert "3 workers on 2 cores: more than one each gains nothing" in told.said("note")
    assert "0 workers instead of 3: batches of more do not fit into" in told.said("note")


def test_options_without_effect_are_noted(small: Path, tmp_path: Path) -> None:
    dataset = make_folder(tmp_path / "folder", count=4, splits=("train", "val"))
    told = Told(enough=lambda told: True)
    unheard: dict[str, Any] = {"class_weights": "1,2,3", "edge_weight": 2.0, "momentum": 0.5}
    options = quick(dataset, small, tmp_path / "run", loss=("dice",), **unheard)
    train(options, callback=told)
    for flag in ("--class-weights", "--edge-weight", "--momentum"):
        assert f"{flag} has no effect" in told.said("note")
    assert list(without_effect(TrainOptions("x", edge_reach=9), taught=False))
    heard = {**unheard, "edge_reach": 9, "optimizer": "sgd"}
    for more in (heard, {"edge_reach": 9}, {}):
        assert not list(without_effect(TrainOptions("x", **more), taught=True))


def test_a_test_split_whose_labels_are_secret_is_told_of(small: Path, tmp_path: Path) -> None:
    dataset = make_folder(tmp_path / "folder", count=4, splits=("train", "val", "test"))
    for mask in (dataset / "test" / "masks").iterdir():
        cv2.imwrite(str(mask), np.full((48, 64), 255, np.uint8))
    told = Told()
    result = train(quick(dataset, small, tmp_path / "run", max_steps=1), callback=told)
    assert "no test image has a labelled pixel" in told.said("note")
    assert result.test is None
    assert result.best is not None


def test_a_folder_that_holds_something_is_refused_and_replaced_only_with_y(
    robo: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (out / "test.json").write_text("{}")
    settings = quick(robo, small, out, max_steps=1)
    with pytest.raises(UsageError, match="it is not empty"):
        train(settings)
    told = Told(enough=lambda told: told.steps == 1)
    train(settings, callback=told, stop=told.stop, overwrite=True)
    assert (out / "mine.txt").read_text() == "mine"
    assert not (out / "test.json").exists()
    with pytest.raises(UsageError, match="it holds a run"):
        train(settings)


def test_what_cannot_be_resumed_is_said(tmp_path: Path, capsys: Capture) -> None:
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 2
    assert "there is no last.ckpt" in capsys.readouterr().err
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    (tmp_path / "config.toml").write_text(TrainOptions("x", out=str(tmp_path)).to_toml())
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 2
    assert "it is damaged" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(tmp_path), "--lr", "0.5"]) == 2
    assert "with --lr 0.5: the run has 0.0001" in capsys.readouterr().err
    assert main(["train", "--resume", "-y", "--out", str(tmp_path)]) == 2


WRONG = {
    "progress of another type": lambda c: c["course"].update(step="x"),
    "a field of its own": lambda c: c["course"].update(nonsense=1),
    "negative": lambda c: c["course"].update(batch=-1),
    "NaN": lambda c: c["course"].update(loss=float("nan")),
    "infinite": lambda c: c["course"].update(lr=float("inf")),
    "an epoch of text": lambda c: c["course"]["rows"][0].update(miou="0.5"),
    "epochs in disorder": lambda c: c["course"]["rows"][0].update(epoch=7),
    "other classes": lambda c: c["course"]["rows"][0].update(ious=(0.5,)),
    "no randomness": lambda c: c.pop("random"),
    "randomness of text": lambda c: c["random"].update(cpu="x"),
    "randomness of a wrong size": lambda c: c["random"].update(cpu=torch.zeros(3).byte()),
    "no optimizer": lambda c: c.update(optimizer=None),
    "other settings": lambda c: c["optimizer"]["param_groups"][0].update(betas="x"),
    "NaN settings": lambda c: c["optimizer"]["param_groups"][0].update(eps=float("nan")),
    "other weights": lambda c: next(iter(c["optimizer"]["state"].values())).update(
        exp_avg=torch.zeros(7)
    ),
    "NaN weights": lambda c: next(iter(c["network"].values())).fill_(math.nan),
    "a memory of NaN": lambda c: next(iter(c["optimizer"]["state"].values()))["exp_avg"].fill_(
        math.nan
    ),
    "a count below 0": lambda c: next(iter(c["optimizer"]["state"].values()))["step"].fill_(-9),
    "far beyond its epochs": lambda c: c["course"].update(step=10**18),
    "an epoch far beyond": lambda c: [
        each.update(step=10**18) for each in (c["course"], c["course"]["rows"][-1])
    ],
    "more batches than an epoch has": lambda c: c["course"].update(
        batch=10**6, step=c["course"]["step"] + 10**6
    ),
    "more than all": lambda c: c["course"]["rows"][0].update(miou=1.5),
    "an epoch of no time": lambda c: c["course"]["rows"][0].update(seconds=math.nan),
    "a scaler of text": lambda c: c.update(scaler={"scale": "x"}),
    "a scaler of nothing": lambda c: c.update(scaler={"scale": 0.0}),
    "a scaler without end": lambda c: c.update(scaler={"scale": math.inf}),
    "no scaler": lambda c: c.update(scaler=None),
    "an average that it does not have": lambda c: c.update(average=5),
    "a list": lambda c: c["network"].update({next(iter(c["network"])): [1, 2]}),
}


@pytest.mark.slow
def test_a_state_that_somebody_has_changed_is_refused(
    finished: tuple[Result, Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[TrainingLoop] = []

    def ready(self: TrainingLoop) -> None:
        loops.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingLoop, "run", ready)
    options = from_values(TrainOptions, read_toml(finished[0].folder.config))
    with pytest.raises(KeyboardInterrupt):
        train(options, resume=True)
    last = tmp_path / "last.ckpt"
    shutil.copy(finished[0].folder.last, last)
    loops[0].restore(load_state(last))
    for name, change in WRONG.items():
        content = load_state(last)
        change(content)
        with pytest.raises(UsageError, match="cannot resume from") as caught:
            loops[0].restore(content)
        assert "\n" not in str(caught.value), name
    content = load_state(last)
    for spec in (5, "{}", None):
        with pytest.raises(UsageError, match="does not describe the network"):
            resumed({**content, "spec": spec}, loops[0].spec.labels, aux=False)
    torch.save([1], last)
    with pytest.raises(UsageError, match="not the state of a run"):
        load_state(last)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_that_finds_no_room_is_an_error_of_the_system(
    suffix: str, tmp_path: Path
) -> None:
    import resource

    spec, weights = ModelSpec("x", SMALLEST), {"a": torch.zeros(100_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"full|large|space|write"):
            save_checkpoint(tmp_path / f"best{suffix}", spec, weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_a_single_picture_per_batch_is_refused_where_it_cannot_be(
    robo: Path, tmp_path: Path
) -> None:
    settings = quick(robo, "deeplabv3_mobilenet_v3_large", tmp_path / "run", batch_size=1)
    with pytest.raises(UsageError, match="Use 2 or more"):
        train(replace(settings, weights="scratch"))
    assert not (tmp_path / "run").exists()


def test_training_falls_back_to_no_other_device(robo: Path, small: Path, tmp_path: Path) -> None:
    far = torch.cuda.device_count() + 1
    with pytest.raises(DeviceError, match="cuda"):
        train(quick(robo, small, tmp_path / "run", device=f"cuda:{far}"))
    with pytest.raises(UsageError, match="needs an NVIDIA GPU"):
        train(quick(robo, small, tmp_path / "run", precision="fp16"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("has", "precision"), [("bf16", "bf16"), ("fp16", "fp32"), ("", "fp32")])
def test_a_processor_trains_in_bf16_if_it_has_it(
    robo: Path, small: Path, tmp_path: Path, monkeypatch, has: str, precision: str
) -> None:
    monkeypatch.setattr(trainable, "native_precisions", lambda: frozenset({has}))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    settings = quick(robo, small, tmp_path / "run", precision="auto")
    assert trainable.open_fabric(settings)[1] == precision
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert trainable.open_fabric(settings)[1] == "fp32", "torch may have no quick way for it"


def test_a_processor_that_trains_beside_a_gpu_is_told_of(driver_alone: None) -> None:
    for asked, said in (("auto", f"the GPU is not used: torch {torch.__version__} "), ("cpu", "")):
        settings = TrainOptions("x", device=asked)
        told = trainable.unused_gpu(settings, trainable.open_fabric(settings)[0])
        assert told.startswith(said)
        assert bool(told) == bool(said)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_split_without_a_labelled_pixel_is_refused_before_it_starts(
    split: str, ignored: bool, small: Path, tmp_path: Path
) -> None:
    dataset = make_folder(tmp_path / "folder", count=4, splits=("train", "val"))
    for mask in (dataset / split / "masks").iterdir():
        cv2.imwrite(str(mask), np.full((48, 64), 2 if ignored else 255, np.uint8))
    classes = ("background=*", "disc", "ignore=box") if ignored else ()
    told = Told()
    with pytest.raises(DatasetError, match=f"no {split} image has a labelled pixel"):
        train(quick(dataset, small, tmp_path / "run", classes=classes), callback=told)
    assert told.steps == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("first", ["background", "sky"])
def test_pasting_whole_images_is_warned_about(first: str, tmp_path: Path) -> None:
    dataset = make_folder(tmp_path, count=8, splits=("train", "val"))
    (dataset / "classes.json").write_text(json.dumps([first, *NAMES[1:]]))
    for paste in (0.0, 0.5):
        told = Told()
        open_data(TrainOptions(str(dataset), paste=paste), told)
        assert ("--paste 0.5" in told.said("warning")) == (first == "sky" and paste > 0)


def test_weights_that_make_no_sense_cost_no_earlier_run(
    robo: Path, small: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.pth").write_bytes(b"hours of work")
    asked = quick(robo, small, run, class_weights="1,2")
    with pytest.raises(UsageError, match=r"run exists: it is not empty. Pass -y"):
        train(asked)
    with pytest.raises(UsageError, match="3 comma-separated numbers"):
        train(asked, overwrite=True)
    assert (run / "best.pth").read_bytes() == b"hours of work"


@pytest.mark.parametrize("how", ["folder", "file", "home", "teacher"])
def test_a_run_does_not_replace_what_it_starts_from(
    how: str, robo: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    best = Path(shutil.copy(small, run / "best.pth"))
    start = {"folder": run, "file": best, "home": "~/run", "teacher": small}[how]
    mix = tmp_path / "mix.toml"
    mix.write_text(f"[[set]]\npath = '{robo}'\n[[network]]\nmodel = '{best}'\n")
    with pytest.raises(UsageError, match="read by this run"):
        train(quick(mix if how == "teacher" else robo, start, run), overwrite=True)
    assert best.read_bytes() == small.read_bytes()


def test_a_run_that_was_broken_off_before_its_first_epoch_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim()
    folder.write_split({"train": (), "val": (), "test": ()}, "as given")
    folder.check_free(overwrite=False)
    folder.metrics.write_text("epoch")
    with pytest.raises(UsageError, match="Pass -y"):
        folder.check_free(overwrite=False)


@pytest.mark.slow
def test_the_command_line_says_how_it_goes_and_how_to_try_it(
    robo: Path, small: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--size", "64", "--epochs", "1", "--batch-size", "4", "-d", "cpu", "--workers", "0"]
    assert main(["train", "--data", str(robo), "-m", str(small), *flags]) == 0
    out, said = capsys.readouterr()
    assert out == ""
    for words in ("train 12, val 6, test 6", "new for 3 classes", "epoch    1: loss"):
        assert words in said
    assert "try      rtseg --camera 0 -m run/best.pth" in said
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["run"]
    assert main(["train", "--data", str(robo)]) == 2
    assert "Continue it with --resume" in capsys.readouterr().err
    assert main(["train", "--config", "run/config.toml", "--out", "again", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert equal(tmp_path / "run" / "best.pth", tmp_path / "again" / "best.pth")
    assert main(["train", "--resume", "--out", "again", "--epochs", "2"]) == 0
    assert "1 epoch; " not in capsys.readouterr().err
    assert len((tmp_path / "again" / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_bf16_and_class_weights_train_too(robo: Path, small: Path, tmp_path: Path) -> None:
    told = Told()
    settings = quick(
        robo, small, tmp_path / "run", max_steps=2, precision="bf16", class_weights="auto"
    )
    train(settings, callback=told)
    assert told.said("runs on") == "cpu, bf16 mixed"
    assert "disc" in told.said("weights")
    assert all(np.isfinite(told.losses))
    weights = state(tmp_path / "run" / "best.pth")
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_the_moving_average_is_what_is_kept(robo: Path, small: Path, tmp_path: Path) -> None:
    key = "backbone.0.0.weight"
    kept = {}
    for name, steps, ema in (("first", 1, None), ("last", 3, None), ("average", 3, 0.75)):
        settings = quick(robo, small, tmp_path / name, epochs=1, max_steps=steps, ema=ema)
        kept[name] = state(train(replace(settings, schedule="constant")).folder.best)[key]
    # it begins with the weights after the first step, and goes towards the last
    way = kept["last"] - kept["first"]
    gone = ((kept["average"] - kept["first"]) * way).sum() / way.square().sum()
    assert 0.7 < gone < 0.95  # decays are 2/11 and 3/12: 0.85 were both steps alike


def test_the_moving_average_follows_closely_at_first() -> None:
    update = moving_average(0.5)
    averages, values = [torch.zeros(1)], [torch.ones(1)]
    for count, expected in ((1, 2 / 11), (2, 3 / 12), (1000, 0.5)):
        averages[0].zero_()
        update(averages, values, torch.tensor(count))
        assert float(averages[0]) == pytest.approx(1 - expected)


def run_command(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rtseg", "train", *arguments]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def children(process: int) -> list[int]:
    """The processes that it started, on Linux."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "code", "workers_too"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False), (signal.SIGTERM, 143, True)],
)
def test_a_signal_to_the_process_group_saves_and_ends_the_run(
    number: signal.Signals, code: int, workers_too: bool, robo: Path, small: Path, tmp_path: Path
) -> None:
    flags = ["--size", "64", "--epochs", "500", "--workers", "2", "-d", "cpu", "--patience", "0"]
    with run_command("--data", str(robo), "-m", str(small), *flags, folder=tmp_path) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("epoch    2"):
                workers = children(process.pid) if workers_too else []  # as systemd sends it
                assert len(workers) == (4 if workers_too else 0)  # of training and of validation
                for worker in workers:
                    os.kill(worker, number)
                os.killpg(process.pid, number)
    assert process.returncode == code
    assert "resume   rtseg train --out run --resume\n" in lines
    assert not [line for line in lines if "Traceback" in line or "error" in line]
    folder = RunFolder(tmp_path / "run")
    assert read_checkpoint(folder.best)[0] is not None
    assert folder.curves.exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_devices_train_by_the_same_command(robo: Path, small: Path, tmp_path: Path) -> None:
    flags = ["--size", "64", "--epochs", "2", "--batch-size", "3", "-d", "cpu", "--devices", "2"]
    flags += ["--precision", "fp32"]
    with run_command("--data", str(robo), "-m", str(small), *flags, folder=tmp_path) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "cpu, fp32, 2 processes" in said
    assert "2 per epoch, 6 images per step" in said
    assert said.count("epoch    2: loss") == 1  # one process speaks
    assert (tmp_path / "run" / "test.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_deeplab_resnet50_trains_on_three_classes_of_coco_json(robo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--size", "97", "--epochs", "4", "--batch-size", "4", "--weights", "scratch"]
    arguments = ["train", "-m", "deeplabv3_resnet50", "--data", str(robo), "--out", str(out)]
    assert main([*arguments, *flags, "-d", "cpu"]) == 0
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["train_loss"]) < 0.95 * float(rows[0]["train_loss"])
    with rtseg.load(out / "best.pth", backend="torch", device="cpu") as segmenter:
        assert len(segmenter.labels) == 3
