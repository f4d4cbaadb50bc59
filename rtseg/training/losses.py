"""What training makes small: cross-entropy and losses of overlap, of labels and of teachers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rtseg.datasets import Sample
from rtseg.datasets.contract import Table
from rtseg.errors import UsageError
from rtseg.labels import VOID, LabelSet

OverlapLoss = Callable[[Tensor, Tensor], Tensor]
"""From probabilities and true shares, (C, P) each, to one loss per class, (C,); all of them for
classes in the truth only. Both are 0 at pixels without a label, which changes nothing."""


def dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice coefficient (Milletari et al., 2016, arXiv:1606.04797)."""
    both = (probabilities * truth).sum(1)
    return 1 - 2 * both / (probabilities.sum(1) + truth.sum(1)).clamp(min=1e-6)


def jaccard(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - IoU, least at the truth even where that is soft (Wang et al., 2023, arXiv:2302.05666)."""
    together = (probabilities + truth).sum(1)
    apart = (probabilities - truth).abs().sum(1)
    return 2 * apart / (together + apart).clamp(min=1e-6)


def lovasz(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Lovász-softmax, a convex surrogate of 1 - IoU (Berman et al., 2018, arXiv:1705.08790)."""
    errors, order = (truth - probabilities).abs().sort(1, descending=True)
    ordered = truth.gather(1, order)
    total = ordered.sum(1, keepdim=True)
    index = 1 - (total - ordered.cumsum(1)) / (total + (1 - ordered).cumsum(1)).clamp(min=1e-6)
    return (errors * index.diff(dim=1, prepend=torch.zeros_like(total))).sum(1)


OVERLAPS: dict[str, OverlapLoss] = {"dice": dice, "jaccard": jaccard, "lovasz": lovasz}

CROSS_ENTROPY = "ce"

SAMPLES = 4
"""Of a teacher's classes, along each side of what one of the network's cells covers."""


@dataclass(frozen=True)
class Recipe:
    """What the loss of a step consists of.

    Attributes:
        terms: names of losses and their weights.
        classes: a weight per class for cross-entropy, (C,), or None.
        aux: weight of the auxiliary head's loss.
        edge: how much more a pixel at a border of classes weighs in cross-entropy.
        reach: how near to a border that is, in pixels.
        teacher: weight of the teachers' loss.
        temperature: of the teachers' loss.
        taught: weight of the loss of the first teacher's own classes.
    """

    terms: tuple[tuple[str, float], ...] = ((CROSS_ENTROPY, 1.0),)
    classes: Tensor | None = None
    aux: float = 0.0
    edge: float = 0.0
    reach: int = 3
    teacher: float = 0.0
    temperature: float = 1.0
    taught: float = 0.0

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, soft: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: (N, C, h, w) logits, "out" and perhaps "aux"; perhaps "taught", as
                `rtseg.training.teachers.ClassHead` gives it.
            labels: (N, h, w) int64; 255 is ignored.
            soft: (N, 1 + C + T, h, w) uint8, as in `rtseg.training.teachers.Soft`.
        """
        logits, taught_here = outputs["out"].float(), soft is not None and self.teacher
        near = borders(labels, self.reach) if self.edge or taught_here else None
        loss = self._of(logits, labels, near)
        if soft is not None and self.teacher:
            assert near is not None
            loss = loss + self.teacher * teacher_loss(logits, labels, soft, near, self.temperature)
        if soft is not None and "taught" in outputs:
            own = soft[:, 1 + outputs["out"].shape[1] :]
            loss = loss + self.taught * taught_loss(outputs["taught"].float(), own, soft[:, :1])
        if "aux" in outputs and self.aux:
            loss = loss + self.aux * self._of(outputs["aux"].float(), labels, near)
        return loss

    def _of(self, logits: Tensor, labels: Tensor, near: Tensor | None) -> Tensor:
        total = logits.sum() * 0  # of a batch without a labelled pixel
        overlaps = [(OVERLAPS[name], w) for name, w in self.terms if name != CROSS_ENTROPY and w]
        if overlaps:
            counts = labels.flatten().bincount(minlength=logits.shape[1])
            present = counts[: logits.shape[1]].nonzero()[:, 0]
            if len(present):
                known = (labels != VOID)[:, None]
                found = logits.softmax(1)[:, present] * known
                truth = (labels[:, None] == present[:, None, None]).to(found)
                pair = [each.movedim(1, 0).flatten(1) for each in (found, truth)]
                for overlap, weight in overlaps:
                    total = total + weight * overlap(*pair).mean()
        if entropy := sum(weight for name, weight in self.terms if name == CROSS_ENTROPY):
            total = total + entropy * self._cross_entropy(logits, labels, near)
        return total

    def _cross_entropy(self, logits: Tensor, labels: Tensor, near: Tensor | None) -> Tensor:
        weights = None if self.classes is None else self.classes.to(logits)
        if near is None or not self.edge:
            summed, count = pixel_loss(logits, labels, weights)
            return summed / count.clamp(min=torch.finfo(torch.float32).tiny)
        known = (labels != VOID).to(logits)
        if weights is not None:
            known = known * weights[labels.where(labels != VOID, 0)]
        each = functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
        weighed = each * known * (1 + self.edge * near)
        return weighed.sum() / known.sum().clamp(min=torch.finfo(torch.float32).tiny)


def teacher_loss(
    logits: Tensor, labels: Tensor, soft: Tensor, near: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy with the teachers' probabilities (Hinton et al., 2015, arXiv:1503.02531).

    Left out are pixels where the teachers differ, where a label says otherwise, and those near a
    labelled border, which teachers of a coarser stride do not know; a batch of these has loss 0.

    Args:
        logits, labels, soft: as `Recipe.loss` takes them.
        near: where a border is near, (N, h, w) float 0 or 1.
    """
    shares = soft[:, 1 : 1 + logits.shape[1]].float()
    void = labels == VOID
    labelled = shares.gather(1, labels.where(~void, 0)[:, None])[:, 0]
    trusted = (soft[:, 0] < 128) & (void | (labelled == shares.amax(1))) & (near == 0)
    shares = shares.clamp(min=1e-3)
    if temperature != 1:
        shares = shares ** (1 / temperature)
    shares = shares / shares.sum(1, keepdim=True)
    each = -(shares * (logits / temperature).log_softmax(1)).sum(1) * temperature**2
    return (each * trusted).sum() / trusted.sum().clamp(min=1)


def taught_loss(logits: Tensor, soft: Tensor, distrust: Tensor) -> Tensor:
    """Cross-entropy with all classes of a teacher, at the logits' own size.

    Args:
        logits: (N, T, h', w').
        soft: (N, T, h, w) uint8, 255 times the probabilities.
        distrust: (N, 1, h, w) uint8, 255 where the teacher has seen something else, or nothing.
    """
    size = logits.shape[2], logits.shape[3]
    down, across = (
        slice(apart // 2, None, apart)
        for side, cells in zip(soft.shape[2:], size, strict=True)
        for apart in (max(1, side // (SAMPLES * cells)),)
    )
    sampled = (each[:, :, down, across] for each in (soft, distrust))
    shares, doubts = (functional.adaptive_avg_pool2d(each.float(), size) for each in sampled)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1)
    trusted = doubts[:, 0] < 128
    each = -(shares * logits.log_softmax(1)).sum(1)
    return (each * trusted).sum() / trusted.sum().clamp(min=1)


def borders(labels: Tensor, reach: int) -> Tensor:
    """Where two classes lie within `reach` pixels, as (N, h, w) float 0 or 1.

    Args:
        labels: (N, h, w) int64; 255 is not a class.
    """
    void = labels == VOID
    planes = labels.float()
    # the largest and the smallest class in reach: rows first, then columns, costs less than squares
    extremes = torch.stack([planes.where(~void, -1.0), -planes.where(~void, 256.0)], 1)
    across = functional.max_pool2d(extremes, (1, 2 * reach + 1), 1, (0, reach))
    most, least = functional.max_pool2d(across, (2 * reach + 1, 1), 1, (reach, 0)).unbind(1)
    return ((most > -least) & ~void).float()


def pixel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labelled pixels, and the divisor for their mean.

    Returned separately, so that a batch without labelled pixels adds nothing instead of 0/0, and
    means over many batches are exact.

    Args:
        logits: (N, C, h, w).
        labels: (N, h, w) int64; 255 is ignored.
        weights: (C,) per class, or None.
    """
    total = functional.cross_entropy(
        logits, labels, weight=weights, ignore_index=VOID, reduction="sum"
    )
    known = labels[labels != VOID]
    count = (
        weights[known].sum()
        if weights is not None
        else torch.tensor(float(known.numel())).to(total)
    )
    return total, count


def parse_terms(requested: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parse losses such as "ce" or "dice=0.5".

    Raises:
        UsageError: a name is unknown or given twice, or a weight is not above 0.
    """
    names = (CROSS_ENTROPY, *OVERLAPS)
    terms: dict[str, float] = {}
    for text in requested:
        name, equals, number = text.partition("=")
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = math.nan
        if name not in names or name in terms or not 0 < weight <= 1000:
            raise UsageError(
                f"--loss {text}",
                found=f"losses are {', '.join(names)}, each once, with a weight such as dice=0.5",
            )
        terms[name] = weight
    if not terms:
        raise UsageError("--loss is empty", do=f"Name one of {', '.join(names)}")
    return tuple(terms.items())


def class_weights(
    requested: str, labels: LabelSet, samples: Sequence[Sample], table: Table
) -> tuple[float, ...] | None:
    """A weight per class for the loss: none, the given ones, or by median frequency.

    "auto" is median frequency balancing (Eigen and Fergus, 2015, arXiv:1411.4734): the median of
    all classes' shares divided by a class's own, each share taken over the images that have the
    class. A class that no image has weighs 1.

    Raises:
        UsageError: they cannot be parsed, or are not one non-negative number per class.
    """
    if requested == "none":
        return None
    if requested == "auto":
        return _balanced(len(labels), samples, table)
    return parse_weights(requested, labels)


def parse_weights(requested: str, labels: LabelSet) -> tuple[float, ...]:
    """Parse comma-separated weights, one per class.

    Raises:
        UsageError: they cannot be parsed, or are not one non-negative number per class.
    """
    try:
        given = tuple(float(part) for part in requested.split(","))
    except ValueError:
        given = ()
    if len(given) != len(labels) or not all(0 <= w < math.inf for w in given) or not any(given):
        raise UsageError(
            f"--class-weights {requested}",
            found=f"it must be none, auto, or {len(labels)} comma-separated numbers, for "
            + ", ".join(labels.names),
        )
    return given


def _balanced(count: int, samples: Sequence[Sample], table: Table) -> tuple[float, ...]:
    pixels, totals = np.zeros(count), np.zeros(count)
    for sample in samples:
        found = np.bincount(sample.read_as(table).ravel(), minlength=256)[:count]
        pixels += found
        totals += found.sum() * (found > 0)
    shares = np.divide(pixels, totals, out=np.full(count, np.nan), where=totals > 0)
    weights = np.nanmedian(shares) / shares
    return tuple(float(w) for w in np.nan_to_num(weights, nan=1.0))
