"""Checkpoints of training: whole or not at all, and what is said where one cannot be written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rtseg.errors import SinkError
from rtseg.training.folder import Row
from rtseg.training.loop import load_state, save_state


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path / "last.ckpt", {"step": 3, "weights": torch.arange(4)})
    back = load_state(tmp_path / "last.ckpt")
    assert back["step"] == 3
    assert back["weights"].tolist() == [0, 1, 2, 3]


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: dict[str, Any], path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 9 vs 5\nC++")

    save_state(tmp_path / "last.ckpt", {"step": 3})
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SinkError, match=r"cannot write .*last.ckpt: the disk is probably full"):
        save_state(tmp_path / "last.ckpt", {"step": 4})
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert load_state(tmp_path / "last.ckpt")["step"] == 3


def test_an_epoch_without_the_monitored_figure_is_the_worst() -> None:
    row = Row(1, 9, 0.1, 2.0, 1.0, 0.5, 0.6, 0.7, (0.8, math.nan), 3.0, best=False)
    names = ("thing", "speck")
    assert replace(row, ious=(0.8, 0.0)).gain("iou:speck", names) > row.gain("iou:speck", names)
    assert row.gain("iou:thing", names) == 0.8
    assert row.gain("miou", names) == 0.5
    assert row.gain("loss", names) > replace(row, val_loss=1.1).gain("loss", names)
