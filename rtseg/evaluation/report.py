"""Scores as plain values for JSON, and the confusion matrix as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtseg._version import __version__
from rtseg.evaluation.scoring import ClipScore, Score
from rtseg.figures import new_figure, save_figure
from rtseg.text import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_CLASSES = 4
"""Up to this many classes get a column of the table without --show-class."""

FORMAT = 1
"""Version of the JSON; increased when a key changes its meaning or is removed."""

_NUMBERED = 25
"""Up to this many classes, each cell of the confusion matrix shows its number."""

_NO_CLASS = "no class"


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The figures of every model on every set and clip; prints as tables.

    Attributes:
        scores: on labelled images, smoothed ones after those that they smooth.
        clips: on clips without labels.
        complete: whether every model was measured on every set and clip.
    """

    scores: tuple[Score, ...]
    clips: tuple[ClipScore, ...] = ()
    complete: bool = True

    def to_plain(self) -> dict[str, Any]:
        """All figures, for JSON: {"rtseg_eval": 1, "version": ..., "complete": ..., "results":
        [...], "clips": [...]}."""
        return {
            "rtseg_eval": FORMAT,
            "version": __version__,
            "complete": self.complete
            and all(score.complete for score in self.scores)
            and all(clip.complete for clip in self.clips),
            "results": [result(score) for score in self.scores],
            "clips": [clip_result(clip) for clip in self.clips],
        }

    def lines(self, show_class: Sequence[str] = ()) -> list[str]:
        """Tables of the figures: every model on every set, the classes of a single one, the clips.

        Args:
            show_class: classes that get a column; by default all, if they are few.
        """
        tables = [score_table(self.scores, show_class)] if self.scores else []
        tables += [class_table(self.scores[0])] if len(self.scores) == 1 else []
        tables += [clip_table(self.clips)] if self.clips else []
        return [line for table in tables for line in ("", *table)][1:]

    def __repr__(self) -> str:
        return "\n".join(self.lines()) or "<Evaluation of nothing>"


def clip_result(clip: ClipScore) -> dict[str, Any]:
    """One model on one clip without labels: shares are 0 to 1, or None."""
    return {
        "clip": clip.clip,
        "network": clip.network,
        "smooth": clip.smooth,
        "complete": clip.complete,
        "frames": clip.frames,
        "pixels": clip.flicker.counted,
        "seconds": _number(clip.seconds),
        "flicker": _number(clip.flicker.share),
        "input": list(clip.input_size) if clip.input_size else None,
        "runs_on": asdict(clip.info) if clip.info else None,
    }


def result(score: Score) -> dict[str, Any]:
    """One model on one set: every figure is a share from 0 to 1, or None."""
    matrix = score.matrix
    return {
        "set": score.set_name,
        "network": score.network,
        "smooth": score.smooth,
        "complete": score.complete,
        "pictures": score.pictures,
        "pictures_chosen": score.chosen,
        "pictures_in_set": score.of,
        "pixels": matrix.pixels,
        "seconds": _number(score.seconds),
        "mean_iou": _number(matrix.mean_iou),
        "mean_accuracy": _number(matrix.mean_accuracy),
        "pixel_accuracy": _number(matrix.pixel_accuracy),
        "frequency_weighted_iou": _number(matrix.frequency_weighted_iou),
        "mean_boundary_f": _number(score.boundary.mean_score) if score.boundary else None,
        "flicker": _number(score.flicker.share),
        "classes": class_rows(score),
        "confusion": matrix.counts.tolist(),
        "mapping": list(score.mapping),
        "input_policy": score.policy,
        "inputs": [
            {"height": height, "width": width, "pictures": count}
            for (height, width), count in score.inputs.most_common()
        ],
        "runs_on": asdict(score.info) if score.info else None,
    }


def class_rows(score: Score) -> list[dict[str, Any]]:
    """Per class: name, IoU, accuracy, share of the labelled pixels, boundary F-score."""
    matrix = score.matrix
    boundary = score.boundary.class_score if score.boundary else [math.nan] * len(score.labels)
    true = matrix.true_pixels
    return [
        {
            "name": name,
            "iou": _number(matrix.class_iou[index]),
            "accuracy": _number(matrix.class_accuracy[index]),
            "share": _number(true[index] / matrix.pixels if matrix.pixels else math.nan),
            "boundary_f": _number(boundary[index]),
        }
        for index, name in enumerate(score.labels.names)
    ]


def score_table(scores: Sequence[Score], show_class: Sequence[str]) -> list[str]:
    """The figures of every model on every set."""
    shown = list(show_class) or _few(scores)
    extra = ["boundary F"] * any(s.boundary is not None for s in scores)
    extra += ["flicker"] * any(s.flicker.counted for s in scores)
    heads = ["set", "model", "images", *(f"IoU {name}" for name in shown)]
    heads += ["mIoU", "mean acc", "pixel acc", "fw IoU", *extra]
    return aligned(heads, (_row(s, shown, extra) for s in scores), right=range(2, len(heads)))


def _few(scores: Sequence[Score]) -> list[str]:
    names = dict.fromkeys(name for score in scores for name in score.labels.names)
    return list(names) if len(names) <= FEW_CLASSES else []


def _row(score: Score, shown: Sequence[str], extra: Sequence[str]) -> list[str]:
    matrix = score.matrix
    ious = dict(zip(score.labels.names, matrix.class_iou, strict=True))
    optional = {
        "boundary F": score.boundary.mean_score if score.boundary else None,
        "flicker": score.flicker.share,
    }
    of = "" if score.complete else f" of {score.chosen}"
    figures = [matrix.mean_iou, matrix.mean_accuracy, matrix.pixel_accuracy]
    figures += [matrix.frequency_weighted_iou]
    return [
        score.set_name,
        score.network,
        f"{score.pictures}{of}",
        *(figure(ious.get(name)) for name in shown),
        *map(figure, figures),
        *(figure(optional[name], 4) for name in extra),
    ]


def class_table(score: Score) -> list[str]:
    """One line per class."""
    keys = ["iou", "accuracy", "share", *(["boundary_f"] if score.boundary else [])]
    heads = ("class", "IoU", "accuracy", "share of truth", "boundary F")[: len(keys) + 1]
    rows = [(row["name"], *(figure(row[key]) for key in keys)) for row in class_rows(score)]
    return aligned(heads, rows, right=range(1, len(heads)))


def clip_table(scores: Sequence[ClipScore]) -> list[str]:
    """The flicker of every model on every clip."""
    rows = (
        [one.clip, one.network, str(one.frames), figure(100 * one.flicker.share, 3)]
        for one in scores
    )
    return aligned(["clip", "model", "frames", "flicker %"], rows, right=(2, 3))


def figure(value: float | None, digits: int = 3) -> str:
    """A share as text; "-" if not measured."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def write_confusion(score: Score, path: Path) -> None:
    """Write the matrix, each row as shares of the pixels that are its class.

    Raises:
        SinkError: it cannot be written.
    """
    save_figure(draw_confusion(score), path, crop=True)


def draw_confusion(score: Score) -> Figure:
    """The confusion matrix as a figure that grows with the number of classes, up to 22 inches.

    A row without pixels is grey. The column of pixels that were given no class is left out where
    there are none.
    """
    shares, names, predicted = _shares(score)
    cell = 1.1 if len(names) <= 4 else max(0.12, 0.46 - 0.004 * len(names))
    font = 10 if len(names) <= 4 else max(5.0, min(9.0, 21 * cell))
    margin = 0.35 + 0.011 * font * max(map(len, (*names, *predicted)))
    side = cell * len(names)
    figure = new_figure(margin + cell * len(predicted) + 1.3, margin + side + 0.75)
    width, height = figure.get_size_inches()
    box = margin / width, margin / height, cell * len(predicted) / width, side / height
    axes = figure.add_axes(box)
    drawn = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(predicted)), predicted, rotation=90, fontsize=font)
    axes.set_yticks(range(len(names)), names, fontsize=font)
    axes.set_xlabel("predicted", fontsize=10)
    axes.set_ylabel("true", fontsize=10)
    about = f"{score.network} on {score.set_name}: mIoU {score.matrix.mean_iou:.3f}, "
    about += f"{score.pictures} images"
    axes.set_title(about, fontsize=10, loc="left", parse_math=False)
    bar = figure.add_axes((box[0] + box[2] + 0.15 / width, box[1], 0.13 / width, box[3]))
    figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=8)
    if len(names) <= _NUMBERED:
        _write_numbers(axes, shares, min(10.0, 18 * cell))
    return figure


def _shares(score: Score) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """(C, C) or (C, C + 1) shares of each row, NaN in rows without pixels; names of both axes."""
    counts = score.matrix.counts
    names = list(score.labels.names)
    predicted = [*names, _NO_CLASS]
    if not counts[:, -1].any():
        counts, predicted = counts[:, :-1], names
    with np.errstate(invalid="ignore"):
        return counts / score.matrix.true_pixels[:, None], names, predicted


def _write_numbers(axes: Any, shares: NDArray[np.float64], font: float) -> None:
    """Percent in every cell that has any."""
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        share = shares[row, column]
        colour = "white" if share > 0.55 else "0.2"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
