"""What tests of training share: one thread, a small network to start from, quick settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rtseg.labels import LabelSet
from rtseg.nets.build import build_random
from rtseg.nets.state import save_checkpoint
from rtseg.training import TrainOptions
from rtseg.training.folder import Callback, Row
from rtseg.zoo import MODELS

SMALLEST = "lraspp_mobilenet_v3_large"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small lose more to waiting for one another's threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours: the smallest network, random but settled, for two other classes."""
    path = tmp_path_factory.mktemp("small") / "small.pth"
    labels = LabelSet(("nothing", "something"), ((0, 0, 0), (255, 0, 0)))
    network = build_random(SMALLEST, 2)
    save_checkpoint(
        path, replace(MODELS[SMALLEST], weights=None, labels=labels), network.state_dict()
    )
    return path


def quick(dataset: Path, model: Path | str, out: Path, **settings: Any) -> TrainOptions:
    """TrainOptions of a run that takes seconds."""
    usual: dict[str, Any] = {
        "size": (64, 64),
        "epochs": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "workers": 0,
        "device": "cpu",
        "precision": "fp32",  # whatever the processor has
    }
    return TrainOptions(str(dataset), model=str(model), out=str(out), **{**usual, **settings})


CHARTS = ("draw_curves", "draw_samples", "draw_matrix", "draw_preview")
"""Functions of `rtseg.training.program` that take longer than training a few steps."""


class Told(Callback):
    """Remembers what it was told; stops when `enough` says so."""

    def __init__(self, enough: Callable[[Told], bool] = lambda told: False) -> None:
        self.enough = enough
        self.notes: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self.steps = 0
        self.losses: list[float] = []
        self.left: list[float] = []
        self.rows: list[Row] = []

    def note(self, heading: str, text: str) -> None:
        self.notes.append((heading, text))

    def on_problem(self, text: str) -> None:
        self.problems.append(text)

    def on_step(self, epoch: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        self.steps += 1
        self.left.append(seconds_left)
        self.losses.append(loss)

    def on_epoch(self, row: Row) -> None:
        self.rows.append(row)

    def stop(self) -> bool:
        return self.enough(self)

    def said(self, heading: str) -> str:
        return "; ".join(text for h, text in self.notes if h == heading)
