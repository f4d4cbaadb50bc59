"""The verb `data`: what it counts, prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_folders import NAMES, draw, make_folder, write

from rtseg.cli.app import main


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "shapes", 10, splits=("train", "val"))


def test_classes_are_counted_by_split(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.json"
    assert main(["data", "--data", str(dataset), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    masks = {
        split: [
            cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            for file in sorted(dataset.rglob("*.png"))
            if "mask" in str(file) and split in file.parts
        ]
        for split in ("train", "val")
    }
    assert found["images"] == {**{split: len(each) for split, each in masks.items()}, "test": 0}
    everything = np.concatenate([mask.ravel() for each in masks.values() for mask in each])
    for index, one in enumerate(found["classes"]):
        assert one["name"] == NAMES[index]
        known = everything[everything != 255]
        assert one["share"] == pytest.approx((known == index).mean(), abs=1e-5)
        for split, each in masks.items():
            assert one["images"][split] == sum((mask == index).any() for mask in each)
    printed = capfd.readouterr()
    assert "of labelled pixels" in printed.out
    assert "split" in printed.err


@pytest.mark.slow
def test_augmented_views_are_drawn(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "sheet.png"
    flags = ["--imgsz", "64", "--paste", "0.5", "--sheet", str(path)]
    assert main(["data", "--data", str(dataset), *flags]) == 0
    sheet = cv2.imread(str(path))
    assert min(sheet.shape[:2]) > 300
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    assert main(["data", "--data", str(dataset), *flags]) == 2
    assert main(["data", "--data", str(dataset), *flags, "-y"]) == 0


def test_the_flags_of_a_training_are_read(dataset: Path, tmp_path: Path) -> None:
    """Those of `data` and those that only training has; the command line takes precedence."""
    config, path = tmp_path / "train.toml", tmp_path / "data.json"
    config.write_text(f'dataset = "{dataset}"\nsplit = "50/50"\nepochs = 3\nlr = 0.1\n')
    assert main(["data", "--config", str(config), "--json", str(path)]) == 0
    assert json.loads(path.read_text())["images"] == {"train": 8, "val": 7, "test": 0}
    flags = ["--split", "80/20", "--json", str(path), "-y"]
    assert main(["data", "--config", str(config), *flags]) == 0
    assert json.loads(path.read_text())["images"] == {"train": 12, "val": 3, "test": 0}


def test_faults_are_listed_and_end_it(dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mask = next(file for file in sorted(dataset.rglob("*.png")) if "mask" in str(file))
    cv2.imwrite(str(mask), np.zeros((3, 5), np.uint8))
    assert main(["data", "--data", str(dataset)]) != 0
    printed = capfd.readouterr().err
    assert mask.name in printed
    assert "problem" in printed


def test_a_dataset_has_to_be_given(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 2
    assert "rtseg data --data PATH" in capfd.readouterr().err


def test_a_mix_of_one_shape(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number, picture in enumerate(draw(6, (40, 60))):
        write(tmp_path / "one" / "images" / f"{number}.png", picture.image)
        write(tmp_path / "one" / "masks" / f"{number}.png", picture.mask)
    (tmp_path / "one" / "classes.json").write_text(json.dumps(list(NAMES)))
    (tmp_path / "mix.toml").write_text('[[set]]\npath = "one"\n')
    assert main(["data", "--data", str(tmp_path / "mix.toml")]) == 0
    assert "height 40 to 40, median 40, width 60 to 60" in capfd.readouterr().out
