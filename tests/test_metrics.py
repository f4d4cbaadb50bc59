"""Figures of masks, beside two independent libraries and cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from rtseg.labels import VOID
from rtseg.metrics import (
    BoundaryScore,
    ConfusionMatrix,
    Flicker,
    static_in_images,
    static_in_labels,
)
from rtseg.nets.build import segmentation

CLASSES = 7


def random_masks(seed: int, size: tuple[int, int] = (61, 83)) -> tuple[np.ndarray, np.ndarray]:
    """Truth with unknown pixels, and a prediction that is right more often than not."""
    dice = np.random.default_rng(seed)
    truth = dice.integers(0, CLASSES - 1, size).astype(np.uint8)  # the last class never is
    guess = dice.integers(0, CLASSES, size).astype(np.uint8)
    predicted = np.where(dice.random(size) < 0.6, truth, guess).astype(np.uint8)
    truth[dice.random(size) < 0.1] = VOID
    return truth, predicted


def counted(*pairs: tuple[np.ndarray, np.ndarray], classes: int = CLASSES) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    for truth, predicted in pairs:
        matrix.update(truth, predicted)
    return matrix


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_agrees_with_scikit_learn(seed: int) -> None:
    pairs = [random_masks(seed), random_masks(seed + 100, (17, 9))]
    matrix = counted(*pairs)
    truth = np.concatenate([t[t != VOID] for t, _ in pairs])
    predicted = np.concatenate([p[t != VOID] for t, p in pairs])
    labels = list(range(CLASSES))
    expected = confusion_matrix(truth, predicted, labels=labels)
    assert (matrix.counts[:, :CLASSES] == expected).all()
    assert (matrix.counts[:, CLASSES] == 0).all()
    iou = jaccard_score(truth, predicted, labels=labels, average=None, zero_division=0)
    np.testing.assert_allclose(matrix.class_iou, iou, atol=1e-12)
    recall = recall_score(truth, predicted, labels=labels[:-1], average=None)
    np.testing.assert_allclose(matrix.class_accuracy[:-1], recall, atol=1e-12)
    assert math.isnan(matrix.class_accuracy[-1])
    assert matrix.mean_iou == pytest.approx(iou.mean(), abs=1e-12)
    assert matrix.mean_accuracy == pytest.approx(recall.mean(), abs=1e-12)
    assert matrix.pixel_accuracy == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    weighted = jaccard_score(truth, predicted, labels=labels, average="weighted")
    assert matrix.frequency_weighted_iou == pytest.approx(weighted, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_matrix_and_iou_agree_with_torchmetrics(seed: int) -> None:
    segmentation()  # torchmetrics imports torchvision, which not every build of torch can
    from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

    truth, predicted = random_masks(seed)
    matrix = counted((truth, predicted))
    given = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    theirs = MulticlassConfusionMatrix(CLASSES, ignore_index=VOID)(*given)
    assert (matrix.counts[:, :CLASSES] == theirs.numpy()).all()
    each = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=VOID)(*given)
    np.testing.assert_allclose(matrix.class_iou, each.numpy(), atol=1e-6)
    mean = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=VOID)(*given)
    assert matrix.mean_iou == pytest.approx(float(mean), abs=1e-6)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    """Breaks when the matrix is transposed: IoU would not, accuracy and this do."""
    truth = np.array([[0, 0, 0, 1]], np.uint8)
    predicted = np.array([[0, 1, 1, 1]], np.uint8)
    matrix = counted((truth, predicted), classes=2)
    assert matrix.counts.tolist() == [[1, 2, 0], [0, 1, 0]]
    np.testing.assert_allclose(matrix.class_accuracy, [1 / 3, 1])
    np.testing.assert_allclose(matrix.class_iou, [1 / 3, 1 / 3])
    assert matrix.frequency_weighted_iou == pytest.approx(1 / 3)
    assert matrix.mean_accuracy == pytest.approx(2 / 3)
    assert matrix.pixel_accuracy == 0.5


def test_unknown_truth_is_left_out_and_an_unknown_prediction_is_wrong() -> None:
    truth = np.array([[0, 0, 1, 1, VOID, VOID]], np.uint8)
    predicted = np.array([[0, VOID, 1, 1, 0, VOID]], np.uint8)
    matrix = counted((truth, predicted), classes=2)
    assert matrix.pixels == 4
    assert matrix.counts.tolist() == [[1, 0, 1], [0, 2, 0]]
    np.testing.assert_allclose(matrix.class_iou, [0.5, 1])
    assert matrix.pixel_accuracy == 0.75


def test_a_class_that_is_nowhere_has_no_figure_and_does_not_lower_the_mean() -> None:
    mask = np.array([[0, 2]], np.uint8)
    matrix = counted((mask, mask), classes=4)
    assert np.isnan(matrix.class_iou).tolist() == [False, True, False, True]
    assert matrix.mean_iou == matrix.mean_accuracy == matrix.frequency_weighted_iou == 1.0


def test_a_class_that_is_only_predicted_lowers_the_mean_iou() -> None:
    truth, predicted = np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8)
    matrix = counted((truth, predicted), classes=2)
    assert matrix.mean_iou == pytest.approx(0.75 / 2)
    assert matrix.mean_accuracy == 0.75
    assert matrix.frequency_weighted_iou == 0.75


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_known_every_figure_is_nan() -> None:
    truth = np.full((3, 3), VOID, np.uint8)
    matrix = counted((truth, np.zeros_like(truth)), classes=2)
    assert matrix.pixels == 0
    for figure in ("mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou"):
        assert math.isnan(getattr(matrix, figure)), figure
    assert np.isnan(matrix.class_iou).all()
    boundary = BoundaryScore(2)
    boundary.update(truth, np.zeros_like(truth))
    assert math.isnan(boundary.mean_score)


def test_matrices_add_up() -> None:
    first, second = random_masks(1), random_masks(2)
    total = counted(first)
    total += counted(second)
    assert (total.counts == counted(first, second).counts).all()
    with pytest.raises(ValueError, match="of 3 classes to 7"):
        total += ConfusionMatrix(3)


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "of one shape"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), "uint8"),
        (np.full((1, 1), 2, np.uint8), np.zeros((1, 1), np.uint8), "one of 2 classes"),
        (np.zeros((1, 1), np.uint8), np.full((1, 1), 9, np.uint8), "one of 2 classes"),
    ],
)
def test_masks_that_make_no_sense_are_refused(truth, predicted, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConfusionMatrix(2).update(truth, predicted)


@pytest.mark.parametrize("count", [0, 256])
def test_a_matrix_has_1_to_255_classes(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count}"):
        ConfusionMatrix(count)


# --- boundaries ----------------------------------------------------------------------------------


def square(left: int, top: int = 30, side: int = 40) -> np.ndarray:
    mask = np.zeros((100, 100), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def boundary_of(truth: np.ndarray, predicted: np.ndarray, tolerance: float = 0.0075) -> np.ndarray:
    score = BoundaryScore(2, tolerance)
    score.update(truth, predicted)
    return score.class_score


def boundary_f_by_hand(truth: np.ndarray, predicted: np.ndarray, reach: float) -> float:
    """Every boundary pixel against every other one, outlines as DAVIS draws them."""

    def outline(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
        right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
        edge = (mask != right) | (mask != below) | (mask != across)
        edge[-1], edge[:, -1] = mask[-1] != right[-1], mask[:, -1] != below[:, -1]
        return np.argwhere(edge)

    a, b = outline(truth), outline(predicted)
    away = np.linalg.norm(a[:, None] - b[None], axis=2)
    recall, precision = (away.min(1) <= reach).mean(), (away.min(0) <= reach).mean()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.0, 0.0075, 0.03])
@pytest.mark.parametrize("seed", range(3))
def test_the_boundary_score_is_that_of_all_pairs_of_pixels(seed: int, tolerance: float) -> None:
    dice = np.random.default_rng(seed)
    small = dice.integers(0, 2, (2, 6, 9)).astype(np.uint8)
    truth, predicted = (np.kron(mask, np.ones((7, 5), np.uint8)) for mask in small)
    reach = tolerance * math.hypot(*truth.shape)
    expected = boundary_f_by_hand(truth == 1, predicted == 1, reach)
    assert boundary_of(truth, predicted, tolerance)[1] == pytest.approx(expected, abs=1e-9)


def test_an_outline_within_the_tolerance_is_right_and_beyond_it_is_not() -> None:
    assert boundary_of(square(30), square(31))[1] == 1.0  # the reach is 1.06 pixels
    assert boundary_of(square(30), square(33))[1] < 0.65  # only the long sides still agree
    assert boundary_of(square(30), square(33), tolerance=0.03)[1] == 1.0


@pytest.mark.parametrize("scale", [1, 2])
def test_the_default_tolerance_is_three_quarters_of_a_percent_of_the_diagonal(scale: int) -> None:
    """1.06 pixels at 100x100, 2.12 at 200x200."""
    truth = np.kron(square(30), np.ones((scale, scale), np.uint8))
    scores = []
    for shift in (scale, scale + 1):
        score = BoundaryScore(2)
        score.update(truth, np.roll(truth, shift, axis=1))
        scores.append(score.class_score[1])
    assert scores[0] == 1.0
    assert scores[1] < 1.0


def test_a_class_that_only_one_mask_has_scores_0_and_one_that_neither_has_is_not_counted() -> None:
    nothing = np.zeros((100, 100), np.uint8)
    assert boundary_of(square(30), nothing)[1] == 0
    assert boundary_of(nothing, square(30))[1] == 0
    assert np.isnan(boundary_of(nothing, nothing)[1])
    assert boundary_of(nothing, nothing)[0] == 1.0  # it fills both
    score = BoundaryScore(2)
    score.update(square(30), square(30))
    score.update(square(30), nothing)
    score.update(nothing, nothing)
    assert score.class_score[1] == 0.5, "averaged over the two pictures that have the class"


def test_boundaries_where_the_truth_is_unknown_cost_no_precision() -> None:
    truth = square(30)
    truth[:, 80:] = VOID
    predicted = square(30)
    predicted[10:20, 85:95] = 1
    assert boundary_of(truth, predicted)[1] == 1.0
    predicted[10:20, 5:15] = 1
    assert boundary_of(truth, predicted)[1] < 0.95
    hidden = square(30)
    hidden[28:72, 28:72] = VOID
    assert np.isnan(boundary_of(hidden, square(30))[1]), "all of it is unknown"


# --- flicker -------------------------------------------------------------------------------------


def test_flicker_counts_changes_only_where_the_labels_stay() -> None:
    before = np.array([[0, 0, 1, 1, VOID, 0]], np.uint8)
    after = np.array([[0, 0, 1, 0, VOID, VOID]], np.uint8)
    quiet = static_in_labels(before, after)
    assert quiet.tolist() == [[True, True, True, False, False, False]]
    flicker = Flicker()
    flicker.update(np.array([[0, 1, 1, 1, 1, 1]], np.uint8), np.zeros((1, 6), np.uint8), quiet)
    assert (flicker.changed, flicker.counted) == (2, 3)
    assert flicker.share == pytest.approx(2 / 3)


def test_flicker_is_pooled_over_frames_and_nan_without_any() -> None:
    flicker = Flicker()
    assert math.isnan(flicker.share)
    zeros, ones = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    everywhere = np.ones((2, 2), bool)
    flicker.update(zeros, ones, everywhere)
    flicker.update(ones, ones, everywhere)
    flicker.update(ones, ones, everywhere)
    assert flicker.share == pytest.approx(1 / 3)


def test_a_picture_stands_still_where_no_channel_changes_much() -> None:
    before = np.full((1, 3, 3), 100, np.uint8)
    after = before.copy()
    after[0, 1, 2] = 91
    after[0, 2] = (108, 92, 100)
    assert static_in_images(before, after, levels=8).tolist() == [[True, False, True]]
    assert static_in_images(after, before, levels=8).tolist() == [[True, False, True]]
