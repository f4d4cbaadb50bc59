"""Views: the exact pixels of each, at any size, and what every view promises."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtseg.decode import read_only
from rtseg.draw import bgr_colours, blend, blend_table, foreground, overlay_table
from rtseg.effects import VIEWS, ViewOptions, open_effect, open_view
from rtseg.effects.contours import disc, line_width, outline
from rtseg.errors import UsageError
from rtseg.frame import Frame, Segmentation
from rtseg.labels import VOC, VOID, LabelSet

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PRIMARY = LabelSet(("background", "red", "green", "blue"), ((0, 0, 0), RED, GREEN, BLUE))
NO_BACKGROUND = LabelSet(("red", "green", "blue"), (RED, GREEN, BLUE), background=None)


def framed(image: np.ndarray) -> Frame:
    return Frame(np.ascontiguousarray(image, np.uint8), 0, 0.0, 0.0)


def segmented(mask: np.ndarray, labels: LabelSet = PRIMARY) -> Segmentation:
    """A segmentation whose mask is exactly `mask`, VOID included."""
    segmentation = Segmentation(np.zeros((len(labels), 1, 1), np.float32), labels, mask.shape)
    segmentation.__dict__["mask"] = mask.astype(np.uint8)
    segmentation.mask.flags.writeable = False
    return segmentation


def view(name: str, image: np.ndarray, mask: np.ndarray, labels: LabelSet = PRIMARY, alpha=0.4):
    return open_view(ViewOptions(name, alpha), labels)(framed(image), segmented(mask, labels))


def scene(seed: int, height: int, width: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture, and a mask of blocks and noise with some VOID."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    mask = generator.integers(0, classes, (height // 20 + 1, width // 40 + 1), np.uint8)
    mask = np.kron(mask, np.ones((20, 40), np.uint8))[:height, :width].copy()
    noisy = generator.random((height, width)) < 0.1
    mask[noisy] = generator.choice([*range(classes), VOID], int(noisy.sum()))
    return image, mask


def reference(image: np.ndarray, mask: np.ndarray, labels: LabelSet, alpha: float) -> np.ndarray:
    """The overlay in exact arithmetic of whole numbers, straight from its definition."""
    weight = round(alpha * 65536)
    out = image.astype(np.int64)
    for index, (red, green, blue) in enumerate(labels.colours):
        if index == labels.background:
            continue
        colour = np.array([blue, green, red], np.int64)
        where = mask == index
        out[where] = (out[where] * (65536 - weight) + colour * weight + 32768) // 65536
    return out.astype(np.uint8)


# Contracts of every view


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("labels", [PRIMARY, NO_BACKGROUND, VOC], ids=["four", "three", "voc"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (37, 53), (120, 161)], ids=str)
def test_a_view_is_pure_and_gives_a_new_picture(
    name: str, labels: LabelSet, size: tuple[int, int]
) -> None:
    image, mask = scene(1, *size, len(labels))
    frame, segmentation = framed(image), segmented(mask, labels)
    before = image.copy(), mask.copy()
    drawn = open_view(ViewOptions(name), labels)
    first, second = drawn(frame, segmentation), drawn(frame, segmentation)
    assert first.dtype == np.uint8
    assert first.shape == (size[0], size[1] * VIEWS[name].widths, 3)
    assert first.flags.writeable
    assert first.flags.c_contiguous
    assert not np.shares_memory(first, frame.image)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(frame.image, before[0])
    np.testing.assert_array_equal(segmentation.mask, before[1])


@pytest.mark.parametrize("name", VIEWS)
def test_the_opacity_of_a_view_is_the_one_asked_for_or_its_own(name: str) -> None:
    image, mask = scene(3, 72, 96)
    cutout = segmented(mask)
    cutout.given[1] = 9.0  # of whose probabilities a matte is made
    faint, strong = (
        open_view(ViewOptions(name, alpha), PRIMARY)(framed(image), cutout) for alpha in (0.1, 0.9)
    )
    assert np.array_equal(faint, strong) is VIEWS[name].own_alpha
    assert strong.any()


@pytest.mark.parametrize("name", VIEWS)
def test_a_finished_view_leaves_its_inputs_alone(name: str) -> None:
    image, mask = scene(2, 240, 321)
    frame, segmentation = framed(image), segmented(mask)
    before = frame.image.copy()
    effect = open_effect(ViewOptions(name, legend=True, hud=True), PRIMARY)
    picture = effect(frame, segmentation)
    bare = open_view(ViewOptions(name), PRIMARY)(frame, segmentation)
    np.testing.assert_array_equal(frame.image, before)
    assert picture.shape == bare.shape
    assert not np.array_equal(picture, bare), "legend and HUD are drawn"


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_with_nothing_asked_for_has_nothing_written_on_it(name: str) -> None:
    image, mask = scene(3, 240, 320)
    frame, segmentation = framed(image), segmented(mask)
    finished = open_effect(ViewOptions(name), PRIMARY)(frame, segmentation)
    np.testing.assert_array_equal(
        finished, open_view(ViewOptions(name), PRIMARY)(frame, segmentation)
    )


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_takes_pictures_that_are_not_contiguous(name: str) -> None:
    image, mask = scene(4, 40, 60)
    mirrored = Frame(image[:, ::-1], 0, 0.0, 0.0)
    drawn = open_view(ViewOptions(name), PRIMARY)
    np.testing.assert_array_equal(
        drawn(mirrored, segmented(mask)), drawn(framed(image[:, ::-1]), segmented(mask))
    )


# Overlay


@pytest.mark.parametrize(
    ("index", "expected"), [(1, (60, 60, 162)), (2, (60, 162, 60)), (3, (162, 60, 60))]
)
def test_a_red_class_turns_grey_redder_and_not_bluer(index: int, expected: tuple) -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    drawn = view("overlay", grey, np.full((4, 4), index))
    assert tuple(drawn[2, 2].tolist()) == expected  # BGR: 0.6 * 100 + 0.4 * 255 in one channel


def test_a_red_picture_stays_red_under_background() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255
    np.testing.assert_array_equal(view("overlay", red, np.zeros((4, 4))), red)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 300),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_the_overlay_equals_its_definition(height: int, width: int, alpha: float, seed: int):
    image, mask = scene(seed, height, width)
    drawn = view("overlay", image, mask, alpha=alpha)
    np.testing.assert_array_equal(drawn, reference(image, mask, PRIMARY, alpha))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.4, 0.5, 0.9, 1.0])
def test_the_overlay_is_the_blend_of_real_numbers_within_rounding(alpha: float) -> None:
    image, mask = scene(5, 90, 200)
    colour = bgr_colours(PRIMARY)[mask].astype(float)
    mixed = np.where(
        foreground(PRIMARY)[mask][..., None], image * (1 - alpha) + colour * alpha, image
    )
    assert np.abs(view("overlay", image, mask, alpha=alpha) - mixed).max() <= 0.504


def test_alpha_0_is_the_picture_and_alpha_1_is_the_colour() -> None:
    image, mask = scene(6, 45, 177)
    np.testing.assert_array_equal(view("overlay", image, mask, alpha=0.0), image)
    painted = view("overlay", image, mask, alpha=1.0)
    there = foreground(PRIMARY)[mask]
    np.testing.assert_array_equal(painted[there], bgr_colours(PRIMARY)[mask][there])
    np.testing.assert_array_equal(painted[~there], image[~there])


@pytest.mark.parametrize("labels", [PRIMARY, NO_BACKGROUND], ids=["background", "none"])
def test_void_leaves_the_picture_alone(labels: LabelSet) -> None:
    image, _ = scene(7, 33, 65)
    void = np.full((33, 65), VOID)
    np.testing.assert_array_equal(view("overlay", image, void, labels, 1.0), image)
    np.testing.assert_array_equal(view("contours", image, void, labels), image)


def test_class_0_is_drawn_where_it_is_not_background() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    drawn = view("overlay", grey, np.zeros((4, 4)), NO_BACKGROUND)
    assert drawn[0, 0].tolist() == [60, 60, 162]


def test_the_last_of_255_classes_is_drawn_and_void_is_not() -> None:
    colours = tuple((i, 255 - i, i // 2) for i in range(255))
    labels = LabelSet(tuple(f"c{i}" for i in range(255)), colours, background=None)
    image = np.full((1, 2, 3), 9, np.uint8)
    drawn = view("overlay", image, np.array([[254, VOID]]), labels, 1.0)
    assert drawn[0].tolist() == [[127, 1, 254], [9, 9, 9]]
    contoured = view("contours", image, np.array([[254, VOID]]), labels)
    assert contoured[0].tolist() == [[127, 1, 254], [9, 9, 9]]


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_an_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match=r"--alpha .*0 to 1"):
        ViewOptions(alpha=alpha)


def test_an_unknown_view_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"--view heatmap: choices are overlay.*cutout"):
        ViewOptions("heatmap")


def test_blend_refuses_sizes_that_do_not_fit() -> None:
    image, mask = scene(8, 10, 12)
    table = overlay_table(PRIMARY, 0.4)
    with pytest.raises(ValueError, match="does not fit"):
        blend(image, mask[:, :-1], table)
    with pytest.raises(ValueError, match="does not fit"):
        blend(image, mask, table, np.empty((10, 20, 3), np.uint8), left=9)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 500), start=st.integers(0, 80), alpha=st.floats(0, 1))
def test_a_run_of_any_length_is_drawn_to_its_last_pixel(length: int, start: int, alpha: float):
    image = np.arange((start + length + 3) * 3, dtype=np.uint64).astype(np.uint8).reshape(1, -1, 3)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[0, start : start + length] = 2
    drawn = view("overlay", image, mask, alpha=alpha)
    np.testing.assert_array_equal(drawn, reference(image, mask, PRIMARY, alpha))


# Mask, side, cutout


def test_the_mask_view_is_the_palette_picture() -> None:
    image, mask = scene(9, 51, 87)
    np.testing.assert_array_equal(view("mask", image, mask), bgr_colours(PRIMARY)[mask])
    assert view("mask", image, np.full((51, 87), VOID)).max() == 0


def test_the_mask_view_paints_the_background_in_its_colour() -> None:
    labels = LabelSet(("nothing", "thing"), ((10, 20, 30), RED))
    drawn = view("mask", np.zeros((2, 2, 3)), np.array([[0, 1], [1, 0]]), labels)
    assert drawn[0].tolist() == [[30, 20, 10], [0, 0, 255]]


@pytest.mark.parametrize("size", [(1, 1), (9, 33), (40, 127)], ids=str)
def test_side_is_the_picture_then_its_overlay(size: tuple[int, int]) -> None:
    image, mask = scene(10, *size)
    drawn = view("side", image, mask)
    np.testing.assert_array_equal(drawn[:, : size[1]], image)
    np.testing.assert_array_equal(drawn[:, size[1] :], view("overlay", image, mask))


def halves(height: int, width: int, right: int) -> Segmentation:
    """The network is sure of the first class on the left half, and of `right` on the other."""
    scores = np.full((3, height // 10, width // 10), -8.0, np.float32)
    scores[0, :, : width // 20] = scores[right, :, width // 20 :] = 8
    return Segmentation(scores, NO_BACKGROUND, (height, width), selected=frozenset({right}))


def test_cutout_keeps_only_selected_classes_and_blackens_the_rest() -> None:
    drawn = open_view(ViewOptions("cutout"), NO_BACKGROUND)
    picture = drawn(framed(np.full((60, 120, 3), 77)), halves(60, 120, right=2))
    assert picture[:, :50].max() == 0
    assert (picture[:, 70:] == 77).all()


def test_cutout_has_soft_edges() -> None:
    picture = open_view(ViewOptions("cutout"), NO_BACKGROUND)(
        framed(np.full((60, 120, 3), 200)), halves(60, 120, right=1)
    )
    rising = picture[30, 50:70, 0].astype(int)
    assert (np.diff(rising) >= 0).all()
    assert np.isin(rising, [0, 200]).sum() < len(rising), "some pixels are kept in part"


# Contours


def split(height: int = 60, width: int = 80, left: int = 1, right: int = 2) -> np.ndarray:
    mask = np.full((height, width), left, np.uint8)
    mask[:, width // 2 :] = right
    return mask


def test_two_classes_that_meet_have_each_a_line() -> None:
    drawn = view("contours", np.full((60, 80, 3), 100), split())
    assert drawn[30, 39].tolist() == [0, 0, 255]
    assert drawn[30, 40].tolist() == [0, 255, 0]
    assert drawn[30, 30].tolist() == drawn[30, 50].tolist() == [100, 100, 100]
    assert (drawn[:, 0] == 100).all(), "the frame's border is no edge"


def test_background_gets_a_shade_and_no_line() -> None:
    drawn = view("contours", np.full((60, 80, 3), 100), split(left=0, right=3))
    assert drawn[30, 39].tolist() == [50, 50, 50]
    assert drawn[30, 40].tolist() == [255, 0, 0]
    assert drawn[30, 30].tolist() == [100, 100, 100]


def test_a_class_beside_void_has_a_line() -> None:
    drawn = view("contours", np.full((60, 80, 3), 100), split(left=1, right=VOID), NO_BACKGROUND)
    assert drawn[30, 39].tolist() == [0, 255, 0]
    assert drawn[30, 40].tolist() == [50, 50, 50]
    assert drawn[30, 60].tolist() == [100, 100, 100]


@pytest.mark.parametrize(("size", "width"), [((1, 1), 1), ((240, 320), 1), ((720, 1280), 4)])
def test_lines_grow_with_the_frame(size: tuple[int, int], width: int) -> None:
    assert line_width(size) == line_width(size[::-1]) == width


@pytest.mark.parametrize("width", [1, 2, 4, 6])
def test_a_straight_line_is_as_wide_as_asked(width: int) -> None:
    size = 180 * width, 240 * width
    row = view("contours", np.full((*size, 3), 100), split(*size))[90 * width]
    middle = 120 * width
    assert np.flatnonzero(row[:, 2] == 255).tolist() == list(range(middle - width, middle))
    assert np.flatnonzero(row[:, 1] == 255).tolist() == list(range(middle, middle + width))


def by_morphology(mask: np.ndarray, width: int, labels: LabelSet) -> np.ndarray:
    """The outlines as their definition says: what lies in a disc around each pixel."""

    def near(reach: int) -> np.ndarray:
        around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
        return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, around) > 0

    shade = len(labels) if labels.background is None else labels.background
    shaded = np.where(near((width + 1) // 2), shade, VOID)
    lines = np.where(near(width), mask, VOID)
    return np.where(foreground(labels)[mask], lines, shaded).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 150),
    reach=st.integers(1, 7),
    coarse=st.integers(1, 30),
    seed=st.integers(0, 999),
    labels=st.sampled_from((PRIMARY, NO_BACKGROUND)),
)
def test_outlines_are_where_another_class_lies_in_a_disc(
    height: int, width: int, reach: int, coarse: int, seed: int, labels: LabelSet
) -> None:
    values = np.array([*range(len(labels)), VOID], np.uint8)
    small = np.random.default_rng(seed).choice(values, (height // coarse + 1, width // coarse + 1))
    mask = np.kron(small, np.ones((coarse, coarse), np.uint8))[:height, :width].copy()
    shade = len(labels) if labels.background is None else labels.background
    found = np.full(mask.shape, VOID, np.uint8)
    discs = disc(reach), disc((reach + 1) // 2)
    outline(read_only(mask), discs, foreground(labels), np.uint8(shade), found)
    np.testing.assert_array_equal(found, by_morphology(mask, reach, labels))


def test_a_table_mixes_each_class_with_its_own_alpha() -> None:
    colours, alphas = np.zeros((256, 3), np.uint8), np.zeros(256)
    colours[1], alphas[1] = (10, 20, 30), 0.5
    drawn = blend(
        np.full((1, 2, 3), 100, np.uint8),
        np.array([[0, 1]], np.uint8),
        blend_table(colours, alphas),
    )
    assert drawn[0].tolist() == [[100, 100, 100], [55, 60, 65]]


def test_line_and_shade_have_their_widths_on_a_large_frame() -> None:
    grey, mask = np.full((720, 1280, 3), 100, np.uint8), split(720, 1280, left=0, right=3)
    row = view("contours", grey, mask)[360].tolist()
    assert row[636:646] == [[100] * 3] * 2 + [[50] * 3] * 2 + [[255, 0, 0]] * 4 + [[100] * 3] * 2
