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
from rtseg.training import TrainOptions
from rtseg.training.losses import (
    OVERLAPS,
    Recipe,
    borders,
    class_weights,
    parse_terms,
    pixel_loss,
)
from rtseg.training.trainable import Trainable, Validation, make_optimizer, open_fabric, schedule

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
    assert torch.allclose(Recipe(classes=weights).loss({"out": logits}, labels), mean)


def test_the_auxiliary_head_counts_with_its_weight() -> None:
    logits, labels = scene()
    other, _ = scene(1)
    main, aux = (Recipe(aux=0.5).loss({"out": out}, labels) for out in (logits, other))
    both = Recipe(aux=0.25).loss({"out": logits, "aux": other}, labels)
    assert torch.allclose(both, main + 0.25 * aux)


@pytest.mark.parametrize("edge", [0.0, 2.0])
def test_a_batch_without_a_labelled_pixel_teaches_nothing(edge: float) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    recipe = Recipe((("ce", 1.0), ("dice", 1.0), ("lovasz", 1.0), ("jaccard", 1.0)), edge=edge)
    loss = recipe.loss({"out": logits}, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def certain(labels: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """Logits of which softmax makes the labels themselves; of VOID, class 0."""
    known = labels.where(labels != VOID, 0)
    return 200.0 * nn.functional.one_hot(known, classes).movedim(-1, 1)


@pytest.mark.parametrize("name", OVERLAPS)
def test_losses_of_overlap_are_1_less_the_overlap_of_masks(name: str) -> None:
    logits, labels = scene()
    predicted = logits.argmax(1)
    known = labels != VOID
    expected = []
    for index in labels[known].unique():
        truth, found = (labels == index) & known, (predicted == index) & known
        both, either = (truth & found).sum(), (truth | found).sum()
        dice = 2 * both / (truth.sum() + found.sum())
        expected.append(1 - (dice if name == "dice" else both / either))
    recipe = Recipe(((name, 2.0),))
    found = recipe.loss({"out": certain(predicted)}, labels)
    assert found.item() == pytest.approx(2 * float(torch.stack(expected).mean()), abs=1e-5)
    assert recipe.loss({"out": certain(labels)}, labels).item() == pytest.approx(0, abs=1e-5)


def test_lovasz_lies_above_the_jaccard_index_between_masks() -> None:
    # by hand (Berman et al., 2018): errors 0.6 of a pixel of the class, 0.5 of another, 0.1
    probabilities = torch.tensor([[0.4, 0.5, 0.9]])
    truth = torch.tensor([[1.0, 0.0, 1.0]])
    # the index after each error, sorted: 1/2, 2/3, 1
    expected = 0.6 * 1 / 2 + 0.5 * (2 / 3 - 1 / 2) + 0.1 * (1 - 2 / 3)
    assert OVERLAPS["lovasz"](probabilities, truth).item() == pytest.approx(expected)


def test_an_absent_class_does_not_count_as_overlap() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    for name in OVERLAPS:
        assert Recipe(((name, 1.0),)).loss({"out": certain(labels)}, labels).item() < 1e-5


def test_borders_are_where_two_classes_meet() -> None:
    labels = torch.zeros(1, 5, 9, dtype=torch.int64)
    labels[:, :, 5:] = 2
    labels[:, :, 8] = VOID
    assert borders(labels, 1)[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert borders(labels, 2)[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_pixels_at_borders_weigh_more() -> None:
    logits, _ = scene()
    labels = torch.zeros(2, 9, 7, dtype=torch.int64)
    labels[:, 5:] = 1
    labels[0, :, 0] = VOID
    weights = torch.tensor([1.0, 3.0, 1.0])
    each = nn.functional.cross_entropy(
        logits, labels, weight=weights, ignore_index=VOID, reduction="none"
    )
    edge = borders(labels, 2)
    known = (labels != VOID).float() * weights[labels.where(labels != VOID, 0)]
    expected = (each * (1 + 4 * edge)).sum() / known.sum()
    recipe = Recipe(classes=weights, edge=4.0, reach=2)
    assert torch.allclose(recipe.loss({"out": logits}, labels), expected)


def test_losses_are_parsed_with_their_weights() -> None:
    assert parse_terms(["ce", "dice=0.5"]) == (("ce", 1.0), ("dice", 0.5))


@pytest.mark.parametrize(
    "given", [(), ("",), ("focal",), ("ce", "ce=2"), ("dice=0",), ("ce=x",), ("ce=nan",)]
)
def test_losses_that_make_no_sense_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--loss"):
        parse_terms(given)


def tiny(**options: object) -> Trainable:
    torch.manual_seed(0)
    network = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 1), "classifier": nn.Conv2d(4, 3, 1)})

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.classifier = network["backbone"], network["classifier"]

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.classifier(self.backbone(image))}

    settings = TrainOptions("x", device="cpu", precision="fp32", optimizer="sgd", **options)  # type: ignore[arg-type]
    return Trainable(open_fabric(settings)[0], Tiny(), settings, 3, Recipe())


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(4, 3, 5, 5, generator=generator),
        torch.randint(0, 3, (4, 5, 5), generator=generator),
    )


def after_a_step(trainable: Trainable) -> dict[str, torch.Tensor]:
    trainable.step(batch(), 0.1)
    return trainable.weights()


def test_accumulated_batches_take_the_step_of_one() -> None:
    whole, parts = after_a_step(tiny()), after_a_step(tiny(accumulate=4))
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-6)


def test_a_frozen_backbone_stays_and_then_learns() -> None:
    trainable = tiny()
    before = trainable.weights()
    trainable.train_mode(frozen=True)
    frozen = after_a_step(trainable)
    assert torch.equal(frozen["backbone.weight"], before["backbone.weight"])
    assert not torch.equal(frozen["classifier.weight"], before["classifier.weight"])
    trainable.train_mode()
    assert not torch.equal(after_a_step(trainable)["backbone.weight"], before["backbone.weight"])


def test_the_backbone_has_a_learning_rate_of_its_own() -> None:
    before, usual, slow = (
        tiny().weights(),
        after_a_step(tiny()),
        after_a_step(tiny(backbone_lr=0.25)),
    )
    moved = usual["backbone.weight"] - before["backbone.weight"]
    assert torch.allclose(slow["backbone.weight"] - before["backbone.weight"], moved / 4, atol=1e-7)
    assert torch.equal(slow["classifier.weight"], usual["classifier.weight"])


def test_a_long_gradient_is_clipped() -> None:
    before = tiny().weights()
    clipped = after_a_step(tiny(clip=1e-3, weight_decay=0.0))
    moved = torch.cat([(clipped[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_the_learning_rate_warms_up() -> None:
    rate = schedule("constant", 20, warmup=3)
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


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
    adam = make_optimizer(TrainOptions("x", weight_decay=0.01), network)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (1e-4, 0.01)
    sgd = make_optimizer(TrainOptions("x", optimizer="sgd"), network)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"]) == (1e-3, 0.9)
    adamw = make_optimizer(TrainOptions("x", optimizer="adamw", lr=2.0), network)
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
