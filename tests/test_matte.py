"""The matte: sure far from edges, led by colours near them, pure in the colours it keeps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtseg.frame import Segmentation
from rtseg.labels import PERSON, VOC, LabelSet
from rtseg.matte import MatteOptions, Matting, over_black, over_checkerboard
from rtseg.matte.fit import kept_classes, margin_of

RED, GREY = (30, 30, 220), (120, 120, 120)


def segmented(kept: np.ndarray, sure: float = 8.0, cell: int = 1) -> Segmentation:
    """A network that is sure of a mask, told at one score for each square of `cell` pixels."""
    height, width = kept.shape
    small = kept[cell // 2 :: cell, cell // 2 :: cell]
    logits = np.where(small, sure, -sure).astype(np.float32)
    return Segmentation(np.stack([-logits / 2, logits / 2]), PERSON, (height, width))


def painted(kept: np.ndarray, inside=RED, outside=GREY) -> np.ndarray:
    return np.where(kept[..., None], np.uint8(inside), np.uint8(outside)).astype(np.uint8)


def disc(height: int, width: int, radius: float, x: float = 0.5) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - height / 2, columns - width * x) < radius


def around(kept: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within `reach` of the edge of a mask."""
    import cv2

    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return cv2.morphologyEx(kept.astype(np.uint8), cv2.MORPH_GRADIENT, square) > 0


@pytest.mark.parametrize("size", [(90, 120), (144, 256), (480, 640), (333, 517), (721, 405)])
def test_far_from_edges_all_or_nothing_is_kept_and_the_picture_is_untouched(
    size: tuple[int, int],
) -> None:
    generator = np.random.default_rng(5)
    kept = disc(*size, min(size) / 4)
    image = generator.integers(0, 256, (*size, 3), np.uint8)
    alpha, picture = Matting()(image, segmented(kept)).cutout()
    far = ~around(kept, 2 + 4 * max(1, min(size) // 144))
    np.testing.assert_array_equal(alpha[far], np.where(kept, 255, 0)[far])
    np.testing.assert_array_equal(picture[far & kept], image[far & kept])
    assert picture[far & ~kept].max() == 0, "what is not kept cannot be looked up in the file"


def test_colours_lead_the_edge_where_the_network_is_off() -> None:
    """The network's mask is wider than the disc by 4 pixels, of a cell of 16."""
    true, said = disc(288, 512, 80), disc(288, 512, 84)
    alpha, _ = Matting()(painted(true), segmented(said, cell=16)).cutout()
    wrong = (alpha > 127) ^ true
    assert wrong.sum() < 0.15 * (said ^ true).sum()


@settings(max_examples=15, deadline=None)
@given(
    level=st.integers(0, 255), height=st.integers(20, 200), width=st.integers(20, 200),
    cell=st.sampled_from([1, 4, 8]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_picture_without_colours_leaves_the_edge_to_the_mask(
    level: int, height: int, width: int, cell: int, seed: int
) -> None:
    x = np.random.default_rng(seed).uniform(0.3, 0.7)
    segmentation = segmented(disc(height, width, min(height, width) / 3.5, x), cell=cell)
    blank = np.full((height, width, 3), level, np.uint8)
    alpha, picture = Matting()(blank, segmentation).cutout()
    clear = np.abs(segmentation.probability("person") - 0.5) > 0.45
    inside = segmentation.mask == 1
    # the mask's edge, but for the pixel in which it lies
    assert (alpha[clear & inside & ~around(inside, 1)] >= 126).all()
    assert (alpha[clear & ~inside & ~around(inside, 1)] <= 129).all()
    seen = alpha > 0
    assert np.abs(picture[seen].astype(int) - level).max(initial=0) <= 1


def test_an_edge_is_a_ramp_without_steps_where_colours_do_not_tell() -> None:
    kept = np.zeros((720, 1280), bool)
    kept[:, 640:] = True
    alpha, _ = Matting()(np.full((720, 1280, 3), 90, np.uint8), segmented(kept, cell=16)).cutout()
    row = alpha[360].astype(int)
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() <= 40, "no staircase"
    assert 8 <= np.count_nonzero((row > 0) & (row < 255)) <= 60


def test_colours_of_what_is_kept_do_not_show_the_old_background() -> None:
    """A red disc before white, its edge blended as a camera does it: over black no white rim."""
    import cv2

    true = disc(288, 512, 80)
    soft = cv2.GaussianBlur(true.astype(np.float32), (0, 0), 2)[..., None]
    image = np.rint(soft * np.float32(RED) + (1 - soft) * 255).astype(np.uint8)
    matte = Matting()(image, segmented(true, cell=8))
    over = matte.over(np.zeros_like(image))
    hard = np.where(true[..., None], image, 0)
    white, white_cut_hard = (np.maximum(x[..., :2].astype(int) - 30, 0).sum() for x in (over, hard))
    assert white < 0.45 * white_cut_hard


def test_over_is_the_cutout_over_the_backdrop() -> None:
    kept = disc(200, 300, 60)
    image, backdrop = painted(kept), np.full((200, 300, 3), (250, 10, 10), np.uint8)
    matte = Matting()(image, segmented(kept, cell=8))
    alpha, picture = matte.cutout()
    share = alpha[..., None] / 255
    expected = share * picture + (1 - share) * backdrop
    assert np.abs(matte.over(backdrop) - expected).max() < 2


@pytest.mark.parametrize("pixels", [3, 12.4, 30])
def test_feather_fades_inwards_only(pixels: float) -> None:
    kept = disc(300, 400, 100)
    image = painted(kept)
    plain, _ = Matting()(image, segmented(kept)).cutout()
    soft, _ = Matting(MatteOptions(feather=pixels))(image, segmented(kept)).cutout()
    assert (soft <= plain).all()
    row = soft[150, 200:320].astype(int)  # from the middle outwards
    assert row[0] == 255
    assert (np.diff(row) <= 0).all()
    fading = np.count_nonzero((row > 5) & (row < 250))
    assert pixels * 0.7 <= fading <= pixels * 1.3 + 6


def test_a_feather_of_less_than_a_pixel_lies_between_none_and_one() -> None:
    kept = disc(200, 300, 60)
    soft = cv2.GaussianBlur(kept.astype(np.float32), (0, 0), 2)[..., None]
    image = np.rint(soft * np.float32(RED) + (1 - soft) * 255).astype(np.uint8)

    def alpha(pixels: float) -> np.ndarray:
        matte = Matting(MatteOptions(feather=pixels))(image, segmented(kept, cell=8))
        return matte.cutout().alpha.astype(int)

    none, tenth, half, one = map(alpha, (0, 0.1, 0.5, 1))
    assert np.abs(none - one).max() > 50
    assert np.abs(none - tenth).max() <= 0.1 * np.abs(none - one).max() + 1
    assert (one <= half + 1).all()
    assert (half <= none + 1).all()


def test_feathered_over_uses_the_feathered_alpha() -> None:
    kept = disc(200, 300, 60)
    matte = Matting(MatteOptions(feather=10))(painted(kept), segmented(kept))
    alpha, picture = matte.cutout()
    share = alpha[..., None] / 255
    assert np.abs(matte.over(np.zeros_like(picture)) - share * picture).max() < 2


def test_a_lower_threshold_keeps_more() -> None:
    rows = np.linspace(0.02, 0.98, 120, dtype=np.float32)
    plane = np.tile(rows, (80, 1))
    unsure = Segmentation(np.stack([1 - plane, plane]), PERSON, (80, 120), kind="probabilities")
    logits = Segmentation(np.log(unsure.scores), PERSON, (80, 120))
    blank = np.full((80, 120, 3), 90, np.uint8)
    for segmentation in (unsure, logits):
        for threshold in (0.2, 0.5, 0.8):
            alpha, _ = Matting(MatteOptions(threshold))(blank, segmentation).cutout()
            edge = int(np.argmax(alpha[40] > 127))
            assert rows[edge] == pytest.approx(threshold, abs=0.03)


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_lie_on_the_frame_as_they_do_for_the_mask(align_corners: bool) -> None:
    """Few scores on a large frame, where the two conventions are half a cell apart."""
    logits = np.array([[-4, -1, 3, 5]] * 3, np.float32)
    segmentation = Segmentation(
        np.stack([-logits / 2, logits / 2]), PERSON, (120, 160), align_corners=align_corners
    )
    alpha, _ = Matting()(np.full((120, 160, 3), 90, np.uint8), segmentation).cutout()
    found, wanted = np.argmax(alpha[60] > 127), np.argmax(segmentation.mask[60] == 1)
    assert abs(int(found) - int(wanted)) <= 1


def test_selected_classes_are_kept_together() -> None:
    scores = np.zeros((21, 2, 2), np.float32)
    scores[8], scores[12] = 1.0, 1.0  # cat and dog, each less likely than both of them
    both = frozenset({VOC.index("cat"), VOC.index("dog")})
    together = margin_of(Segmentation(scores, VOC, (2, 2), selected=both))
    odds = 2 * np.e / 19
    np.testing.assert_allclose(together, np.log(odds), rtol=1e-5)


def test_the_background_is_never_kept_and_all_may_be() -> None:
    nameless = LabelSet(("a", "b"), ((1, 2, 3), (4, 5, 6)), background=None)
    scores = np.zeros((2, 3, 4), np.float32)
    assert kept_classes(Segmentation(scores, PERSON, (3, 4))).tolist() == [False, True]
    alone = Segmentation(scores, PERSON, (3, 4), selected=frozenset({0}))
    everything = Segmentation(scores, nameless, (3, 4))
    blank = np.full((3, 4, 3), 7, np.uint8)
    assert Matting()(blank, alone).cutout().alpha.max() == 0
    assert Matting()(blank, everything).cutout().alpha.min() == 255


def test_a_matting_takes_pictures_of_changing_sizes() -> None:
    matting = Matting()
    for size in [(200, 300), (1, 1), (3, 400), (200, 300), (480, 270)]:
        kept = np.ones(size, bool)
        image = painted(kept)
        np.testing.assert_array_equal(matting(image, segmented(kept)).over(image * 0), image)


def test_a_transparent_picture_is_seen_over_black_and_over_a_checkerboard() -> None:
    picture = np.zeros((90, 90, 4), np.uint8)
    picture[..., :3] = 200
    picture[:, 45:, 3] = 255
    picture[:, 40:45, 3] = 128
    assert over_black(picture)[:, :40].max() == 0
    assert set(over_black(picture)[:, 40:45].ravel()) == {100}
    board = over_checkerboard(picture)
    assert (board[:, 45:] == 200).all()
    assert len(np.unique(board[:, :40])) == 2
    opaque = picture[..., :3].copy()
    assert over_checkerboard(opaque) is opaque
