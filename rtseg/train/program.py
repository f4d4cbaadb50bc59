"""A training run, start to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rtseg.datasets import Sample
from rtseg.errors import DeviceError, counted
from rtseg.evaluate.networks import Network
from rtseg.metrics import ConfusionMatrix
from rtseg.nets import find_model
from rtseg.system import keep_freed_memory
from rtseg.threads import usable_cores
from rtseg.train import batches as augment
from rtseg.train import leads
from rtseg.train.batches import (
    SHARED_MEMORY,
    InOrder,
    Pictures,
    Shuffled,
    fitting_workers,
    loader,
    one_opencv_thread,
    usual_workers,
)
from rtseg.train.charts import Seen, draw_curves, draw_samples
from rtseg.train.device import describe, open_fabric, unused_gpu
from rtseg.train.folder import Row, RunFolder, Watch
from rtseg.train.learner import Learner, class_weights
from rtseg.train.lightning_import import Fabric
from rtseg.train.loop import Loop, Reading, Stop
from rtseg.train.prepare import Prepared, prepare
from rtseg.train.settings import Settings
from rtseg.zoo import ModelSpec

SHOWN = 4


@dataclass(frozen=True)
class TestFigures:
    """Figures of the test split, with masks at the pictures' own size.

    Attributes:
        pictures: how many.
        ious: one per class; NaN for a class in neither truth nor prediction.
    """

    __test__ = False  # no test of pytest's

    pictures: int
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    ious: tuple[float, ...]

    def to_plain(self, names: Sequence[str]) -> dict[str, object]:
        """For JSON, which has no NaN: None stands for it."""
        ious = {n: None if v != v else v for n, v in zip(names, self.ious, strict=True)}
        return {
            "pictures": self.pictures,
            "miou": self.miou,
            "mean_accuracy": self.mean_accuracy,
            "pixel_accuracy": self.pixel_accuracy,
            "class_iou": ious,
        }


class Trial:
    """The checkpoint in `best`, opened by torch in single precision, as `rtseg -m` opens it."""

    def __init__(self, best: Path, made: Prepared, device: torch.device) -> None:
        self._made = made
        where = str(device) if device.type == "cuda" else device.type
        model = find_model(best)
        self._network = Network("best", model, backend="torch", device=where, precision="fp32")

    def samples(self) -> list[Seen]:
        """Some pictures of the validation split, evenly spread, with truth and prediction."""
        val = self._made.split["val"]
        step = max(1, len(val) // SHOWN)
        return [self._see(sample) for sample in val[::step][:SHOWN]]

    def test(self, watch: Watch, stop: Callable[[], bool]) -> TestFigures | None:
        """Figures of the test split; None where there is none, or when asked to stop."""
        samples = self._made.split["test"]
        matrix = ConfusionMatrix(len(self._made.spec.labels))
        for done, sample in enumerate(samples):
            if stop():
                return None
            watch.tested(done, len(samples))
            seen = self._see(sample)
            matrix.update(seen.truth, seen.predicted)
        if not matrix.pixels:
            return None
        watch.tested(len(samples), len(samples))
        return TestFigures(
            len(samples),
            matrix.mean_iou,
            matrix.mean_accuracy,
            matrix.pixel_accuracy,
            tuple(float(iou) for iou in matrix.class_iou),
        )

    def _see(self, sample: Sample) -> Seen:
        image = sample.read_image()
        truth = sample.read_as(self._made.classes.from_dataset)
        return Seen(sample.name, image, truth, self._network(image).mask)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._network.close()


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        best: the epoch whose network is in best.pth; None when no epoch was finished.
        rows: all epochs.
        test: figures of the best network on the test split; None without one, or when stopped.
        stopped: whether somebody asked for the end; `resume` goes on.
        early: whether it ended because nothing became better any more.
        leads: whether this is the process that a person started.
    """

    folder: RunFolder
    best: Row | None
    rows: tuple[Row, ...]
    test: TestFigures | None
    stopped: bool
    early: bool
    leads: bool


def train(
    settings: Settings,
    *,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Fine-tune a network on labelled pictures and leave a run folder.

    Args:
        watch: told how it goes.
        stop: asked at every step; what was reached is saved.
        resume: go on with the run in `settings.out`, whose settings these are.
        overwrite: replace the run that is in `settings.out`.

    Raises:
        UsageError: settings that make no sense, or a folder that holds something.
        DatasetError: the dataset is broken; `watch` was told everything that is wrong.
        ModelError: the network or its weights are not what was named.
        DownloadError: published weights cannot be fetched.
        DeviceError: the device is not here, or its memory is too small.
        SinkError: the folder cannot be written.
        BackendError: the loss is no longer a number.
    """
    lead = leads()
    watch = watch if watch is not None and lead else Watch()
    fabric, precision = open_fabric(settings)
    prepared = prepare(settings, watch, lead=lead, resume=resume, overwrite=overwrite)
    fabric.launch()
    watch.note("runs on", describe(fabric, precision))
    if unused := unused_gpu(settings, fabric):
        watch.note("note", unused)
    loop = _loop(fabric, prepared, watch, stop)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    try:
        with one_opencv_thread():
            ended = loop.run()
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"not enough memory on {fabric.device}",
            do="Take a smaller --batch-size, --size or network",
        ) from error
    return _finish(prepared, loop, watch, stop, ended=ended)


def _loop(fabric: Fabric, made: Prepared, watch: Watch, stop: Callable[[], bool]) -> Loop:
    settings = made.settings
    weights = None
    if settings.class_weights != "none":
        train, table = made.split["train"], made.classes.from_dataset
        if fabric.is_global_zero:
            weights = class_weights(settings.class_weights, made.spec.labels, train, table)
            watch.note("weights", f"of the classes: {_weighed(made.spec, weights)}")
        weights = fabric.broadcast(weights)
    reading = _reading(fabric, made, watch)
    learner = Learner(fabric, made.network, settings, len(made.spec.labels), weights)
    loop = Loop(learner, made.spec, reading, settings, made.folder, watch, stop)
    if made.state is not None:
        loop.restore(made.state)
    watch.note("plan", _plan(settings, loop, len(made.split["train"])))
    return loop


def _reading(fabric: Fabric, made: Prepared, watch: Watch) -> Reading:
    settings, spec, table = made.settings, made.spec.input, made.classes.from_dataset
    train = Pictures(made.split["train"], table, augment.training(settings, spec))
    val = Pictures(made.split["val"], table, augment.plain(settings.size, spec))
    share = fabric.global_rank, fabric.world_size
    order = Shuffled(len(train), settings.batch_size, settings.seed, *share)
    pinned = fabric.device.type == "cuda"
    cores = usable_cores() // fabric.world_size
    asked = [
        usual_workers(cores, len(each)) if settings.workers is None else settings.workers
        for each in (train, val)
    ]
    loaders = 2 * fabric.world_size
    many = [fitting_workers(n, settings.batch_size, settings.size, loaders) for n in asked]
    if many != asked:
        less = f"{counted(many[0], 'worker')} instead of {asked[0]}: batches of more do not fit"
        watch.note("note", f"{less} into {SHARED_MEMORY} (docker run --shm-size=2g)")
    return Reading(
        loader(train, order, workers=many[0], pinned=pinned),
        order,
        loader(val, InOrder(len(val), settings.batch_size, *share), workers=many[1], pinned=pinned),
    )


def _weighed(spec: ModelSpec, weights: tuple[float, ...] | None) -> str:
    pairs = zip(spec.labels.names, weights or (), strict=True)
    return ", ".join(f"{name} {weight:.3g}" for name, weight in pairs)


def _plan(settings: Settings, loop: Loop, pictures: int) -> str:
    """Steps, batches and learning rate in one line, and what a batch leaves out."""
    order = loop.reading.order
    per_step = order.batch_size * order.world
    done = f", {loop.course.step} done" if loop.course.step else ""
    parts = [
        f"{loop.steps} steps{done}",
        f"{len(order)} per epoch",
        f"{per_step} pictures per step",
        f"{settings.optimizer}, learning rate {settings.learning_rate:g}, {settings.schedule}",
    ]
    if left := pictures - len(order) * per_step:
        parts.append(
            f"left for another epoch, as batches are full: {counted(left, 'picture')}"
            if left > 0
            else "pictures are repeated to fill a batch"
        )
    return ", ".join(parts)


def _finish(made: Prepared, loop: Loop, watch: Watch, stop: Stop, *, ended: bool) -> Result:
    """Draw and measure, in the first process, what the run has reached."""
    rows, best, folder = tuple(loop.course.rows), loop.course.best, made.folder
    test = None
    if loop.learner.fabric.is_global_zero and best is not None:
        draw_curves(folder.curves, rows)
        if ended:
            with Trial(folder.best, made, loop.learner.fabric.device) as trial:
                draw_samples(folder.samples, trial.samples(), made.spec.labels)
                test = trial.test(watch, stop)
        if test is not None:
            folder.write_test(test.to_plain(made.spec.labels.names))
    stopped = not ended or stop()
    return Result(folder, best, rows, test, stopped, early=loop.early, leads=leads())
