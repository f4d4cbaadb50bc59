"""The figures of a validation: exact over every device, whatever the size of the last batch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rtseg.frame import VOID
from rtseg.metrics import ConfusionMatrix
from rtseg.train.lightning_import import MulticlassConfusionMatrix, SumMetric
from rtseg.train.loss import pixel_loss


@dataclass(frozen=True)
class Figures:
    """What a validation found.

    Attributes:
        loss: mean cross-entropy of the labelled pixels; NaN where there are none.
        matrix: of truth and prediction.
    """

    loss: float
    matrix: ConfusionMatrix


class Validation(nn.Module):
    """Adds up batches; `compute` adds up the processes.

    torchmetrics keeps the counts where the network is, and sums them over all processes.
    """

    def __init__(self, num_classes: int, weights: Tensor | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.counts = MulticlassConfusionMatrix(num_classes, ignore_index=VOID, validate_args=False)
        # not torchmetrics' MeanMetric: told to leave NaN alone, it leaves the weights alone too
        self.loss = SumMetric(nan_strategy="disable")
        self.pixels = SumMetric(nan_strategy="disable")

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: (N, C, h, w) logits at the labels' size, (N, h, w) int64 labels."""
        total, count = pixel_loss(logits.float(), labels, self.weights)
        self.loss.update(total)
        self.pixels.update(count)
        self.counts.update(logits.argmax(1), labels)

    def compute(self) -> Figures:
        """The figures of all that every process added; every process must ask."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a process may have added nothing
            counts = self.counts.compute()
            loss, pixels = float(self.loss.compute()), float(self.pixels.compute())
        matrix = ConfusionMatrix(len(counts))
        matrix.counts[:, :-1] = counts.cpu().to(torch.int64).numpy()
        return Figures(loss / pixels if pixels else float("nan"), matrix)
