"""A confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rtseg.errors import SinkError
from rtseg.evaluate.scoring import Score

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")

_DOTS = 150  # per inch
_NUMBERED = 25  # classes up to which each cell has its number
_NO_CLASS = "no class"


def write_confusion(score: Score, path: Path) -> None:
    """Write the matrix, each row as shares of the pixels that are its class.

    Raises:
        SinkError: it cannot be written.
    """
    figure = draw_confusion(score)
    try:
        figure.savefig(path, dpi=_DOTS, bbox_inches="tight", pad_inches=0.12)
    except OSError as error:
        raise SinkError(f"cannot write {path}", found=error.strerror or str(error)) from error


def draw_confusion(score: Score) -> Figure:
    """The figure, on a canvas of its own; grows with the number of classes, up to 22 inches.

    A row without pixels is hatched. The column of pixels that were given no class is left out
    where there are none.
    """
    shares, names, taken = _shares(score)
    cell = 1.1 if len(names) <= 4 else max(0.12, 0.46 - 0.004 * len(names))
    font = 10 if len(names) <= 4 else max(5.0, min(9.0, 21 * cell))
    margin = 0.35 + 0.011 * font * max(map(len, (*names, *taken)))
    side = cell * len(names)
    figure = Figure((margin + cell * len(taken) + 1.3, margin + side + 0.75))
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    box = margin / width, margin / height, cell * len(taken) / width, side / height
    axes = figure.add_axes(box)
    drawn = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(taken)), taken, rotation=90, fontsize=font)
    axes.set_yticks(range(len(names)), names, fontsize=font)
    axes.set_xlabel("taken for", fontsize=10)
    axes.set_ylabel("is", fontsize=10)
    about = f"{score.network} on {score.set_name}: mIoU {score.matrix.mean_iou:.3f}, "
    about += f"{score.pictures} pictures"
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
    taken = [*names, _NO_CLASS]
    if not counts[:, -1].any():
        counts, taken = counts[:, :-1], names
    with np.errstate(invalid="ignore"):
        return counts / score.matrix.true_pixels[:, None], names, taken


def _write_numbers(axes: Any, shares: NDArray[np.float64], font: float) -> None:
    """Percent in every cell that has any."""
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        share = shares[row, column]
        colour = "white" if share > 0.55 else "0.2"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour)
