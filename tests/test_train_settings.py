"""TrainOptions of training: their bounds, their TOML, and the flags that set them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rtseg.cli.app import main
from rtseg.cli.flags import flags_of
from rtseg.cli.options import TRAIN, TrainRun
from rtseg.cli.train import options_of
from rtseg.documents import read_toml
from rtseg.errors import UsageError
from rtseg.options import from_values
from rtseg.training import TrainOptions

Capture = pytest.CaptureFixture[str]


def test_settings_come_back_from_their_toml(tmp_path: Path) -> None:
    asked = TrainOptions(
        'a "quoted" näme', classes=("person=*", "ignore=sky"), lr=0.25, size=(96, 160), ema=0.9
    )
    (tmp_path / "config.toml").write_text(asked.to_toml(), "utf-8")
    assert from_values(TrainOptions, read_toml(tmp_path / "config.toml")) == asked


@pytest.mark.parametrize("palette", ["colours.txt", "VOC", "random:3", "names"])
def test_what_a_run_reads_again_when_it_goes_on_has_its_whole_path(
    palette: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("colours.txt", "VOC"):
        (tmp_path / name).write_text("0 0 0\n255 0 0\n")
    options = options_of({"dataset": "set", "palette": palette}, TrainRun())
    assert Path(options.dataset) == tmp_path / "set"
    whole = str(tmp_path / palette) if palette == "colours.txt" else palette
    assert options.palette == whole


@pytest.mark.parametrize(
    ("line", "words"),
    [("", "run exists"), ("overwrite = true", "no such file"), ("resume = true", "--resume with")],
)
def test_flags_of_the_run_count_in_a_file_too(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    (tmp_path / "c.toml").write_text(f'dataset = "none"\nout = "run"\n{line}\n')
    assert main(["train", "--config", "c.toml"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_toml_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    text = TrainOptions("näme", epochs=3).to_toml().replace("\n", "\r\n")
    (tmp_path / "config.toml").write_bytes(text.encode(encoding))
    assert read_toml(tmp_path / "config.toml")["dataset"] == "näme"


def test_the_toml_has_the_learning_rate_that_was_meant(tmp_path: Path) -> None:
    for optimizer, rate in (("adam", 1e-4), ("adamw", 1e-4), ("sgd", 1e-3)):
        (tmp_path / "config.toml").write_text(TrainOptions("x", optimizer=optimizer).to_toml())
        assert read_toml(tmp_path / "config.toml")["lr"] == rate


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"lr": 0.0}, "--lr 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"flip": 1.5}, "--flip 1.5"),
        ({"size": (16, 512)}, "--size 16x512"),
        ({"size": [64]}, "--size"),
        ({"scale": (2.0, 0.5)}, "--scale 2,0.5"),
        ({"optimizer": "lion"}, "--optimizer 'lion' is not valid: it is one of adam, adamw, sgd"),
        ({"monitor": "iou"}, "--monitor iou"),
        ({"epochs": 1.5}, "--epochs 1.5"),
        ({"epochs": True}, "--epochs True"),
        ({"nonsense": 1}, "unknown setting 'nonsense'"),
        ({"dataset": ""}, "no dataset given"),
        ({"split": "80/10"}, "--split 80/10"),
        ({"split": "80/30/-10"}, "--split 80/30/-10"),
        ({"split": "100/0/0"}, "--split 100/0/0"),
        ({"split": "a/b"}, "--split a/b"),
        ({"split": "nan/1"}, "--split nan/1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        from_values(TrainOptions, {"dataset": "x", **values})


@pytest.mark.parametrize(
    ("split", "shares"),
    [
        ("", None),
        ("80/10/10", (0.8, 0.1, 0.1)),
        ("90/10", (0.9, 0.1, 0.0)),
        ("0.7/0.2/0.1", (0.7, 0.2, 0.1)),
    ],
)
def test_split_is_shares_of_train_val_and_test(
    split: str, shares: tuple[float, float, float] | None
) -> None:
    assert TrainOptions("x", split=split).shares == (shares and pytest.approx(shares))


def test_every_option_is_a_flag() -> None:
    flags = {one.name for one in flags_of(TRAIN)}
    assert flags >= {field.name for field in fields(TrainOptions)}


def test_train_without_a_dataset_says_what_to_give(capsys: Capture) -> None:
    assert main(["train"]) == 2
    assert "Try rtseg train --data PATH" in capsys.readouterr().err


def test_a_size_that_cannot_be_read_is_named(capsys: Capture) -> None:
    assert main(["train", "--data", "x", "--size", "big"]) == 2
    assert "--size 'big' is not valid" in capsys.readouterr().err
    assert main(["train", "--data", "x", "--scale", "1"]) == 2
    assert "--scale '1' is not valid" in capsys.readouterr().err


def test_a_size_between_multiples_of_16_is_refused() -> None:
    assert TrainOptions(dataset="x").size == (512, 512)
    assert TrainOptions(dataset="x", size=(513, 257)).size == (513, 257)
    for size, near in (((500, 500), "496x496"), ((512, 513), "512x512"), ((40, 33), "32x32")):
        with pytest.raises(UsageError, match="multiples of 16") as caught:
            TrainOptions(dataset="x", size=size)
        assert near in caught.value.do


def test_without_lightning_the_message_gives_the_pip_command(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "lightning", None)
    assert main(["train", "--data", "x"]) == 2
    said = capsys.readouterr().err
    assert "lightning cannot be found" in said
    assert 'python -m pip install "rtseg[train]"' in said
