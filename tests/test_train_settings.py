"""Settings of training: their bounds, their TOML, and the flags that set them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from rtseg.cli import train_flags
from rtseg.cli.app import main
from rtseg.errors import UsageError
from rtseg.train import Settings
from rtseg.train.settings import read_toml

Capture = pytest.CaptureFixture[str]


def test_settings_come_back_from_their_toml(tmp_path: Path) -> None:
    asked = Settings(
        'a "quoted" näme', classes=("person=*", "ignore=sky"), lr=0.25, size=(96, 160), ema=0.9
    )
    (tmp_path / "config.toml").write_text(asked.to_toml(), "utf-8")
    assert Settings.of(read_toml(tmp_path / "config.toml")) == asked


def test_the_toml_has_the_learning_rate_that_was_meant(tmp_path: Path) -> None:
    for optimizer, rate in (("adam", 1e-4), ("adamw", 1e-4), ("sgd", 1e-3)):
        (tmp_path / "config.toml").write_text(Settings("x", optimizer=optimizer).to_toml())
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
        ({"optimizer": "lion"}, "--optimizer lion: there are adam, adamw, sgd"),
        ({"epochs": 1.5}, "--epochs 1.5"),
        ({"epochs": True}, "--epochs True"),
        ({"nonsense": 1}, "unknown setting 'nonsense'"),
        ({"dataset": ""}, "no dataset given"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        Settings.of({"dataset": "x", **values})


def test_every_setting_has_a_flag_and_its_help_names_the_default() -> None:
    groups = [type_ for type_ in vars(train_flags).values() if type_ in _groups()]
    texts = {}
    for group in groups:
        for name, hint in get_type_hints(group, include_extras=True).items():
            texts[name] = next(filter(None, (p.help for p in get_args(hint)[1:])))
    assert set(texts) == {field.name for field in fields(Settings)} | train_flags.NO_SETTINGS
    for field in fields(Settings):
        if isinstance(field.default, (int, float)):
            number = re.escape(f"{field.default:g}")
            assert re.search(rf"[Dd]efault {number}\b", texts[field.name]), field.name
        elif isinstance(field.default, str):
            assert field.default in texts[field.name], field.name


def _groups() -> tuple[type, ...]:
    return tuple(get_type_hints(train_flags.TrainFlags).values())


def test_train_without_a_dataset_says_what_to_give(capsys: Capture) -> None:
    assert main(["train"]) == 2
    assert "Try rtseg train --data PATH" in capsys.readouterr().err


def test_a_size_that_cannot_be_read_is_named(capsys: Capture) -> None:
    assert main(["train", "--data", "x", "--size", "big"]) == 2
    assert "--size 'big' cannot be read" in capsys.readouterr().err
    assert main(["train", "--data", "x", "--scale", "1"]) == 2
    assert "--scale '1' cannot be read" in capsys.readouterr().err


def test_without_lightning_the_message_gives_the_pip_command(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "lightning", None)
    assert main(["train", "--data", "x"]) == 2
    said = capsys.readouterr().err
    assert "lightning cannot be found" in said
    assert 'python -m pip install "rtseg[train]"' in said
