"""The folder of a run: its settings, versions, split, metrics and checkpoints."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import asdict

from rtseg._version import __version__
from rtseg.datasets import Dataset, Sample, SplitFile
from rtseg.documents import read_json, read_toml
from rtseg.errors import DatasetError, UsageError
from rtseg.files import cannot_write, sweep, write_file
from rtseg.nets.find import BEST
from rtseg.options import from_values
from rtseg.outputs import Output, check_apart
from rtseg.system import installed_versions
from rtseg.text import counted, listed, user_path
from rtseg.training.options import CLASS_IOU, TrainOptions


@dataclass(frozen=True)
class Row:
    """One epoch: a line of metrics.csv.

    Attributes:
        epoch: counted from 1.
        step: optimizer steps since the beginning.
        lr: learning rate of the last step.
        train_loss: mean over the epoch's steps, auxiliary loss included.
        val_loss: of the validation split, by pixels, without the auxiliary loss.
        miou, mean_accuracy, pixel_accuracy: of the validation split, 0 to 1.
        ious: one per class; NaN for a class in neither truth nor prediction.
        seconds: duration of the epoch.
        best: whether it was the best so far.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    val_loss: float
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    ious: tuple[float, ...]
    seconds: float
    best: bool

    def check(self) -> None:
        """Raise ValueError for figures that no epoch can have."""
        ious = (iou for iou in self.ious if not math.isnan(iou))
        shares = (self.miou, self.mean_accuracy, self.pixel_accuracy, *ious)
        sums = (self.lr, self.train_loss, self.val_loss, self.seconds)
        if not all(0 <= share <= 1 for share in shares) or not all(map(math.isfinite, sums)):
            raise ValueError(f"the figures of epoch {self.epoch} are not possible")

    def gain(self, monitor: str, classes: Sequence[str]) -> float:
        """The figure that decides which epoch is best; higher is better.

        A class whose few true pixels are lost at the input's size has no IoU unless it is
        predicted: that is worse than any.
        """
        value = self.figure(monitor, classes)
        if math.isnan(value):
            return -math.inf
        return -value if monitor == "loss" else value

    def figure(self, monitor: str, classes: Sequence[str]) -> float:
        """The figure that `TrainOptions.monitor` names."""
        if monitor.startswith(CLASS_IOU):
            return self.ious[classes.index(monitor.removeprefix(CLASS_IOU))]
        value: float = self.val_loss if monitor == "loss" else getattr(self, monitor)
        return value


class Callback:
    """Is called during a run; does nothing. Subclasses override what they need."""

    def note(self, heading: str, text: str) -> None:
        """A line of information."""

    def on_problem(self, text: str) -> None:
        """A problem of the dataset."""

    def on_clip(self, clip: str, done: int, total: int) -> None:
        """`done` frames of `clip` have been read, of `total` if that is not 0."""

    def on_check(self, done: int, total: int) -> None:
        """`done` of `total` labelled images have been checked."""

    def on_teach(self, done: int, total: int) -> None:
        """The teachers have seen `done` of `total` images."""

    def on_download(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the file `title` have been downloaded."""

    def on_step(self, epoch: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Step `step` of `steps` in epoch `epoch` is done; both count from 1.

        Args:
            seconds_left: until the last epoch has ended, as far as the run so far tells.
        """

    def on_epoch(self, row: Row) -> None:
        """An epoch has been validated."""

    def on_test(self, done: int, total: int) -> None:
        """`done` of `total` images of the test split have been measured."""


Split = dict[str, tuple[Sample, ...]]

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "opencv-python")

FIGURES = "epoch step lr train_loss val_loss miou mean_accuracy pixel_accuracy seconds".split()


class _Inside:
    """A path inside a `RunFolder`, by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: RunFolder, owner: object) -> Path:
        return folder.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """The files of a run; each is written whole or not at all."""

    path: Path

    config = _Inside("config.toml")
    """Every setting, as TOML."""
    versions = _Inside("versions.json")
    """Versions of the libraries."""
    split = _Inside("split.json")
    """Names of the images in each split."""
    metrics = _Inside("metrics.csv")
    """A line per epoch."""
    curves = _Inside("curves.png")
    """Loss, metrics, IoU of each class and learning rate over the epochs."""
    confusion = _Inside("confusion.png")
    """The confusion matrix of the best epoch on the validation images."""
    preview = _Inside("preview.png")
    """Validation images with their truth and the last epoch's masks."""
    samples = _Inside("samples.png")
    """Validation images with their truth and the best model's masks."""
    best = _Inside(BEST)
    """The best checkpoint so far, for `rtseg -m`."""
    onnx = _Inside("best.onnx")
    """The best model as an ONNX file, with `TrainOptions.export`."""
    last = _Inside("last.ckpt")
    """Everything that `--resume` needs."""
    test = _Inside("test.json")
    """Figures of the best model on the test split."""
    tensorboard = _Inside("tensorboard")
    """The folder of `--logger tensorboard`."""
    loggers = _Inside("loggers.json")
    """What other loggers call the run."""
    test_samples = _Inside("test.png")
    """Test images with their truth and the best model's masks."""

    def check_free(self, *, overwrite: bool) -> None:
        """Check that the folder is empty or may be overwritten.

        Raises:
            UsageError: it is not empty, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"cannot write {self.path}", found="it is a file")
        if not self.path.is_dir() or overwrite or not any(self.path.iterdir()):
            return
        ours = (*self._files(), self.tensorboard)
        others = any(file not in ours for file in self.path.iterdir())
        gained = [file for file in (self.metrics, self.best, self.last) if file.exists()]
        if others or gained:  # a run that ended before its first epoch may be replaced
            resume = "Continue it with --resume, pass" if self.last.exists() else "Pass"
            raise UsageError(
                f"{self.path} exists",
                found="it holds a run" if self.config.exists() else "it is not empty",
                do=f"{resume} -y to overwrite it, or choose another with --out",
            )

    def check_apart(self, dataset: Dataset, options: TrainOptions, others: Iterable[str]) -> None:
        """Raise UsageError if the run would replace what it reads, or lies where its images do.

        Args:
            others: names of models and paths of files that a mix names.
        """
        named = (options.weights, options.model, options.palette, str(dataset.root), *others)
        paths = [user_path(name) for name in named if name]
        paths += [path / BEST for path in paths]  # of the folders of other runs
        inputs = [(path, "read by this run") for path in paths]
        inputs += [(sample.image_path, "a labelled image") for sample in dataset.samples]
        files = [Output.file(f"cannot write {file}", file) for file in self._files()]
        check_apart(files, [(path, what) for path, what in inputs if path.is_file()])
        if self.path.exists() and dataset.root.exists() and self.path.samefile(dataset.root):
            raise UsageError(
                f"cannot write {self.path}",
                found="the labelled images are in this folder",
                do="Choose another with --out",
            )

    def claim(self) -> None:
        """Create the folder and remove the files of an earlier run; other files stay.

        Raises:
            SinkError: it cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (*self._files(), *self.tensorboard.glob("events.out.tfevents.*")):
                file.unlink(missing_ok=True)
            sweep(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def read_options(self) -> TrainOptions:
        """The options of the run in the folder.

        Raises:
            UsageError: there is no run that can be resumed.
        """
        if not self.last.is_file():
            raise UsageError(
                f"cannot resume {self.path}",
                found=f"there is no {self.last.name}",
                do="Name the folder of a run with --out",
            )
        return from_values(TrainOptions, read_toml(self.config))

    def write_config(self, options: TrainOptions) -> None:
        """Write every option, and the versions of the libraries; raises SinkError."""
        import torch

        write_file(self.config, options.to_toml())
        found = {"rtseg": __version__, "python": platform.python_version()}
        found |= installed_versions(PACKAGES)
        found["torch"] = torch.__version__  # the build as well, "+cu130"
        found["platform"] = platform.platform()
        write_file(self.versions, json.dumps(found, indent=2) + "\n")

    def write_split(self, split: Split, origin: str) -> None:
        """Write the names of each split, and where the split comes from; raises SinkError."""
        names = {name: [sample.name for sample in samples] for name, samples in split.items()}
        write_file(self.split, json.dumps({"from": origin, **names}, indent=1) + "\n")

    def read_split(self, dataset: Dataset) -> Split:
        """The samples of `dataset` in the splits that `write_split` wrote.

        Raises:
            DatasetError: the file cannot be read, or a sample no longer exists.
        """
        named = read_json(self.split, SplitFile, DatasetError)
        lists = asdict(named)
        samples = {sample.name: sample for sample in dataset.samples}
        gone = [name for names in lists.values() for name in names if name not in samples]
        if gone:
            raise DatasetError(
                f"{dataset.root} is not the dataset of {self.path}",
                found=f"{counted(len(gone), 'image')} missing: {listed(gone, 3)}",
            )
        return {name: tuple(samples[n] for n in names) for name, names in lists.items()}

    def write_metrics(self, rows: Sequence[Row], classes: Sequence[str]) -> None:
        """Write a line per epoch, with the IoU of every class; raises SinkError."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*FIGURES, *(f"iou {name}" for name in classes), "best"])
        for row in rows:
            figures = [getattr(row, name) for name in FIGURES]
            writer.writerow([*figures, *row.ious, int(row.best)])
        write_file(self.metrics, text.getvalue())

    def write_test(self, figures: Mapping[str, object]) -> None:
        """Write the figures of the test split; raises SinkError."""
        write_file(self.test, json.dumps(figures, indent=2) + "\n")

    def written(self) -> list[Path]:
        """The files that exist."""
        return [file for file in self._files() if file.exists()]

    def _files(self) -> list[Path]:
        return [
            *(self.config, self.versions, self.split, self.metrics, self.curves),
            *(self.loggers, self.confusion, self.preview, self.samples),
            *(self.best, self.onnx, self.last, self.test, self.test_samples),
        ]
