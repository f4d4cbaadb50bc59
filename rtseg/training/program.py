"""A training run from start to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rtseg.datasets import Sample
from rtseg.errors import DeviceError
from rtseg.evaluation.networks import Network
from rtseg.exporting import ExportOptions
from rtseg.exporting.program import Exported, export_network
from rtseg.exporting.samples import MAX_FRAMES, OnProgress, Samples
from rtseg.metrics import ConfusionMatrix
from rtseg.nets import find_model
from rtseg.nets.lite import measure_norms
from rtseg.options import flag
from rtseg.system import keep_freed_memory, usable_cores
from rtseg.text import counted
from rtseg.training import augment, is_main
from rtseg.training.batches import (
    SHARED_MEMORY,
    InOrder,
    Shuffled,
    TrainingImages,
    fitting_workers,
    loader,
    one_opencv_thread,
    usual_workers,
)
from rtseg.training.charts import (
    PREVIEWED,
    SHOWN,
    Labelled,
    draw_curves,
    draw_matrix,
    draw_preview,
    draw_samples,
)
from rtseg.training.folder import FIGURES, Callback, Row, RunFolder
from rtseg.training.loggers import Loggers, check_loggers
from rtseg.training.loop import Course, Loaders, Stop, TrainingLoop
from rtseg.training.losses import CROSS_ENTROPY, Recipe, class_weights, parse_terms
from rtseg.training.options import TrainOptions
from rtseg.training.prepare import Prepared, prepare
from rtseg.training.teachers import Soft, read_soft
from rtseg.training.trainable import (
    Fabric,
    Figures,
    Trainable,
    describe,
    open_fabric,
    unused_gpu,
)
from rtseg.zoo import ModelSpec

LOGGED_STEPS = 10
"""Every Nth step is logged, and each epoch."""

MEASURED = 48
"""Training images on which batch normalisation is measured, where it came folded."""

REDRAWN_SECONDS = 30.0
"""Of epochs, after which the curves are drawn again during a run."""


@dataclass(frozen=True)
class TestFigures:
    """Figures of the test split, measured at the images' own size.

    Attributes:
        pictures: number of images.
        ious: one per class; NaN for a class in neither truth nor prediction.
    """

    __test__ = False  # pytest would collect it

    pictures: int
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    ious: tuple[float, ...]

    def to_plain(self, names: Sequence[str]) -> dict[str, object]:
        """For JSON: NaN becomes None."""
        ious = {n: None if v != v else v for n, v in zip(names, self.ious, strict=True)}
        return {
            "pictures": self.pictures,
            "miou": self.miou,
            "mean_accuracy": self.mean_accuracy,
            "pixel_accuracy": self.pixel_accuracy,
            "class_iou": ious,
        }


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run.

    Attributes:
        best: the epoch whose weights are in best.pth; None if no epoch was finished.
        rows: all epochs.
        classes: the names of their `ious`.
        monitor: what decided which epoch is best, as `TrainOptions.monitor`.
        test: figures of the best model on the test split; None without one, or if stopped.
        stopped: whether it was interrupted; `resume` continues it.
        early: whether it ended because the patience was used up.
        is_main: whether this is the main process.
        validation: the validation images.
    """

    folder: RunFolder
    best: Row | None
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    monitor: str
    test: TestFigures | None
    stopped: bool
    early: bool
    is_main: bool
    validation: tuple[Sample, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        parts = [f"{self.folder.path}: {counted(len(self.rows), 'epoch')}"]
        if self.best is not None:
            parts.append(f"best is {self.best.epoch} with mIoU {self.best.miou:.4f}")
        if self.test is not None:
            parts.append(f"test mIoU {self.test.miou:.4f}")
        return f"<Result in {', '.join(parts)}>"


def train(
    options: TrainOptions,
    *,
    callback: Callback | None = None,
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Fine-tune a model on labelled images into a run folder.

    Args:
        callback: receives notes, problems and progress.
        stop: polled at every step; if it returns True, the state is saved and the run ends.
        resume: continue the run in `options.out`, whose options these are.
        overwrite: replace the run in `options.out`.

    Raises:
        UsageError: a setting has a wrong value, or the folder is not empty.
        DatasetError: the dataset has problems, which `callback` received.
        ModelError: the model or its weights are unknown or do not fit.
        DownloadError: published weights cannot be downloaded.
        DeviceError: the device does not exist, or its memory is too small.
        SinkError: the folder cannot be written.
        BackendError: the loss is no longer a number.
    """
    main = is_main()
    check_loggers(options.logger)
    callback = callback if callback is not None and main else Callback()
    fabric, precision = open_fabric(options)
    prepared = prepare(options, callback, main=main, resume=resume, overwrite=overwrite)
    fabric.launch()
    callback.note("runs on", describe(fabric, precision))
    if unused := unused_gpu(options, fabric):
        callback.note("note", unused)
    for text in without_effect(options, taught=bool(prepared.soft)):
        callback.note("note", text)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    loggers = Loggers(
        options.logger if fabric.is_global_zero else (),
        prepared.folder,
        prepared.spec.name,
        asdict(options),
        resumed=resume,
        warn=partial(callback.note, "warning"),
    )
    with closing(loggers):
        loop = _loop(fabric, prepared, callback, stop, loggers)
        try:
            with one_opencv_thread(), closing(loop.loaders):
                ended = loop.run()
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"not enough memory on {fabric.device}",
                do="Use a smaller --batch-size, --size or model",
            ) from error
        return _finish(prepared, loop, callback, stop, ended=ended)


def without_effect(options: TrainOptions, *, taught: bool) -> Iterator[str]:
    """A line for each option that changes nothing of a training, and why."""
    entropy = CROSS_ENTROPY in dict(parse_terms(options.loss))
    rules = {
        "class_weights": (entropy, "ce in --loss"),
        "edge_weight": (entropy, "ce in --loss"),
        "edge_reach": (options.edge_weight or taught, "--edge-weight"),
        "momentum": (options.optimizer == "sgd", "--optimizer sgd"),
    }
    for name, (used, why) in rules.items():
        if not used and getattr(options, name) != getattr(TrainOptions, name):
            yield f"{flag(name)} has no effect on training without {why}"


def _loop(
    fabric: Fabric,
    made: Prepared,
    callback: Callback,
    stop: Callable[[], bool],
    loggers: Loggers,
) -> TrainingLoop:
    options = made.options
    weights = None
    if options.class_weights != "none":
        train, table = made.split["train"], made.classes.from_dataset
        if fabric.is_global_zero:
            weights = class_weights(options.class_weights, made.spec.labels, train, table)
            callback.note("weights", f"of the classes: {_weighed(made.spec, weights)}")
        weights = fabric.broadcast(weights)
    loaders = _loaders(fabric, made, callback)
    if made.folded:
        measure_norms(made.network, _some_images(made))
    recipe = Recipe(
        parse_terms(options.loss),
        None if weights is None else fabric.to_device(torch.tensor(weights)),
        options.aux_weight,
        options.edge_weight,
        options.edge_reach,
        options.teacher_weight,
        options.teacher_temperature,
        options.teacher_classes,
    )
    trainable = Trainable(fabric, made.network, options, len(made.spec.labels), recipe)
    course = _Course(made, trainable, loggers)
    loop = TrainingLoop(trainable, made.spec, loaders, options, made.folder, callback, stop, course)
    if made.state is not None:
        loop.restore(made.state)
    callback.note("plan", _plan(options, loop, len(made.split["train"])))
    return loop


def _loaders(fabric: Fabric, made: Prepared, callback: Callback) -> Loaders:
    options, spec, table = made.options, made.spec.input, made.classes.from_dataset
    train = TrainingImages(
        made.split["train"],
        table,
        augment.training(options, spec, made.spec.labels.background, _mirrored(made)),
        partial(_soft, made) if made.soft else None,
        len(made.spec.labels),
    )
    val = TrainingImages(made.split["val"], table, augment.plain(options.size, spec))
    share = fabric.global_rank, fabric.world_size
    per_step = options.batch_size * options.accumulate
    weights = [sample.weight for sample in made.split["train"]]
    order = Shuffled(weights, per_step, options.seed, *share)
    pinned = fabric.device.type == "cuda"
    cores = max(1, usable_cores() // fabric.world_size)
    requested = [
        usual_workers(cores, len(each)) if options.workers is None else options.workers
        for each in (train, val)
    ]
    if options.workers is not None and options.workers > cores:
        more = counted(options.workers, "worker")
        callback.note(
            "note", f"{more} on {counted(cores, 'core')}: more than one each gains nothing"
        )
    loaders = 2 * fabric.world_size
    planes = 1 + len(made.spec.labels) + len(made.taught) if made.soft else 0
    many = [
        fitting_workers(n, per_step, options.size, loaders, soft)
        for n, soft in zip(requested, (planes, 0), strict=True)
    ]
    if many != requested:
        less = f"{counted(many[0], 'worker')} instead of {requested[0]}: batches of more do not fit"
        callback.note("note", f"{less} into {SHARED_MEMORY} (docker run --shm-size=2g)")
    return Loaders(
        loader(train, order, workers=many[0], pinned=pinned),
        order,
        loader(val, InOrder(len(val), options.batch_size, *share), workers=many[1], pinned=pinned),
    )


def _some_images(made: Prepared) -> Tensor:
    """(N, 3, H, W) training images, normalised, without augmentation."""
    options, spec = made.options, made.spec
    some = TrainingImages(
        _spaced(made.split["train"], MEASURED),
        made.classes.from_dataset,
        augment.plain(options.size, spec.input),
    )
    return torch.stack([some.view(index)[0] for index in range(len(some))])


def _soft(made: Prepared, sample: Sample) -> Soft:
    return read_soft(made.soft[sample.name], len(made.spec.labels) + len(made.taught))


def _mirrored(made: Prepared) -> tuple[int, ...]:
    """As of `augment.training`: the trained classes, then the teacher's."""
    own = made.spec.labels.mirrored
    return (*own, *(len(own) + index for index in made.taught))


def _weighed(spec: ModelSpec, weights: tuple[float, ...] | None) -> str:
    pairs = zip(spec.labels.names, weights or (), strict=True)
    return ", ".join(f"{name} {weight:.3g}" for name, weight in pairs)


def _plan(options: TrainOptions, loop: TrainingLoop, images: int) -> str:
    """Steps, batches and learning rate in one line, and what full batches leave out."""
    order = loop.loaders.order
    per_step = order.batch_size * order.world
    done = f", {loop.state.step} done" if loop.state.step else ""
    parts = [
        f"{loop.steps} steps{done}",
        f"{len(order)} per epoch",
        f"{per_step} images per step",
        f"{options.optimizer}, learning rate {options.learning_rate:g}, {options.schedule}",
    ]
    if left := images - len(order) * per_step:
        parts.append(
            f"{counted(left, 'image')} left for another epoch, as batches are full"
            if left > 0
            else "images are repeated to fill a batch"
        )
    return ", ".join(parts)


def _finish(
    made: Prepared, loop: TrainingLoop, callback: Callback, stop: Stop, *, ended: bool
) -> Result:
    """Draw the charts and measure the test split, in the main process."""
    rows, best, folder = tuple(loop.state.rows), loop.state.best, made.folder
    test = None
    if loop.trainable.fabric.is_global_zero and best is not None:
        draw_curves(folder.curves, rows, made.spec.labels)
        if ended:
            with BestModel(folder.best, made, loop.trainable.fabric.device) as trial:
                draw_samples(folder.samples, trial.samples("val"), made.spec.labels)
                test = trial.test(callback, stop)
                if test is not None:
                    draw_samples(folder.test_samples, trial.samples("test"), made.spec.labels)
        if test is not None:
            folder.write_test(test.to_plain(made.spec.labels.names))
    stopped = not ended or stop()
    return Result(
        folder=folder,
        best=best,
        rows=rows,
        classes=made.spec.labels.names,
        monitor=made.options.monitor,
        test=test,
        stopped=stopped,
        early=loop.early,
        is_main=is_main(),
        validation=made.split["val"],
    )


def export_best(result: Result, on_progress: OnProgress = lambda *_: None) -> Exported:
    """Write the best model of a run as best.onnx, compared on validation images.

    Raises:
        DatasetError: an image cannot be read.
        RtsegError: as `export_network`.
    """
    folder = result.folder
    images = tuple(s.read_image() for s in _spaced(result.validation, MAX_FRAMES))
    samples = Samples("the validation images", images)
    options = ExportOptions(overwrite=True)
    return export_network(find_model(folder.best), folder.onnx, options, on_progress, samples)


class _Course(Course):
    """Draws and logs how a run goes."""

    def __init__(self, made: Prepared, trainable: Trainable, loggers: Loggers) -> None:
        self._made, self._trainable, self._loggers = made, trainable, loggers
        self._undrawn = 0.0
        self._shown = TrainingImages(
            _spaced(made.split["val"], PREVIEWED),
            made.classes.from_dataset,
            augment.plain(made.options.size, made.spec.input),
        )

    def on_step(self, step: int, loss: float, learning_rate: float) -> None:
        """Log some of the steps."""
        if step % LOGGED_STEPS == 0:
            self._loggers.log({"step/loss": loss, "step/lr": learning_rate}, step)

    def on_epoch(self, rows: Sequence[Row], figures: Figures) -> None:
        """Log and preview the epoch; draw the matrix of a new best, and the curves now and then.

        Raises:
            DatasetError: an image cannot be read.
            SinkError: a file cannot be written.
        """
        folder, spec = self._made.folder, self._made.spec
        self._undrawn += rows[-1].seconds
        if self._undrawn >= REDRAWN_SECONDS:
            self._undrawn = 0.0
            draw_curves(folder.curves, rows, spec.labels)
        if rows[-1].best:
            draw_matrix(folder.confusion, figures.matrix, spec, len(self._made.split["val"]))
            self._loggers.image("confusion", folder.confusion, rows[-1].step)
        draw_preview(folder.preview, self._preview(), spec.labels)
        self._loggers.image("preview", folder.preview, rows[-1].step)
        self._loggers.log(_logged(rows[-1], spec.labels.names), rows[-1].step)

    def _preview(self) -> list[Labelled]:
        found = []
        for index, sample in enumerate(self._shown.samples):
            view = self._shown.view(index)
            image = augment.as_image(view[0], self._made.spec.input)
            truth = view[1].numpy().astype(np.uint8)
            predicted = self._trainable.predict(view[0][None])[0]
            found.append(Labelled(sample.name, image, truth, predicted))
        return found


def _logged(row: Row, classes: Sequence[str]) -> dict[str, float]:
    """What loggers get of an epoch."""
    figures = {name: getattr(row, name) for name in FIGURES if name != "step"}
    ious = {f"iou {name}": iou for name, iou in zip(classes, row.ious, strict=True)}
    return {f"epoch/{name}": value for name, value in (figures | ious).items()}


T = TypeVar("T")


def _spaced(items: Sequence[T], count: int) -> Sequence[T]:
    """A few items at even distances."""
    return items[:: max(1, len(items) // count)][:count]


class BestModel:
    """The best checkpoint, opened by torch in single precision."""

    def __init__(self, best: Path, made: Prepared, device: torch.device) -> None:
        self._made = made
        where = str(device) if device.type == "cuda" else device.type
        model = find_model(best)
        self._network = Network("best", model, backend="torch", device=where, precision="fp32")

    def samples(self, split: str) -> list[Labelled]:
        """A few evenly spaced images of a split, with truth and prediction."""
        return [self._segment(sample) for sample in _spaced(self._made.split[split], SHOWN)]

    def test(self, callback: Callback, stop: Callable[[], bool]) -> TestFigures | None:
        """Measure the test split; None if there is none, or if stopped."""
        samples = self._made.split["test"]
        matrix = ConfusionMatrix(len(self._made.spec.labels))
        for done, sample in enumerate(samples):
            if stop():
                return None
            callback.on_test(done, len(samples))
            result = self._segment(sample)
            matrix.update(result.truth, result.predicted)
        if not matrix.pixels:
            return None
        callback.on_test(len(samples), len(samples))
        return TestFigures(
            len(samples),
            matrix.mean_iou,
            matrix.mean_accuracy,
            matrix.pixel_accuracy,
            tuple(float(iou) for iou in matrix.class_iou),
        )

    def _segment(self, sample: Sample) -> Labelled:
        image = sample.read_image()
        truth = sample.read_as(self._made.classes.from_dataset)
        return Labelled(sample.name, image, truth, self._network(image).mask)

    def __enter__(self) -> BestModel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._network.close()
