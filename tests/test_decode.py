"""The exact decode against the full computation: enlarge every plane, then arg-max."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtseg.decode import NOTHING, decode, enlarge, paint
from rtseg.draw import blend, overlay_table
from rtseg.frame import Segmentation
from rtseg.labels import VOC, LabelSet

EXACT = 0.99999


def full(scores: np.ndarray, size: tuple[int, int], *, align_corners: bool = False) -> np.ndarray:
    planes = torch.from_numpy(scores)[None]
    large = torch.nn.functional.interpolate(
        planes, size, mode="bilinear", align_corners=align_corners
    )
    return large[0].argmax(0).numpy().astype(np.uint8)


def tied(
    scores: np.ndarray, size: tuple[int, int], where: np.ndarray, *, align_corners: bool = False
) -> bool:
    """Whether the two best scores are equal, at float precision, wherever the masks differ."""
    if not where.any():
        return True
    planes = [enlarge(plane, size, align_corners=align_corners)[where] for plane in scores]
    best = np.sort(planes, axis=0)
    return bool(np.allclose(best[-1], best[-2], atol=1e-5))


def random_scores(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def smooth_scores(shape: tuple[int, int, int]) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in random_scores(shape)])


def checkerboard(shape: tuple[int, int, int]) -> np.ndarray:
    scores = np.zeros(shape, np.float32)
    scores[0] = np.indices(shape[1:]).sum(0) % 2
    scores[-1] = 1 - scores[0]
    return scores


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("make", [random_scores, smooth_scores, checkerboard])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((21, 32, 32), (360, 640)),
        ((2, 36, 64), (540, 960)),
        ((21, 33, 33), (257, 257)),
        ((19, 23, 40), (359, 639)),
        ((3, 1, 9), (50, 77)),
        ((3, 9, 1), (77, 50)),
        ((5, 1, 1), (3, 4)),
        ((4, 64, 64), (33, 41)),
        ((4, 17, 23), (17, 23)),
        ((150, 20, 30), (201, 299)),
    ],
)
def test_equals_the_full_computation(make, shape, size, align_corners) -> None:
    scores = make(shape)
    wrong = decode(scores, size, align_corners=align_corners)[0] != full(
        scores, size, align_corners=align_corners
    )
    assert wrong.mean() <= 1e-4
    assert tied(scores, size, wrong, align_corners=align_corners)


@settings(max_examples=150, deadline=None)
@given(
    classes=st.integers(1, 6),
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**16),
)
def test_any_size(classes, small, size, seed) -> None:
    scores = np.random.default_rng(seed).normal(size=(classes, *small)).astype(np.float32)
    assert tied(scores, size, decode(scores, size)[0] != full(scores, size))


def test_a_class_that_wins_at_no_corner_can_win_inside() -> None:
    scores = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.9, 0.9]]], np.float32)
    mask = decode(scores, (1, 100))[0]
    assert set(np.unique(mask)) == {0, 1, 2}
    assert (mask == full(scores, (1, 100))).all()


def test_ties_go_to_the_lower_class() -> None:
    assert (decode(np.zeros((4, 3, 3), np.float32), (10, 10))[0] == 0).all()


def test_the_table_is_applied_on_the_way() -> None:
    scores, table = random_scores((5, 8, 8)), np.arange(256, dtype=np.uint8)
    table[[1, 3]] = [0, 255]
    plain, mapped = decode(scores, (50, 60))[0], decode(scores, (50, 60), table)[0]
    assert {1, 3} <= set(np.unique(plain))
    assert (mapped == table[plain]).all()


@pytest.mark.parametrize("shape", [(3, 4), (0, 4, 4), (256, 2, 2), (3, 0, 4)])
def test_wrong_shapes_are_refused(shape) -> None:
    with pytest.raises(ValueError, match="scores are"):
        decode(np.zeros(shape, np.float32), (4, 4))[0]


def test_not_a_number_does_not_crash() -> None:
    scores = np.full((3, 5, 5), np.nan, np.float32)
    assert decode(scores, (20, 20))[0].shape == (20, 20)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.731, 1.0])
@pytest.mark.parametrize("make", [random_scores, smooth_scores, checkerboard])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((21, 33, 33), (360, 641)), ((21, 9, 16), (97, 131)),
     ((21, 1, 1), (5, 7)), ((21, 30, 40), (17, 23))],
)  # fmt: skip
def test_painting_in_the_same_pass_equals_decoding_then_blending(make, shape, size, alpha) -> None:
    scores, table = make(shape), overlay_table(VOC, alpha)
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    at_once, one_by_one = Segmentation(scores, VOC, size), Segmentation(scores, VOC, size)
    painted = at_once.over(image, table)
    assert "mask" in at_once.__dict__, "decoded on the way"
    assert (at_once.mask == decode(scores, size)[0]).all()
    assert (painted == blend(image, one_by_one.mask, table)).all()
    assert (painted == one_by_one.over(image, table)).all()


@settings(max_examples=100, deadline=None)
@given(
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    selected=st.sets(st.integers(0, 3)),
    left=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_painting_in_the_same_pass_at_any_size(small, size, selected, left, seed) -> None:
    random = np.random.default_rng(seed)
    labels = LabelSet(("nothing", "a", "b", "c"), ((0, 0, 0), (9, 200, 3), (255, 1, 77), (8, 8, 8)))
    scores = random.normal(size=(4, *small)).astype(np.float32)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    canvases = [np.full((size[0], size[1] + left + 2, 3), 7, np.uint8) for _ in range(2)]
    table = overlay_table(labels, 0.4)
    segmentation = Segmentation(scores, labels, size, selected=frozenset(selected))
    segmentation.over(image, table, canvases[0], left)
    blend(image, segmentation.mask, table, canvases[1], left)
    assert (canvases[0] == canvases[1]).all()
    assert (segmentation.counts == np.bincount(segmentation.mask.ravel(), minlength=256)).all()


def test_pixels_are_counted_as_they_are_decoded_and_of_any_mask() -> None:
    for make in (random_scores, smooth_scores, checkerboard):
        mask, counts = decode(make((7, 20, 30)), (123, 257))
        expected = np.bincount(mask.ravel(), minlength=256)
        assert (counts == expected).all()
        assert (paint(mask, NOTHING) == expected).all()


def test_a_picture_of_another_size_is_not_painted_over() -> None:
    segmentation = Segmentation(random_scores((21, 4, 4)), VOC, (30, 40))
    with pytest.raises(ValueError, match="does not fit"):
        segmentation.over(np.zeros((30, 41, 3), np.uint8), overlay_table(VOC, 0.4))


def test_enlarge_equals_torch() -> None:
    plane = random_scores((1, 13, 7))
    large = torch.nn.functional.interpolate(
        torch.from_numpy(plane)[None], (101, 55), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarge(plane[0], (101, 55)), large[0, 0].numpy(), atol=1e-5)


@pytest.mark.needs_data
def test_natural_pictures(data: Path) -> None:
    """Scores of a real 21-class network on real pictures, decoded at 720p."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(
        data / "networks" / "deeplabv3_mobilenet_v2_voc.onnx", providers=["CPUExecutionProvider"]
    )
    pictures = sorted((data / "pictures").glob("*.jpg"))
    wrong = total = 0
    for path in pictures:
        small = cv2.resize(cv2.imread(str(path)), (513, 513))[None, :, :, ::-1]
        (scores,) = session.run(None, {"image": np.ascontiguousarray(small)})
        wrong += int((decode(scores[0], (720, 1280))[0] != full(scores[0], (720, 1280))).sum())
        total += 720 * 1280
    assert len(pictures) >= 5
    assert wrong / total <= 1 - EXACT
