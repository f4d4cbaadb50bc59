"""Checkpoints of training: whole or not at all, and what is said where one cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rtseg.errors import SinkError
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
