"""The training loop: epochs, the best checkpoint, the saved state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtseg.documents import convert
from rtseg.errors import DatasetError, UsageError, first_line
from rtseg.files import cannot_write
from rtseg.nets.state import check_archive, save_archive, save_checkpoint
from rtseg.training.batches import Loader, Shuffled, batches, close, mixed_seed
from rtseg.training.folder import Callback, Row, RunFolder
from rtseg.training.options import TrainOptions
from rtseg.training.trainable import Figures, Trainable, schedule
from rtseg.zoo import ModelSpec


@dataclass
class TrainingState:
    """How far a run has come.

    Attributes:
        step: optimizer steps since the beginning.
        batch: finished batches of the current epoch.
        loss: sum of their losses.
        lr: learning rate of the last step.
        seconds: duration of the current epoch so far.
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
        """Number of finished epochs, which is the index of the current one."""
        return len(self.rows)

    @property
    def best(self) -> Row | None:
        """The best epoch so far."""
        return next((row for row in reversed(self.rows) if row.best), None)

    @property
    def mean_loss(self) -> float:
        """Mean over the finished batches of the current epoch."""
        return self.loss / max(1, self.batch)

    def add(self, loss: float, lr: float) -> None:
        """Count one step of the optimizer."""
        self.step, self.batch = self.step + 1, self.batch + 1
        self.loss, self.lr = self.loss + loss, lr

    def close_epoch(self, row: Row) -> None:
        """Add a finished epoch and start the next."""
        self.rows.append(row)
        self.batch, self.loss, self.seconds = 0, 0.0, 0.0

    def to_plain(self) -> dict[str, Any]:
        """Only numbers, lists and dicts, which torch loads without running code."""
        return asdict(self)

    def check(self, classes: int, per_epoch: int) -> None:
        """Raise ValueError unless a run with `classes` classes can have come this far.

        Args:
            per_epoch: steps of a whole epoch; one that `max_steps` ended has fewer.
        """
        if min(self.step, self.batch, self.lr, self.seconds) < 0 or self.step < self.batch:
            raise ValueError("its progress is negative")
        if not all(map(math.isfinite, (self.loss, self.lr, self.seconds))):
            raise ValueError("its loss, rate or time is not a number")
        if [row.epoch for row in self.rows] != [*range(1, self.epoch + 1)]:
            raise ValueError("its epochs are not numbered from 1")
        if any(len(row.ious) != classes for row in self.rows):
            raise ValueError(f"its epochs are not of {classes} classes")
        ends = [0, *(row.step for row in self.rows)]
        whole = all(0 < end - begin <= per_epoch for begin, end in pairwise(ends))
        if not whole or self.step != ends[-1] + self.batch or self.batch > per_epoch:
            raise ValueError(f"its step {self.step} is not one of epochs of {per_epoch} steps")
        for row in self.rows:
            row.check()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's random generators."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore them; a state of another kind of device is ignored."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; raises SinkError."""
    try:
        save_archive(path, content)
    except OSError as error:
        raise cannot_write(path, error) from error


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU.

    Raises:
        UsageError: it cannot be read.
    """
    check_archive(path)
    asked = f"cannot resume from {path}"
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise UsageError(asked, found=f"it is damaged ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise UsageError(asked, found="it is not the state of a run")
    return content


Stop = Callable[[], bool]


@dataclass(frozen=True)
class Loaders:
    """The data loaders of a run.

    Attributes:
        order: the order of `train`; the loop sets its epoch.
    """

    train: Loader
    order: Shuffled
    val: Loader

    def close(self) -> None:
        """End their workers."""
        close(self.train)
        close(self.val)


class Course:
    """Is called during a run, in the main process; does nothing."""

    def on_step(self, step: int, loss: float, learning_rate: float) -> None:
        """The optimizer has taken a step; they count from 1."""

    def on_epoch(self, rows: Sequence[Row], figures: Figures) -> None:
        """An epoch has been validated, the last of `rows`, with these figures."""


def total_steps(options: TrainOptions, per_epoch: int) -> int:
    """Optimizer steps of a whole run."""
    planned = options.epochs * per_epoch
    return planned if options.max_steps is None else min(planned, options.max_steps)


class TrainingLoop:
    """Trains until the epochs, the steps or the patience are used up, or until it is stopped.

    Everything random in an epoch depends only on the seed and the epoch, and the learning rate on
    the step: an interrupted run continues exactly as it would have.

    Args:
        spec: of the finished model; each best checkpoint adds its mean IoU.
        stop: polled at every step; if it returns True, the state is saved and `run` returns.
        course: draws and logs.
    """

    def __init__(
        self,
        trainable: Trainable,
        spec: ModelSpec,
        loaders: Loaders,
        options: TrainOptions,
        folder: RunFolder,
        callback: Callback,
        stop: Stop,
        course: Course,
    ) -> None:
        self.trainable, self.spec, self.loaders = trainable, spec, loaders
        self.options, self.folder, self.callback, self._stop = options, folder, callback, stop
        self._course, self._since, self._saved = course, 0.0, 0.0
        self.state = TrainingState()
        self.steps = total_steps(options, len(loaders.order))
        self._rate = schedule(options.schedule, self.steps, options.warmup)
        self._random: dict[str, Tensor] | None = None

    @property
    def early(self) -> bool:
        """Whether the patience is used up."""
        best, patience = self.state.best, self.options.patience
        return bool(patience and best and self.state.epoch - best.epoch >= patience)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        state = self.state
        if state.batch:  # a started epoch is always validated
            return False
        spent = state.epoch >= self.options.epochs or state.step >= self.steps
        return spent or self.early

    def run(self) -> bool:
        """Train; returns False if it was stopped.

        Raises:
            BackendError: the loss is no longer a number.
            DatasetError: an image cannot be read, or none has a labelled pixel.
            SinkError: the folder cannot be written.
        """
        while not self.done:
            finished = self._train() and self._validate()
            self._save()
            if not finished:
                return False
        return True

    def _train(self) -> bool:
        """Train the rest of the epoch; False if stopped."""
        state, order = self.state, self.loaders.order
        order.epoch, order.first = state.epoch, state.batch
        self._seed()
        if state.batch >= len(order) or state.step >= self.steps:
            return True
        self.trainable.train_mode(frozen=state.epoch < self.options.freeze)
        with self._timed():
            for batch in batches(self.loaders.train):
                rate = self.options.learning_rate * self._rate(state.step)
                state.add(loss := self.trainable.step(batch, rate), rate)
                if self.trainable.fabric.is_global_zero:
                    self._course.on_step(state.step, loss, rate)
                left = self._seconds_left()
                self.callback.on_step(
                    state.epoch + 1, state.batch, len(order), state.mean_loss, left
                )
                if self.trainable.any_stopped(self._stop):
                    return False
                self._save_now_and_then()
                if state.step >= self.steps:
                    break
        return True

    def _validate(self) -> bool:
        """Validate, save the best checkpoint, close the epoch; False if stopped."""
        with self._timed():
            figures = self.trainable.measure(self.loaders.val, self._stop)
        if figures is None:
            return False
        if not math.isfinite(figures.loss):
            raise DatasetError("the validation images have no labelled pixel")
        row = self._row(figures)
        self.state.close_epoch(row)
        if self.trainable.fabric.is_global_zero:
            if row.best:
                self._save_best(row)
            self.folder.write_metrics(self.state.rows, self.spec.labels.names)
            self._course.on_epoch(self.state.rows, figures)
        self.callback.on_epoch(row)
        return True

    def _row(self, figures: Figures) -> Row:
        state, matrix = self.state, figures.matrix
        row = Row(
            epoch=state.epoch + 1,
            step=state.step,
            lr=state.lr,
            train_loss=self.trainable.mean(state.mean_loss),
            val_loss=figures.loss,
            miou=matrix.mean_iou,
            mean_accuracy=matrix.mean_accuracy,
            pixel_accuracy=matrix.pixel_accuracy,
            ious=tuple(float(iou) for iou in matrix.class_iou),
            seconds=round(state.seconds, 3),
            best=False,
        )
        best, by = self.state.best, (self.options.monitor, self.spec.labels.names)
        return replace(row, best=best is None or row.gain(*by) > best.gain(*by))

    def _save_best(self, row: Row) -> None:
        spec = replace(self.spec, miou=round(100 * row.miou, 2))
        try:
            save_checkpoint(self.folder.best, spec, self.trainable.weights())
        except OSError as error:
            raise cannot_write(self.folder.best, error) from error

    def _seed(self) -> None:
        """Seed the epoch's random numbers, or restore those of an interrupted run."""
        fabric = self.trainable.fabric
        if self._random is not None and self.state.batch:
            restore_random(self._random, fabric.device)
        else:
            torch.manual_seed(mixed_seed(self.options.seed, self.state.epoch, fabric.global_rank))
        self._random = None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._since = (now := time.perf_counter()) - self.state.seconds
        self._saved = now
        yield
        self.state.seconds = time.perf_counter() - self._since

    def _seconds_left(self) -> float:
        """Until the last epoch ends, from the last three epochs; before the second, from the
        steps so far.
        """
        state, per_epoch = self.state, len(self.loaders.order)
        spent = time.perf_counter() - self._since
        if not state.rows:
            return spent / state.batch * (self.steps - state.step)
        last = [row.seconds for row in state.rows[-3:]]
        usual = sum(last) / len(last)
        epochs = (self.steps - state.step + state.batch) / per_epoch
        return max(0.0, usual * epochs - min(spent, usual))

    def _save_now_and_then(self) -> None:
        """Save within the epoch, if the last time is long enough ago."""
        now = time.perf_counter()
        if 0 < 60 * self.options.save_every <= now - self._saved:
            self.state.seconds = now - self._since
            self._save()
            self._saved = time.perf_counter()

    def _save(self) -> None:
        """Write everything that `restore` needs, in the main process."""
        fabric = self.trainable.fabric
        if fabric.is_global_zero:
            plain = {"spec": self.spec.to_json(), "course": self.state.to_plain()}
            states = {"random": random_state(fabric.device), **self.trainable.state()}
            save_state(self.folder.last, plain | states)

    def restore(self, content: dict[str, Any]) -> None:
        """Continue from the saved state of an earlier run.

        Args:
            content: of its `last.ckpt`, as `load_state` returns it.

        Raises:
            UsageError: it belongs to another run.
        """
        try:
            self.state = convert(content["course"], TrainingState, "its progress")
            self.state.check(len(self.spec.labels), len(self.loaders.order))
            restore_random(content["random"], self.trainable.fabric.device)
            self._random = content["random"]
            self.trainable.load(content, self.state.step)
        except Exception as error:  # torch raises many types for what a person has put together
            raise UsageError(
                f"cannot resume from {self.folder.last}",
                found=f"it belongs to another run ({first_line(error)})",
            ) from error
