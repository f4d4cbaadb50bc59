"""What is minimised, and how the steps are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rtseg.datasets import Sample
from rtseg.datasets.classmap import Table
from rtseg.errors import UsageError
from rtseg.frame import VOID
from rtseg.labels import LabelSet
from rtseg.train.settings import Settings

POLY_POWER = 0.9
"""Of the schedule of DeepLab (Chen et al., 2017, arXiv:1606.00915)."""


def pixel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labelled pixels, and what to divide it by for their mean.

    Apart, so that a batch without a labelled pixel counts for nothing instead of 0/0, and means
    over many batches are exact.

    Args:
        logits: (N, C, h, w).
        labels: (N, h, w) int64; 255 is not counted.
        weights: (C,) of the classes, or None.
    """
    total = nn.functional.cross_entropy(
        logits, labels, weight=weights, ignore_index=VOID, reduction="sum"
    )
    known = labels[labels != VOID]
    count = (
        weights[known].sum()
        if weights is not None
        else torch.tensor(float(known.numel())).to(total)
    )
    return total, count


def training_loss(
    outputs: Mapping[str, Tensor], labels: Tensor, weights: Tensor | None, aux_weight: float
) -> Tensor:
    """Mean cross-entropy of the network's output, plus `aux_weight` times its auxiliary head's."""
    tiny = torch.finfo(torch.float32).tiny
    means = {
        name: total / count.clamp(min=tiny)
        for name, output in outputs.items()
        for total, count in [pixel_loss(output, labels, weights)]
    }
    return means["out"] + aux_weight * means["aux"] if "aux" in means else means["out"]


def make_optimizer(settings: Settings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that was asked for."""
    lr, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay)


def schedule(kind: str, steps: int) -> Callable[[int], float]:
    """By what the learning rate is multiplied at a step, counted from 0, of so many.

    A function of the step alone: a run that is resumed needs nothing else to go on.
    """
    if kind == "poly":
        return lambda step: max(0.0, 1 - step / steps) ** POLY_POWER
    if kind == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return lambda step: 1.0


def class_weights(
    asked: str, labels: LabelSet, samples: Sequence[Sample], table: Table
) -> tuple[float, ...] | None:
    """A weight per class for the loss: none, those given, or by median frequency.

    "auto" is median frequency balancing (Eigen and Fergus, 2015, arXiv:1411.4734): the median of
    the classes' shares over a class's own, a share being taken over the pictures that have the
    class. A class that is in no picture weighs 1.

    Raises:
        UsageError: they cannot be read, or are not one positive number per class.
    """
    if asked == "none":
        return None
    if asked == "auto":
        return _balanced(len(labels), samples, table)
    return given_weights(asked, labels)


def given_weights(asked: str, labels: LabelSet) -> tuple[float, ...]:
    """The weights that were written out, one per class.

    Raises:
        UsageError: they cannot be read, or are not one positive number per class.
    """
    try:
        given = tuple(float(part) for part in asked.split(","))
    except ValueError:
        given = ()
    if len(given) != len(labels) or not all(0 <= w < math.inf for w in given) or not any(given):
        raise UsageError(
            f"--class-weights {asked}",
            found=f"it is none, auto, or {len(labels)} numbers with commas between, for "
            + ", ".join(labels.names),
        )
    return given


def _balanced(count: int, samples: Sequence[Sample], table: Table) -> tuple[float, ...]:
    pixels, room = np.zeros(count), np.zeros(count)
    for sample in samples:
        found = np.bincount(sample.read_as(table).ravel(), minlength=256)[:count]
        pixels += found
        room += found.sum() * (found > 0)
    shares = np.divide(pixels, room, out=np.full(count, np.nan), where=room > 0)
    weights = np.nanmedian(shares) / shares
    return tuple(float(w) for w in np.nan_to_num(weights, nan=1.0))
