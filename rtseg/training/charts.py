"""The charts of a training run, and pictures of what it sees and predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtseg.draw import blend, overlay_table
from rtseg.evaluation.report import write_confusion
from rtseg.evaluation.scoring import Score
from rtseg.figures import new_figure, plain_text, save_figure, show_image
from rtseg.files import write_file
from rtseg.frame import Image, Mask
from rtseg.labels import LabelSet
from rtseg.metrics import ConfusionMatrix
from rtseg.training import augment
from rtseg.training.batches import Shuffled, TrainingImages
from rtseg.training.folder import Row
from rtseg.training.options import TrainOptions
from rtseg.training.prepare import Data
from rtseg.zoo import InputSpec, ModelSpec

VIEWS = 24
"""Augmented images in the sheet of `rtseg data`."""

SHOWN = 4
"""Images in `samples.png` and `test.png`."""

PREVIEWED = 6
"""Images in `preview.png`."""

ALPHA = 0.6
SIDE = 480
"""Pixels of the longer side of an image in `samples.png`."""
PREVIEW_SIDE = 256
"""Pixels of the longer side of an image in `preview.png`."""

_LEGEND = 30
"""Classes in a legend; more would hide the images."""

_DOTS_PER_INCH = 120


@dataclass(frozen=True)
class Labelled:
    """An image (H, W, 3) uint8 BGR with its true and predicted masks (H, W) uint8."""

    name: str
    image: Image
    truth: Mask
    predicted: Mask


def draw_curves(path: Path, rows: Sequence[Row], labels: LabelSet) -> None:
    """Draw loss, metrics, the IoU of each class and the learning rate by epoch.

    Raises:
        SinkError: the file cannot be written.
    """
    figure = new_figure(11, 8, constrained=True)
    from matplotlib.ticker import MaxNLocator

    losses, scores, classes, rates = figure.subplots(2, 2).ravel()
    epochs = [row.epoch for row in rows]
    losses.plot(epochs, [row.train_loss for row in rows], ".-", label="train")
    losses.plot(epochs, [row.val_loss for row in rows], ".-", label="validation")
    scores.plot(epochs, [row.miou for row in rows], ".-", label="mean IoU", color="C2")
    scores.plot(epochs, [row.mean_accuracy for row in rows], ".-", label="mean accuracy")
    scores.plot(epochs, [row.pixel_accuracy for row in rows], ".-", label="pixel accuracy")
    for index, (name, colour) in enumerate(zip(labels.names, labels.colours, strict=True)):
        ious = [row.ious[index] for row in rows]
        shown = plain_text(name) if index < _LEGEND else f"_{name}"
        classes.plot(epochs, ious, ".-", label=shown, color=_dark(colour), linewidth=1)
    rates.plot(epochs, [row.lr for row in rows], ".-")
    losses.set(title="loss", ylim=(0, None))
    scores.set(title="validation", ylim=(0, 1))
    classes.set(title="IoU by class", ylim=(0, 1))
    rates.set(title="learning rate at the end of the epoch", ylim=(0, None))
    best = max((row.epoch for row in rows if row.best), default=None)
    for axes in (losses, scores, classes, rates):
        if best is not None:
            mark = f"best: {best}" if axes in (losses, scores) else None
            axes.axvline(best, color="0.6", linestyle="--", linewidth=1, label=mark)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    losses.legend()
    scores.legend()
    classes.legend(fontsize=7, ncols=1 + min(len(labels), _LEGEND) // 11)
    save_figure(figure, path, dots_per_inch=_DOTS_PER_INCH)


def _dark(colour: Sequence[int]) -> tuple[float, ...]:
    """A class's colour (RGB) as matplotlib has it, dark enough to be seen on white."""
    factor = min(1.0, 0.75 * 3 * 255 / max(1, sum(colour)))
    return tuple(factor * level / 255 for level in colour)


def draw_matrix(path: Path, matrix: ConfusionMatrix, spec: ModelSpec, images: int) -> None:
    """Draw the confusion matrix of a validation, as `rtseg eval` draws one.

    Raises:
        SinkError: the file cannot be written.
    """
    score = Score("validation", spec.name, spec.labels, (), "", images, images, matrix)
    write_confusion(replace(score, pictures=images), path)


def draw_preview(path: Path, samples: Sequence[Labelled], labels: LabelSet) -> None:
    """Draw images side by side: the truth above, the prediction below.

    Args:
        samples: images of one size.

    Raises:
        SinkError: the file cannot be written.
    """
    table = overlay_table(labels, ALPHA)
    small = [_small(sample, PREVIEW_SIDE) for sample in samples]
    rows = [
        np.hstack(
            [blend(sample.image, mask, table) for sample, mask in zip(small, masks, strict=True)]
        )
        for masks in ([s.truth for s in small], [s.predicted for s in small])
    ]
    write_file(path, cv2.imencode(".png", np.vstack(rows))[1].tobytes())


def draw_samples(path: Path, samples: Sequence[Labelled], labels: LabelSet) -> None:
    """Draw a row per image: the image, the truth and the prediction.

    Raises:
        SinkError: the file cannot be written.
    """
    table = overlay_table(labels, ALPHA)
    shown = [_small(sample, SIDE) for sample in samples]
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
    random = augment.training(options, spec, labels.background, labels.mirrored)
    images = TrainingImages(data.split["train"], data.classes.from_dataset, random)
    order = Shuffled([s.weight for s in images.samples], VIEWS, options.seed, 0, 1)
    table, shown = overlay_table(labels, ALPHA), []
    for index, seed in next(iter(order)):
        view = images.view(index, seed)
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


def _small(sample: Labelled, side: int) -> Labelled:
    height, width = sample.image.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Labelled(
        sample.name,
        cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(sample.truth, size, interpolation=cv2.INTER_NEAREST),
        cv2.resize(sample.predicted, size, interpolation=cv2.INTER_NEAREST),
    )
