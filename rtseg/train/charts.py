"""The pictures of a run: how it went, and what its best network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from rtseg.draw import blend, overlay_table
from rtseg.figures import new_figure, plain_text, save_figure, show_image
from rtseg.frame import Image, Mask
from rtseg.labels import LabelSet
from rtseg.train.folder import Row

ALPHA = 0.6
SIDE = 480  # pixels of the longer side of a sample
_LEGEND = 30  # classes; with more, a legend would hide the pictures
_DOTS_PER_INCH = 120


@dataclass(frozen=True)
class Seen:
    """A picture (H, W, 3) uint8 BGR with its true and its predicted mask (H, W) uint8."""

    name: str
    image: Image
    truth: Mask
    predicted: Mask


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Loss of both splits, and mean IoU and pixel accuracy of the validation split, by epoch.

    Raises:
        SinkError: the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10, 4, constrained=True)
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


def draw_samples(path: Path, samples: Sequence[Seen], labels: LabelSet) -> None:
    """A row per picture: itself, the truth, and what the network sees.

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


def _legend(figure: Any, shown: Sequence[Seen], labels: LabelSet) -> None:
    """The classes that are to be seen, under the pictures."""
    from matplotlib.patches import Patch

    here = {
        int(value) for s in shown for mask in (s.truth, s.predicted) for value in set(mask.flat)
    }
    patches = [
        Patch(color=[level / 255 for level in labels.colours[index]], label=labels.names[index])
        for index in sorted(labels.sought(None) & here)[:_LEGEND]
    ]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)


def _small(sample: Seen) -> Seen:
    height, width = sample.image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Seen(
        sample.name,
        cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(sample.truth, size, interpolation=cv2.INTER_NEAREST),
        cv2.resize(sample.predicted, size, interpolation=cv2.INTER_NEAREST),
    )
