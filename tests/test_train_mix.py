"""Several datasets as one to train on: classes, names, splits, shares."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from training import one_thread, quick, small  # noqa: F401 - autouse, and a fixture

from rtseg.datasets import Sample
from rtseg.datasets.split import describe_split, split_dataset
from rtseg.errors import DatasetError, UsageError
from rtseg.evaluation.sets import open_mix
from rtseg.labels import VOID
from rtseg.training import TrainOptions
from rtseg.training.batches import Shuffled
from rtseg.training.folder import Callback
from rtseg.training.prepare import open_data
from rtseg.training.program import train

SIDE = 40


def folder(root: Path, names: list[str], counts: dict[str, int], value: int = 1) -> Path:
    """Images by split, one half of each of class `value`, the other of class 0."""
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng((count, number, value))
            image = noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, SIDE // 2 :] = value
            cv2.imwrite(str(root / "images" / split / f"{split}{number}.png"), image)
            cv2.imwrite(str(root / "masks" / split / f"{split}{number}.png"), mask)
    (root / "classes.json").write_text(json.dumps(names))
    return root


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two sets with other classes, in which a person is 1 and 2."""
    folder(tmp_path / "first", ["background", "person", "dog"], {"train": 4, "val": 2})
    folder(tmp_path / "second", ["background", "hat", "human"], {"train": 6, "val": 2}, value=2)
    path = tmp_path / "people.toml"
    path.write_text(
        '[[set]]\npath = "first"\nclasses = ["background=*", "person"]\n'
        '[[set]]\npath = "second"\nclasses = ["background=*", "person=human"]\nshare = 0.75\n'
    )
    return path


def test_labels_of_a_set_are_moved(suite: Path) -> None:
    moved = suite.read_text().replace('path = "first"', 'path = "first"\nmove = [-2, 0]')
    suite.write_text(moved)
    for sample in open_mix(suite).samples:
        edge = SIDE // 2 - 2 * sample.name.startswith("first/")
        mask = sample.read_mask()
        assert (mask[:, :edge] == 0).all()
        assert (mask[:, edge : SIDE // 2] == 1).all()
        assert (mask[:, -2:] == (VOID if sample.name.startswith("first/") else 1)).all()


def test_sets_become_one_in_the_classes_that_are_trained(suite: Path) -> None:
    mix = open_mix(suite)
    assert mix.labels.names == ("background", "person")
    assert [s.name for s in mix.samples].count("first/train0") == 1
    assert sorted({s.name.partition("/")[0] for s in mix.samples}) == ["first", "second"]
    assert len(mix) == 14
    assert mix.splits == ("train", "val")
    for sample in mix.samples:
        mask = sample.read_mask()
        assert (mask[:, : SIDE // 2] == 0).all()
        assert (mask[:, SIDE // 2 :] == 1).all()


def trained(suite: Path) -> list[Sample]:
    options = TrainOptions(dataset=str(suite))
    return list(open_data(options, Callback()).split["train"])


def test_a_set_has_its_share_of_what_training_sees(suite: Path) -> None:
    train_split = trained(suite)
    order = Shuffled([s.weight for s in train_split], 8, seed=0, rank=0, world=1)
    seen: list[Sample] = []
    for order.epoch in range(200):
        seen += [train_split[index] for batch in order for index, _ in batch]
    share = np.mean([s.name.startswith("second") for s in seen])
    assert share == pytest.approx(0.75, abs=0.03)
    counts = [sum(s is one for s in seen) for one in train_split]
    assert min(counts[:4]) > 0.8 * max(counts[:4])
    assert min(counts[4:]) > 0.8 * max(counts[4:])


def test_images_to_measure_on_take_nothing_of_a_sets_share(suite: Path) -> None:
    names = ["background", "person"]
    folder(suite.parent / "a", names, {"train": 4, "val": 12})
    folder(suite.parent / "b", names, {"train": 2, "val": 1})
    for shares in ((0.5, 0.5), (0.5, 0)):
        sets = (f'[[set]]\npath = "{n}"\nshare = {s}\n' for n, s in zip("ab", shares, strict=True))
        suite.write_text("".join(sets))
        weights = [sample.weight for sample in trained(suite)]
        assert sum(weights[:4]) == pytest.approx(sum(weights[4:]))


def test_shares_that_leave_nothing_for_other_images_are_refused(suite: Path) -> None:
    suite.write_text(suite.read_text().replace("0.75", "1"))
    with pytest.raises(UsageError, match="4 images"):
        trained(suite)
    suite.write_text(suite.read_text().replace('"first"', '"first"\nsplit = "val"'))
    assert {sample.set_name for sample in trained(suite)} == {"second"}


def test_shares_may_sum_to_all(suite: Path) -> None:
    """0.33 + 0.56 + 0.11 is more than 1 in floating point."""
    shares = {"a": 0.33, "b": 0.56, "c": 0.11}
    sets = (
        f'[[set]]\npath = "first"\nname = "{n}"\nshare = {s}\nclasses = ["person"]\n'
        for n, s in shares.items()
    )
    suite.write_text("".join(sets))
    samples = trained(suite)
    for name, share in shares.items():
        assert sum(s.weight for s in samples if s.name.startswith(name)) == pytest.approx(share)


def test_a_set_takes_one_split_and_leaves_images_out(suite: Path) -> None:
    (suite.parent / "out.txt").write_text("train1\ntrain3\n")
    suite.write_text(
        '[[set]]\npath = "first"\nsplit = "train"\nwithout = "out.txt"\nclasses = ["person"]\n'
    )
    assert [s.name for s in open_mix(suite).samples] == ["first/train0", "first/train2"]


def test_a_set_without_splits_is_dealt_beside_one_that_has_some(suite: Path) -> None:
    folder(suite.parent / "third", ["background", "person"], {"": 10})
    suite.write_text(suite.read_text() + '[[set]]\npath = "third"\n')
    mix = open_mix(suite)
    split = split_dataset(mix, seed=0)
    names = {part: [sample.name for sample in samples] for part, samples in split.items()}
    assert sum(map(len, names.values())) == len(mix) == 24
    for part, count in {"train": 8, "val": 1, "test": 1}.items():
        assert sum(name.startswith("third/") for name in names[part]) == count
    assert sum(name.startswith(("first/", "second/")) for name in names["train"]) == 10
    assert "10 images of sets without any: 80/10/10" in describe_split(mix, seed=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[set]]\npath = "first"\n[[set]]\npath = "second"\n', "differ in their classes"),
        ('[[set]]\npath = "first"\n[[set]]\npath = "first"\n', "two sets"),
        ('[[set]]\npath = "first"\nshare = 1.5\n', "shares must be from 0 to 1"),
        (
            '[[set]]\npath = "first"\nname = "a"\nshare = 0.6\n'
            '[[set]]\npath = "first"\nname = "b"\nshare = 0.6\n',
            "sum to 1.2",
        ),
        ('[[set]]\npath = "first"\nmin_share = { person = 0.1 }\n', "for evaluation only"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(suite: Path, text: str, words: str) -> None:
    suite.write_text(text)
    with pytest.raises(UsageError, match=words):
        open_mix(suite)


def test_the_layout_of_a_mix_is_that_of_its_sets(suite: Path) -> None:
    with pytest.raises(UsageError, match="--format voc"):
        open_data(TrainOptions(dataset=str(suite), format="voc"), Callback())
    suite.write_text(suite.read_text().replace('"first"', '"first"\nformat = "folder"'))
    assert len(trained(suite)) == 10


def test_a_set_that_is_not_there_is_named(suite: Path) -> None:
    suite.write_text('[[set]]\npath = "third"\n')
    with pytest.raises(DatasetError, match="third"):
        open_mix(suite)


@pytest.mark.slow
def test_a_mix_is_trained(suite: Path, small: Path, tmp_path: Path) -> None:  # noqa: F811
    result = train(quick(suite, small, tmp_path / "run", max_steps=2, split="60/40"))
    assert result.best is not None
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    names = [*split["train"], *split["val"]]
    assert sorted(names) == sorted(sample.name for sample in open_mix(suite).samples)
