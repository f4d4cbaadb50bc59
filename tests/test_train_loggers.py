"""Loggers beside metrics.csv: what they get, what is missing, and one that fails."""

# ruff: noqa: F811 - fixtures are imported
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_folders import make_roboflow
from training import CHARTS, Told, one_thread, quick, small  # noqa: F401 - autouse, and a fixture

from rtseg.errors import UsageError
from rtseg.images import read_image
from rtseg.training import program
from rtseg.training.folder import RunFolder
from rtseg.training.loggers import Loggers
from rtseg.training.options import LOGGERS, LoggerKind
from rtseg.training.program import train


class Fake:
    """Remembers what it gets, as both halves of a logger; fails in the epoch `fails`."""

    opened: list[Fake] = []  # noqa: RUF012
    fails = 0

    def __init__(self, folder: RunFolder, name: str, run: str) -> None:
        self.lightning, self.name, self.given = self, name, run
        self.run = run or "run 7"
        self.settings: dict[str, Any] = {}
        self.figures: dict[str, list[tuple[int, float]]] = {}
        self.images: list[tuple[str, str, int]] = []
        self.ended = False
        Fake.opened.append(self)

    def log_hyperparams(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def log_metrics(self, figures: dict[str, float], step: int) -> None:
        if figures.get("epoch/epoch") == Fake.fails:
            raise ConnectionError("no route to host")
        for name, value in figures.items():
            self.figures.setdefault(name, []).append((step, value))

    def image(self, name: str, path: Path, step: int) -> None:
        self.images.append((name, path.name, step))

    def close(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no charts, every step logged, and W&B replaced by `Fake`."""
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path / "cache"))
    for chart in CHARTS:
        monkeypatch.setattr(program, chart, lambda *arguments: None)
    monkeypatch.setattr(program, "LOGGED_STEPS", 1)
    monkeypatch.setitem(LOGGERS, "wandb", LoggerKind("test_train_loggers:Fake", "pytest"))
    monkeypatch.setattr(Fake, "opened", [])


@pytest.mark.slow
def test_a_logger_gets_steps_epochs_and_images_and_goes_on_with_its_run(
    small: Path, tmp_path: Path
) -> None:
    robo = make_roboflow(tmp_path / "robo", count=8)
    options = quick(robo, small, tmp_path / "run", logger=("wandb",))
    told = Told(enough=lambda told: told.steps == 3)  # in the middle of the second epoch
    stopped = train(options, callback=told, stop=told.stop)
    (first,) = Fake.opened
    assert first.settings["lr"] == 1e-3
    assert first.name == "lraspp_mobilenet_v3_large-robo"
    assert [step for step, _ in first.figures["step/loss"]] == [1, 2, 3]
    (row,) = stopped.rows
    assert first.figures["epoch/miou"] == [(2, row.miou)]
    assert first.figures["epoch/iou disc"] == [(2, row.ious[1])]
    assert first.images == [("confusion", "confusion.png", 2), ("preview", "preview.png", 2)]
    assert (first.given, first.ended) == ("", True)

    told = Told()
    Fake.fails = 2
    resumed = train(options, callback=told, resume=True)
    second = Fake.opened[1]
    assert second.given == "run 7"
    assert len(resumed.rows) == 2, "a service that is away ends no training"
    assert "--logger wandb failed" in told.said("warning")
    assert "no route to host" in told.said("warning")
    assert not second.ended, "it gets no more"


def test_a_logger_that_is_not_installed_is_named_with_the_command(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGERS, "mlflow", LoggerKind("none:None", "no_such_package"))
    with pytest.raises(UsageError, match="needs the package no_such_package") as failure:
        train(quick(tmp_path, small, tmp_path / "run", logger=("mlflow",)))
    assert "pip install no_such_package" in failure.value.do
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="choices are tensorboard, wandb, mlflow"):
        quick(tmp_path, small, tmp_path / "run", logger=("comet",))


def test_tensorboard_gets_figures_and_images(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = Path(__file__).parents[1] / "docs" / "pictures"
    png = next(path for path in sorted(picture.rglob("*.png")))
    folder = RunFolder(tmp_path / "run")
    warned: list[str] = []
    for resumed in (False, True):
        loggers = Loggers(
            ("tensorboard",), folder, "net", {"lr": 0.1}, resumed=resumed, warn=warned.append
        )
        loggers.log({"epoch/iou caf\u00e9 (big)": 0.5, "none": float("nan")}, 3 + resumed)
        loggers.image("preview", png, 3)
        loggers.close()
    assert warned == []
    found = EventAccumulator(str(folder.tensorboard)).Reload()
    (tag,) = (name for name in found.Tags()["scalars"] if name.startswith("epoch"))
    assert [(event.step, event.value) for event in found.Scalars(tag)] == [(3, 0.5), (4, 0.5)]
    height, width = read_image(png, UsageError).shape[:2]
    image = found.Images("preview")[0]
    assert (image.height, image.width) == (height, width)
    assert json.loads(folder.loggers.read_text()) == {"tensorboard": ""}
    folder.claim()
    assert not any(folder.tensorboard.iterdir()), "another run's would be mixed with them"
