"""Smoothing over time: still where the picture is, at once where it is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import pytest

from rtseg.decode import decode
from rtseg.errors import UsageError
from rtseg.frame import Frame, Segmentation
from rtseg.labels import LabelSet
from rtseg.segmenter import Pair
from rtseg.session.inference import smoothed
from rtseg.sources.synthetic import Scene
from rtseg.stats import Stats
from rtseg.temporal import TemporalOptions
from rtseg.temporal.smooth import Smoother

SIZE = (180, 320)
CELLS = (23, 40)


def wall(seed: int = 0) -> np.ndarray:
    """A picture with something in it everywhere."""
    rough = np.random.default_rng(seed).integers(30, 220, (18, 32, 3), np.uint8)
    return cv2.resize(rough, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def noisy(scores: np.ndarray, rng: np.random.Generator, sigma: float = 1.5) -> np.ndarray:
    return (scores + rng.normal(0, sigma, scores.shape)).astype(np.float32)


def halves(classes: int = 2) -> np.ndarray:
    """The first class to the left, the last one to the right, unsure in between."""
    scores = np.full((classes, *CELLS), -6, np.float32)
    scores[0] = 0
    scores[-1] = np.linspace(-4, 4, CELLS[1])
    return scores


def changes(masks: list[np.ndarray]) -> float:
    return float(np.mean([(a != b).mean() for a, b in pairwise(masks)]))


def test_strength_zero_gives_the_very_same_object() -> None:
    smooth, scores = Smoother(0.0), halves()
    for index in range(3):
        assert smooth(scores, wall(index), index / 30) is scores


def test_scores_of_other_classes_begin_anew() -> None:
    """As after another model was chosen, which has as many."""
    smooth, scores = Smoother(0.8), halves(3)
    names = [("a", "b", "c"), ("a", "b", "c"), ("a", "c", "b")]
    labels = [LabelSet(each, ((0, 0, 0), (9, 9, 9), (8, 8, 8))) for each in names]

    def pairs() -> Iterator[Pair]:
        for number, each in enumerate(labels):
            found = Segmentation(scores[[0, 2, 1]] if number == 2 else scores, each, SIZE)
            yield Frame(wall().copy(), number, number / 30, 0.0), found

    *_, (_, last) = smoothed(pairs(), smooth, Stats())
    assert np.array_equal(last.scores, scores[[0, 2, 1]])


@pytest.mark.parametrize("classes", [2, 21])
def test_a_noisy_edge_holds_still_where_the_picture_does(classes: int) -> None:
    rng, smooth, picture = np.random.default_rng(0), Smoother(0.5), wall()
    said = [noisy(halves(classes), rng) for _ in range(30)]
    grain = [rng.integers(-3, 4, picture.shape) for _ in said]
    pictures = [np.clip(picture + one, 0, 255).astype(np.uint8) for one in grain]
    shown = [smooth(s, p, i / 30) for i, (s, p) in enumerate(zip(said, pictures, strict=True))]
    plain, still = ([decode(s, SIZE)[0] for s in scores] for scores in (said, shown))
    assert changes(still[5:]) < 0.25 * changes(plain[5:])


def test_the_stronger_the_stiller() -> None:
    rng, picture = np.random.default_rng(1), wall()
    said = [noisy(halves(), rng) for _ in range(25)]
    moved = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        smooth = Smoother(strength)
        shown = [smooth(scores, picture, i / 30) for i, scores in enumerate(said)]
        moved.append(changes([decode(scores, SIZE)[0] for scores in shown[5:]]))
    assert moved == sorted(moved, reverse=True)
    assert moved[3] < 0.5 * moved[1]


def test_what_goes_in_stays_untouched() -> None:
    smooth, first, second = Smoother(0.7), halves(), -halves()
    smooth(first, wall(), 0.0)
    smooth(second, wall(), 1 / 30)
    assert (first == halves()).all()
    assert (second == -halves()).all()


def scores_of(mask: np.ndarray) -> np.ndarray:
    """What a sure network says of a mask with four classes."""
    small = cv2.resize(mask, CELLS[::-1], interpolation=cv2.INTER_NEAREST)
    return (8 * (np.arange(4)[:, None, None] == small)).astype(np.float32)


@pytest.mark.parametrize(("strength", "cost"), [(0.5, 0.015), (0.8, 0.03), (1.0, 0.05)])
def test_a_moving_shape_does_not_lag(strength: float, cost: float) -> None:
    scene, smooth = Scene(*SIZE[::-1], seed=3), Smoother(strength)
    plain, shown = [], []
    for index in range(40):
        truth = scene.mask_of(index)
        scores = scores_of(truth)
        out = smooth(scores, scene.image_of(index), index / 30)
        for agreed, these in ((plain, scores), (shown, out)):
            mask = decode(these, SIZE)[0]
            agreed.append(((mask == truth) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum())
    assert np.mean(shown) > np.mean(plain) - cost
    assert min(shown) > min(plain) - cost


def test_a_cell_between_two_classes_keeps_its_own_until_another_leads() -> None:
    smooth, picture = Smoother(0.5), wall()
    sure = np.zeros((2, *CELLS), np.float32)
    sure[0], sure[:, 10, 20] = 6, (3.2, 3)
    winners = []
    for index in range(40):
        scores = sure.copy()
        scores[:, 10, 20] = (3.2, 3) if index < 5 else (3, 3.2)
        winners.append(int(smooth(scores, picture, index / 30)[:, 10, 20].argmax()))
    assert winners == [0] * 40
    scores[:, 10, 20] = (0, 6)
    for index in range(40, 60):
        winners.append(int(smooth(scores, picture, index / 30)[:, 10, 20].argmax()))
    assert winners[-1] == 1


@pytest.mark.parametrize(
    ("picture", "pts"),
    [(255 - wall(9), 1 / 30), (wall(), 2.0), (wall(), -1.0), (np.zeros((64, 64, 3), np.uint8), 0)],
    ids=["cut", "gap", "back in time", "another size"],
)
def test_nothing_of_the_past_counts_after(picture: np.ndarray, pts: float) -> None:
    smooth = Smoother(1.0)
    smooth(halves(), wall(), 0.0)
    assert smooth(-halves(), picture, pts) == pytest.approx(-halves())


def test_other_classes_or_another_grid_begin_anew() -> None:
    smooth = Smoother(1.0)
    smooth(halves(2), wall(), 0.0)
    assert smooth(halves(5), wall(), 0.1).shape == (5, *CELLS)
    odd = np.ones((5, 3, 1), np.float32)
    assert (smooth(odd, wall(), 0.2) == odd).all()
    assert (smooth(odd, wall(), 0.3) == odd).all()


def test_a_strength_beyond_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--smooth 1\.5.*0 to 1"):
        TemporalOptions(smooth=1.5)


def test_an_edge_that_trembles_about_its_place_stays_there() -> None:
    smooth, picture = Smoother(0.8), wall()
    masks = []
    for index in range(40):
        scores = halves()
        scores[1] += 0.2 * (-1) ** (index // 4)  # slowly, so that no average takes it away
        masks.append(decode(smooth(scores, picture, index / 30), SIZE)[0])
    assert changes(masks[10:]) == 0
    plain = [decode(halves() + np.float32([[[0]], [[x]]]), SIZE)[0] for x in (-0.2, 0.2)]
    assert changes(plain) > 0.005


@pytest.mark.parametrize("speed", [2, 8, 12])
def test_an_edge_that_moves_with_the_picture_is_not_trailed(speed: int) -> None:
    """A camera pans by `speed` pixels a frame: the average follows along the flow."""
    smooth, panorama = Smoother(0.8), np.hstack([wall(), wall(1), wall(2)])
    places = np.arange(CELLS[1], dtype=np.float32)
    behind = []
    for index in range(20):
        edge = 35 - index * speed * CELLS[1] / SIZE[1]
        scores = np.zeros((2, *CELLS), np.float32)
        scores[1] = np.clip(2 * (places - edge), -6, 6)
        seen = panorama[:, index * speed :][:, : SIZE[1]]
        shown = smooth(scores, seen, index / 30)
        masks = [decode(these, SIZE)[0][40:140].mean() for these in (scores, shown)]
        behind.append((masks[0] - masks[1]) * CELLS[1])
    assert abs(np.mean(behind[5:])) < 0.33, "cells"


def test_grain_on_a_plain_wall_does_not_move_an_edge() -> None:
    """The flow of grain is small, and never none; carried along it, the edge would wander."""
    dice, smooth = np.random.default_rng(0), Smoother(0.8)
    plain = 128 + 0.1 * (wall() - 128.0)
    y, x = np.mgrid[: CELLS[0], : CELLS[1]]
    sure = np.clip(3 * (8 - np.hypot(y - 11, x - 20)), -6, 6).astype(np.float32)
    scores, masks = np.stack([0 * sure, sure]), []
    for index in range(40):
        grainy = np.clip(plain + dice.normal(0, 4, plain.shape), 0, 255).astype(np.uint8)
        masks.append(decode(smooth(scores, grainy, index / 30), SIZE)[0])
    assert changes(masks) == 0


def test_an_edge_that_drifts_is_not_trailed() -> None:
    """It moves a tenth of a cell a frame, to the left: a mean over time would be cells behind."""
    smooth, picture = Smoother(0.8), wall()
    places = np.arange(CELLS[1], dtype=np.float32)[None]
    behind = []
    for index in range(60):
        edge = 30 - 0.1 * index
        scores = np.zeros((2, *CELLS), np.float32)
        scores[1] = np.clip(2 * (places - edge), -6, 6)
        shown = smooth(scores, picture, index / 30)
        masks = [decode(these, SIZE)[0].mean() for these in (scores, shown)]
        behind.append((masks[0] - masks[1]) * CELLS[1])
    assert max(behind[20:]) < 0.8


@pytest.mark.parametrize("size", [(100, 1920), (60, 1920), (140, 1920), (1, 500), (1920, 60)])
def test_strips_of_any_shape_are_smoothed(size: tuple[int, int]) -> None:
    """In a process of its own: OpenCV's flow crashes on what has too few rows."""
    program = (
        "import numpy as np; from rtseg.temporal.smooth import Smoother;"
        f"smoother, random = Smoother(0.8), np.random.default_rng(0); size = {size};"
        "pictures = [random.integers(0, 256, (*size, 3), np.uint8) for _ in 'ab'];"
        "[smoother(np.zeros((2, 8, 8), np.float32), p, t / 30) for t, p in enumerate(pictures)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_motion_found_before_the_scores_are_there_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = [np.roll(wall(), 3 * k, 1) for k in range(6)]
    early, late = Smoother(0.8), Smoother(0.8)
    for k in range(4):
        picture, scores = pictures[k], halves() * (1 + k)
        early.follow(picture)
        with monkeypatch.context() as patch:
            patch.setattr(early, "_dis", None)  # it is not followed again
            found = early(scores, picture, k / 30)
        np.testing.assert_array_equal(found, late(scores, picture, k / 30))
    early.follow(pictures[0])
    np.testing.assert_array_equal(
        early(halves(), pictures[5], 5 / 30), late(halves(), pictures[5], 5 / 30)
    )
