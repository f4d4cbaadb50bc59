"""A training run from start to end, and its charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from rtseg.datasets import Sample
from rtseg.draw import blend, overlay_table
from rtseg.errors import DeviceError, RtsegError
from rtseg.evaluation.networks import Network
from rtseg.figures import new_figure, plain_text, save_figure, show_image
from rtseg.frame import Image, Mask
from rtseg.labels import LabelSet
from rtseg.metrics import ConfusionMatrix
from rtseg.nets import find_model
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
from rtseg.training.folder import Callback, Row, RunFolder
from rtseg.training.loop import Loaders, Stop, TrainingLoop
from rtseg.training.losses import Recipe, class_weights, parse_terms
from rtseg.training.options import TrainOptions
from rtseg.training.prepare import Data, Prepared, prepare
from rtseg.training.teachers import Soft, read_soft
from rtseg.training.trainable import (
    Fabric,
    Trainable,
    describe,
    open_fabric,
    unused_gpu,
)
from rtseg.zoo import InputSpec, ModelSpec

VIEWS = 24
"""Augmented images in the sheet of `rtseg data`."""

SHOWN = 4
"""Validation images in `samples.png`."""

ALPHA = 0.6
SIDE = 480
"""Pixels of the longer side of an image in `samples.png`."""

_LEGEND = 30
"""Classes in a legend; more would hide the images."""

_DOTS_PER_INCH = 120


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
    callback = callback if callback is not None and main else Callback()
    fabric, precision = open_fabric(options)
    prepared = prepare(options, callback, main=main, resume=resume, overwrite=overwrite)
    fabric.launch()
    callback.note("runs on", describe(fabric, precision))
    if unused := unused_gpu(options, fabric):
        callback.note("note", unused)
    loop = _loop(fabric, prepared, callback, stop)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    try:
        with one_opencv_thread(), closing(loop.loaders):
            ended = loop.run()
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"not enough memory on {fabric.device}",
            do="Use a smaller --batch-size, --size or model",
        ) from error
    return _finish(prepared, loop, callback, stop, ended=ended)


def _loop(
    fabric: Fabric, made: Prepared, callback: Callback, stop: Callable[[], bool]
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
    recipe = Recipe(
        parse_terms(options.loss),
        None if weights is None else fabric.to_device(torch.tensor(weights)),
        options.aux_weight,
        options.edge_weight,
        options.edge_reach,
        options.teacher_weight,
        options.teacher_temperature,
    )
    trainable = Trainable(fabric, made.network, options, len(made.spec.labels), recipe)
    loop = TrainingLoop(trainable, made.spec, loaders, options, made.folder, callback, stop)
    if made.state is not None:
        loop.restore(made.state)
    callback.note("plan", _plan(options, loop, len(made.split["train"])))
    return loop


def _loaders(fabric: Fabric, made: Prepared, callback: Callback) -> Loaders:
    options, spec, table = made.options, made.spec.input, made.classes.from_dataset
    train = TrainingImages(
        made.split["train"],
        table,
        augment.training(options, spec, made.spec.labels.background),
        partial(_soft, made) if made.soft else None,
    )
    val = TrainingImages(made.split["val"], table, augment.plain(options.size, spec))
    share = fabric.global_rank, fabric.world_size
    per_step = options.batch_size * options.accumulate
    weights = [sample.weight for sample in made.split["train"]]
    order = Shuffled(weights, per_step, options.seed, *share)
    pinned = fabric.device.type == "cuda"
    cores = usable_cores() // fabric.world_size
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
    many = [fitting_workers(n, per_step, options.size, loaders) for n in requested]
    if many != requested:
        less = f"{counted(many[0], 'worker')} instead of {requested[0]}: batches of more do not fit"
        callback.note("note", f"{less} into {SHARED_MEMORY} (docker run --shm-size=2g)")
    return Loaders(
        loader(train, order, workers=many[0], pinned=pinned),
        order,
        loader(val, InOrder(len(val), options.batch_size, *share), workers=many[1], pinned=pinned),
    )


def _soft(made: Prepared, sample: Sample, size: tuple[int, int]) -> Soft:
    return read_soft(made.soft[sample.name], len(made.spec.labels), size)


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
        draw_curves(folder.curves, rows)
        if ended:
            with BestModel(folder.best, made, loop.trainable.fabric.device) as trial:
                draw_samples(folder.samples, trial.samples(), made.spec.labels)
                test = trial.test(callback, stop)
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
    )


@dataclass(frozen=True)
class Labelled:
    """An image (H, W, 3) uint8 BGR with its true and predicted masks (H, W) uint8."""

    name: str
    image: Image
    truth: Mask
    predicted: Mask


class BestModel:
    """The best checkpoint, opened by torch in single precision."""

    def __init__(self, best: Path, made: Prepared, device: torch.device) -> None:
        self._made = made
        where = str(device) if device.type == "cuda" else device.type
        model = find_model(best)
        self._network = Network("best", model, backend="torch", device=where, precision="fp32")

    def samples(self) -> list[Labelled]:
        """A few evenly spaced validation images, with truth and prediction."""
        val = self._made.split["val"]
        step = max(1, len(val) // SHOWN)
        return [self._segment(sample) for sample in val[::step][:SHOWN]]

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


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draw the loss of both splits, and mean IoU and pixel accuracy on validation, by epoch.

    Raises:
        SinkError: the file cannot be written.
    """
    figure = new_figure(10, 4, constrained=True)
    from matplotlib.ticker import MaxNLocator

    losses, scores = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    losses.plot(epochs, [row.train_loss for row in rows], ".-", label="train")
    losses.plot(epochs, [row.val_loss for row in rows], ".-", label="validation")
    scores.plot(epochs, [row.miou for row in rows], ".-", label="mean IoU", color="C2")
    scores.plot(epochs, [row.pixel_accuracy for row in rows], ".-", label="pixel accuracy")
    losses.set(title="loss", ylim=(0, None))
    scores.set(title="validation", ylim=(0, 1))
    best = max((row.epoch for row in rows if row.best), default=None)
    for axes in (losses, scores):
        if best is not None:
            axes.axvline(best, color="0.6", linestyle="--", linewidth=1, label=f"best: {best}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path, dots_per_inch=_DOTS_PER_INCH)


def draw_samples(path: Path, samples: Sequence[Labelled], labels: LabelSet) -> None:
    """Draw a row per image: the image, the truth and the prediction.

    Raises:
        SinkError: the file cannot be written.
    """
    table = overlay_table(labels, ALPHA)
    shown = [_small(sample) for sample in samples]
    heights = [sample.image.shape[0] / sample.image.shape[1] for sample in shown]
    figure = new_figure(10, 10 / 3 * sum(heights) + 0.3 * len(shown) + 0.8, constrained=True)
    grid = figure.subplots(len(shown), 3, squeeze=False, height_ratios=heights)
    for axes, sample in zip(grid, shown, strict=True):
        masked = [blend(sample.image, mask, table) for mask in (sample.truth, sample.predicted)]
        for pane, image in zip(axes, (sample.image, *masked), strict=True):
            show_image(pane, image)
        axes[0].set_title(plain_text(sample.name), fontsize=8, loc="left")
        axes[1].set_title("truth", fontsize=8, loc="left")
        axes[2].set_title("prediction", fontsize=8, loc="left")
    _legend(figure, shown, labels)
    save_figure(figure, path, dots_per_inch=_DOTS_PER_INCH)


def draw_views(path: Path, data: Data, options: TrainOptions) -> None:
    """Draw images of the train split as augmentation makes them, with their masks.

    Raises:
        DatasetError: an image cannot be read.
        SinkError: the file cannot be written.
    """
    labels, spec = data.classes.labels, InputSpec(options.size)
    random = augment.training(options, spec, labels.background)
    images = TrainingImages(data.split["train"], data.classes.from_dataset, random)
    order = Shuffled([s.weight for s in images.samples], VIEWS, options.seed, 0, 1)
    table, shown = overlay_table(labels, ALPHA), []
    for index, seed in next(iter(order)):
        view = images[index, seed]
        if isinstance(view, RtsegError):
            raise view
        mask = view[1].numpy().astype(np.uint8)
        image = augment.as_image(view[0], spec)
        shown.append(Labelled(images.samples[index].name, image, mask, mask))
    columns = 6
    rows = -(-len(shown) // columns)
    shape = options.size[0] / options.size[1]
    figure = new_figure(2.2 * columns, (2.2 * shape + 0.25) * rows + 0.5, constrained=True)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, one in zip(grid, shown, strict=False):
        show_image(axes, blend(one.image, one.truth, table))
        axes.set_title(plain_text(one.name)[-32:], fontsize=6, loc="left")
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    _legend(figure, shown, labels)
    save_figure(figure, path, dots_per_inch=_DOTS_PER_INCH)


def _legend(figure: Any, shown: Sequence[Labelled], labels: LabelSet) -> None:
    """Add a legend of the classes in view."""
    from matplotlib.patches import Patch

    here = {
        int(value) for s in shown for mask in (s.truth, s.predicted) for value in set(mask.flat)
    }
    patches = [
        Patch(color=[level / 255 for level in labels.colours[index]], label=labels.names[index])
        for index in sorted(labels.foreground(None) & here)[:_LEGEND]
    ]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)


def _small(sample: Labelled) -> Labelled:
    height, width = sample.image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Labelled(
        sample.name,
        cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(sample.truth, size, interpolation=cv2.INTER_NEAREST),
        cv2.resize(sample.predicted, size, interpolation=cv2.INTER_NEAREST),
    )
