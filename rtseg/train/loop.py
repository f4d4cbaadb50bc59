"""The training loop: epochs, the best network kept, the last state saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtseg.errors import DatasetError, UsageError, first_line
from rtseg.files import atomic, cannot_write
from rtseg.nets.state import save_checkpoint
from rtseg.train.batches import Loader, Shuffled, batches, mixed
from rtseg.train.folder import Row, RunFolder, Watch
from rtseg.train.learner import Figures, Learner, schedule
from rtseg.train.settings import Settings
from rtseg.zoo import ModelSpec


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


Stop = Callable[[], bool]


@dataclass(frozen=True)
class Reading:
    """The pictures of a run.

    Attributes:
        train, val: batches.
        order: the order of `train`; the loop sets its epoch.
    """

    train: Loader
    order: Shuffled
    val: Loader


def total_steps(settings: Settings, per_epoch: int) -> int:
    """Optimizer steps of a whole run."""
    planned = settings.epochs * per_epoch
    return planned if settings.max_steps is None else min(planned, settings.max_steps)


class Loop:
    """Trains until the epochs, the steps, the patience or somebody's wish end it.

    Everything random in an epoch follows from the seed and the epoch's number, and the learning
    rate from the step's: a run that was interrupted goes on exactly as it would have.

    Args:
        spec: of the finished network; each best checkpoint adds its mean IoU.
        stop: asked at every step; the state is saved, and `run` returns.
    """

    def __init__(
        self,
        learner: Learner,
        spec: ModelSpec,
        reading: Reading,
        settings: Settings,
        folder: RunFolder,
        watch: Watch,
        stop: Stop,
    ) -> None:
        self.learner, self.spec, self.reading = learner, spec, reading
        self.settings, self.folder, self.watch, self._stop = settings, folder, watch, stop
        self.course = Course()
        self.steps = total_steps(settings, len(reading.order))
        self._rate = schedule(settings.schedule, self.steps)
        self._random: dict[str, Tensor] | None = None

    @property
    def early(self) -> bool:
        """Whether it has run out of patience."""
        best, patience = self.course.best, self.settings.patience
        return bool(patience and best and self.course.epoch - best.epoch >= patience)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        course = self.course
        if course.batch:  # an epoch that was begun is measured, whatever comes after it
            return False
        spent = course.epoch >= self.settings.epochs or course.step >= self.steps
        return spent or self.early

    def run(self) -> bool:
        """Train; returns whether it came to its own end, and was not stopped.

        Raises:
            BackendError: the loss is no longer a number.
            DatasetError: a picture cannot be read, or none has a labelled pixel.
            SinkError: the folder cannot be written.
        """
        while not self.done:
            finished = self._train() and self._validate()
            self._save()
            if not finished:
                return False
        return True

    def _train(self) -> bool:
        """The rest of the epoch; False when somebody asked for the end."""
        course, order = self.course, self.reading.order
        order.epoch, order.first = course.epoch, course.batch
        self._seed()
        if course.batch >= len(order) or course.step >= self.steps:
            return True
        self.learner.learning()
        with self._timed():
            for batch in batches(self.reading.train):
                rate = self.settings.learning_rate * self._rate(course.step)
                course.add(self.learner.step(batch, rate), rate)
                self.watch.stepped(course.epoch + 1, course.batch, len(order), course.mean_loss)
                if self.learner.asked(self._stop):
                    return False
                if course.step >= self.steps:
                    break
        return True

    def _validate(self) -> bool:
        """Measure, keep the best, close the epoch; False when somebody asked for the end."""
        with self._timed():
            figures = self.learner.measure(self.reading.val, self._stop)
        if figures is None:
            return False
        if not math.isfinite(figures.loss):
            raise DatasetError("the validation pictures have no labelled pixel")
        row = self._row(figures)
        self.course.close_epoch(row)
        if self.learner.fabric.is_global_zero:
            if row.best:
                self._keep(row)
            self.folder.write_metrics(self.course.rows, self.spec.labels.names)
        self.watch.validated(row)
        return True

    def _row(self, figures: Figures) -> Row:
        course, matrix = self.course, figures.matrix
        value = figures.loss if self.settings.monitor == "loss" else -matrix.mean_iou
        return Row(
            epoch=course.epoch + 1,
            step=course.step,
            lr=course.lr,
            train_loss=self.learner.mean(course.mean_loss),
            val_loss=figures.loss,
            miou=matrix.mean_iou,
            mean_accuracy=matrix.mean_accuracy,
            pixel_accuracy=matrix.pixel_accuracy,
            ious=tuple(float(iou) for iou in matrix.class_iou),
            seconds=round(course.seconds, 3),
            best=value < self._best_value(),
        )

    def _best_value(self) -> float:
        """The best so far of what is monitored; the less the better."""
        if (best := self.course.best) is None:
            return math.inf
        return best.val_loss if self.settings.monitor == "loss" else -best.miou

    def _keep(self, row: Row) -> None:
        spec = replace(self.spec, miou=round(100 * row.miou, 2))
        try:
            save_checkpoint(self.folder.best, spec, self.learner.weights())
        except OSError as error:
            raise cannot_write(self.folder.best, error) from error

    def _seed(self) -> None:
        """Begin the epoch's random numbers, or go on with those of a run that was interrupted."""
        fabric = self.learner.fabric
        if self._random is not None and self.course.batch:
            restore_random(self._random, fabric.device)
        else:
            torch.manual_seed(mixed(self.settings.seed, self.course.epoch, fabric.global_rank))
        self._random = None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        since, before = time.perf_counter(), self.course.seconds
        yield
        self.course.seconds = before + time.perf_counter() - since

    def _save(self) -> None:
        """Write all that `restore` needs, from the first process."""
        fabric = self.learner.fabric
        if fabric.is_global_zero:
            plain = {"spec": self.spec.to_json(), "course": self.course.to_plain()}
            states = {"random": random_state(fabric.device), **self.learner.state()}
            save_course(self.folder.last, plain | states)

    def restore(self, content: dict[str, Any]) -> None:
        """Go on where an earlier run saved its state.

        Args:
            content: of its `last.ckpt`, as `load_course` gives it.

        Raises:
            UsageError: it is of another run.
        """
        try:
            self.course = Course.from_plain(content["course"])
            self._random = content["random"]
            self.learner.load(content)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"cannot resume from {self.folder.last}",
                found=f"it is of another run ({first_line(error)})",
            ) from error
