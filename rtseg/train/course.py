"""How far a run has come: all that `--resume` needs besides the settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtseg.cache import atomic
from rtseg.errors import UsageError
from rtseg.train.folder import cannot_write
from rtseg.train.watch import Row


@dataclass
class Course:
    """Where a run stands.

    Attributes:
        step: optimizer steps since the beginning.
        batch: batches of the current epoch that are done.
        loss: sum of their losses.
        lr: learning rate of the last step.
        seconds: that the current epoch has taken so far.
        rows: one per finished epoch.
    """

    step: int = 0
    batch: int = 0
    loss: float = 0.0
    lr: float = 0.0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished epochs; the number, from 0, of the current one."""
        return len(self.rows)

    @property
    def best(self) -> Row | None:
        """The best epoch so far."""
        return next((row for row in reversed(self.rows) if row.best), None)

    @property
    def mean_loss(self) -> float:
        """Of the batches of the current epoch that are done."""
        return self.loss / max(1, self.batch)

    def add(self, loss: float, lr: float) -> None:
        """Count one step of the optimizer."""
        self.step, self.batch = self.step + 1, self.batch + 1
        self.loss, self.lr = self.loss + loss, lr

    def close_epoch(self, row: Row) -> None:
        """Add a finished epoch and begin the next."""
        self.rows.append(row)
        self.batch, self.loss, self.seconds = 0, 0.0, 0.0

    def to_plain(self) -> dict[str, Any]:
        """Numbers, lists and dicts only, which torch loads without running code."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Course:
        """What `to_plain` gave."""
        rows = [Row(**{**row, "ious": tuple(row["ious"])}) for row in values["rows"]]
        return cls(**{**values, "rows": rows})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: dict[str, Tensor], device: torch.device) -> None:
    """Put them back, those of another kind of device aside."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def save_course(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; raises SinkError."""
    try:
        with atomic(path) as temporary:
            torch.save(content, temporary)
    except OSError as error:
        raise cannot_write(path, error) from error
    except RuntimeError as error:  # of torch's own writer, which does not ask the system why
        words = f"the disk is full, it seems ({str(error).splitlines()[0]})"
        raise cannot_write(path, OSError(28, words)) from error


def load_course(path: Path) -> dict[str, Any]:
    """What `save_course` wrote, on the CPU.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UsageError(
            f"cannot resume from {path}", found=f"it is damaged ({type(error).__name__})"
        ) from error
    return content
