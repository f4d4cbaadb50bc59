"""The loss, the schedules and the class weights, against torch's and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.datasets import Sample
from rtseg.errors import UsageError
from rtseg.labels import VOID, LabelSet
from rtseg.train import TrainOptions
from rtseg.train.trainable import (
    Validation,
    class_weights,
    make_optimizer,
    pixel_loss,
    schedule,
    training_loss,
)

LABELS = LabelSet(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
IDENTITY = np.arange(256, dtype=np.uint8)


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 9, 7, generator=generator)
    labels = torch.randint(0, 3, (2, 9, 7), generator=generator)
    labels[0, :4] = VOID
    return logits, labels


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.0, 3.5])])
def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_pixels(
    weights: torch.Tensor | None,
) -> None:
    logits, labels = scene()
    mean = nn.functional.cross_entropy(logits, labels, weight=weights, ignore_index=VOID)
    total, count = pixel_loss(logits, labels, weights)
    assert torch.allclose(total / count, mean)
    assert torch.allclose(training_loss({"out": logits}, labels, weights, 0.5), mean)


def test_the_auxiliary_head_counts_with_its_weight() -> None:
    logits, labels = scene()
    other, _ = scene(1)
    main, aux = (training_loss({"out": out}, labels, None, 0.5) for out in (logits, other))
    both = training_loss({"out": logits, "aux": other}, labels, None, 0.25)
    assert torch.allclose(both, main + 0.25 * aux)


def test_a_batch_without_a_labelled_pixel_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = training_loss({"out": logits}, torch.full((1, 4, 4), VOID), None, 0.5)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_validation_without_a_labelled_pixel_has_no_loss() -> None:
    validation = Validation(3)
    validation.add(torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), VOID))
    assert np.isnan(validation.compute().loss)


def test_validation_in_parts_is_validation_in_one() -> None:
    logits, labels = scene()
    whole, parts = Validation(3), Validation(3)
    whole.add(logits, labels)
    for index in range(2):
        parts.add(logits[index : index + 1], labels[index : index + 1])
    assert parts.compute().loss == pytest.approx(whole.compute().loss, abs=1e-6)
    mean = nn.functional.cross_entropy(logits, labels, ignore_index=VOID).item()
    assert whole.compute().loss == pytest.approx(mean, abs=1e-6)
    assert (parts.compute().matrix.counts == whole.compute().matrix.counts).all()


def test_a_validation_knows_truth_from_prediction() -> None:
    logits, labels = scene()
    validation = Validation(3)
    validation.add(logits, labels)
    counts = validation.compute().matrix.counts
    known = labels != VOID
    for truth in range(3):
        for predicted in range(3):
            both = (labels == truth) & (logits.argmax(1) == predicted) & known
            assert counts[truth, predicted] == int(both.sum())


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("poly", lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=20, power=0.9)),
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_schedules_are_torchs(kind: str, theirs: object) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer)  # type: ignore[operator]
    ours = schedule(kind, 20)
    for step in range(20):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_optimizers_have_what_was_asked_for() -> None:
    network = nn.Linear(2, 2)
    adam = make_optimizer(TrainOptions("x", weight_decay=0.01), network.parameters())
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (1e-4, 0.01)
    sgd = make_optimizer(TrainOptions("x", optimizer="sgd"), network.parameters())
    assert (sgd.defaults["lr"], sgd.defaults["momentum"]) == (1e-3, 0.9)
    adamw = make_optimizer(TrainOptions("x", optimizer="adamw", lr=2.0), network.parameters())
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["lr"] == 2.0


def masked(*rows: list[int]) -> list[Sample]:
    return [
        Sample(str(i), Path(), lambda row=row: np.array([row], np.uint8))
        for i, row in enumerate(rows)
    ]


def test_class_weights_balance_by_median_frequency() -> None:
    samples = masked([0, 0, 0, 1], [0, 0, 0, 0], [0, 0, VOID, VOID])
    found = class_weights("auto", LABELS, samples, IDENTITY)
    # shares over the pictures that have the class: a 9/10, b 1/4; their median 0.575; c is nowhere
    assert found == pytest.approx((0.575 / 0.9, 0.575 / 0.25, 1.0))


def test_class_weights_are_taken_as_they_are_given() -> None:
    assert class_weights("1,0.5,2", LABELS, [], IDENTITY) == (1, 0.5, 2)
    assert class_weights("none", LABELS, [], IDENTITY) is None


@pytest.mark.parametrize("given", ["1,2", "1,2,x", "1,-2,3", "0,0,0", "inf,1,1", "often"])
def test_class_weights_that_make_no_sense_are_refused(given: str) -> None:
    with pytest.raises(UsageError, match="3 comma-separated numbers, for a, b, c"):
        class_weights(given, LABELS, [], IDENTITY)
