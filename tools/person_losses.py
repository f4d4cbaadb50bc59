"""What train_person.py makes small: against labels and teachers, pixel by pixel and as overlap."""

from person_pictures import BACKGROUND, IGNORE, PERSON
from person_views import HIGH_STRIDE, OUTSIDE
from torch import Tensor
from torch.nn import functional

LABELLED_TEACHER, IGNORED_TEACHER = 0.15, 0.4
"""How far the teachers' probability of person counts, where there are labels and where not."""

CLASS_TEACHER, OVERLAP = 0.3, 0.5
EDGE, EDGE_REACH = 2.0, 3
"""How much more counts what lies at a labelled edge, and how far that is, in pixels of stride 2.

There lies half of what is wrong, and there teachers, whose scores are of stride 16, know nothing.
"""


def all_losses(
    logits: Tensor, class_logits: Tensor, labels: Tensor, teacher: Tensor, classes: Tensor
) -> Tensor:
    """Return the sum to make small, a number.

    `logits` (N,2,S/8,S/8) and `class_logits` (N,21,S/16,S/16) float, the student's; `labels` and
    `teacher` (N,S,S) uint8 and `classes` (N,21,S/16,S/16) float as in `person_views.View`.
    """
    margin = functional.interpolate(
        (logits[:, 1:] - logits[:, :1]).float(), scale_factor=4, mode="bilinear"
    )
    return (
        person_loss(margin, labels, teacher)
        + OVERLAP * overlap_loss(margin, labels)
        + CLASS_TEACHER * class_loss(class_logits, classes, labels)
    )


def person_loss(margin: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """Return cross-entropy against labels and teacher at stride 2; at edges, against labels alone.

    `margin` (N,1,S/2,S/2) float: the logit of person; `labels`, `teacher` (N,S,S) uint8.
    """
    person, known = person_and_known(labels)
    ignored, taught = halved(labels == IGNORE), halved(teacher)
    hard = functional.binary_cross_entropy_with_logits(margin, person, reduction="none")
    soft = functional.binary_cross_entropy_with_logits(margin, taught / 255, reduction="none")
    edge = at_edges(person) * known
    trust = LABELLED_TEACHER * known * (1 - edge) + IGNORED_TEACHER * ignored
    return (hard * known * (1 + EDGE * edge) + soft * trust).mean()


def at_edges(person: Tensor) -> Tensor:
    """Return (N,1,S/2,S/2) float, 1 or 0: whether both person and others are within reach."""
    sure, size = (person > 0.5).float(), 2 * EDGE_REACH + 1
    return functional.max_pool2d(sure, size, 1, EDGE_REACH) + functional.max_pool2d(
        -sure, size, 1, EDGE_REACH
    )


def overlap_loss(margin: Tensor, labels: Tensor) -> Tensor:
    """Return 1 less the IoU of the batch's people, of probabilities and soft labels.

    Pooled over the batch, as the measure is over a set: a crop without people counts by what is
    found in it. The sums are those of Wang et al., "Jaccard Metric Losses", 2023, which are least
    at the label's own value even where that is between 0 and 1. Arguments as in `person_loss`.
    """
    person, known = person_and_known(labels)
    found = margin.sigmoid()
    together = (known * (found + person)).sum()
    apart = (known * (found - person).abs()).sum()
    return 2 * apart / (together + apart).clamp(min=1)


def person_and_known(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,1,S/2,S/2) float: the share of person in what is labelled, and of what is."""
    known = halved((labels == PERSON) | (labels == BACKGROUND))
    return halved(labels == PERSON) / known.clamp(min=0.25), known


def halved(plane: Tensor) -> Tensor:
    """Return (N,S,S) as (N,1,S/2,S/2) float means."""
    return functional.avg_pool2d(plane.float()[:, None], 2)


def class_loss(logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy with the teacher's probabilities, where these are known and inside.

    `logits`, `teacher` (N,21,S/16,S/16) float, NaN where unknown; `labels` (N,S,S) uint8.
    """
    inside = functional.avg_pool2d((labels != OUTSIDE).float()[:, None], HIGH_STRIDE)[:, 0] > 0.5
    known = (inside & ~teacher[:, 0].isnan()).float()
    target = teacher.nan_to_num()
    return weighted_mean(-(target * logits.float().log_softmax(dim=1)).sum(dim=1), known)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of `values` under `weights`, 0 if these are all 0."""
    return (values * weights).sum() / weights.sum().clamp(min=1)
