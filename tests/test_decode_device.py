"""A GPU's kernels against the compiled passes; without a GPU Triton's interpreter runs them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rtseg.decode import BlendTable, decode, start_painting
from rtseg.draw import blend_table, overlay_table, resized
from rtseg.frame import Segmentation
from rtseg.labels import VOID, LabelSet

pytest.importorskip("triton", reason="Triton has no wheel for this system")
import torch
from conftest import DEVICE, ON_GPU, on_the_device

from rtseg.decode.device import RUN, DeviceBatch, DeviceScores, Downloads, shrink, upload

pytestmark = on_the_device

TIES = 1e-5 if ON_GPU else 0
"""Share of pixels that may differ: a GPU fuses products and sums, which decides ties."""

Case = tuple[int, int, int, int, int, bool]

CASES = {
    "many classes": (21, 3, 5, 18, 33, False),
    "corners on corners": (4, 5, 3, 19, 28, True),
    "longer than one run": (2, 2, 9, 6, RUN + 70, False),
    "one cell": (5, 1, 1, 9, 7, False),
    "smaller than its scores": (3, 9, 11, 4, 6, False),
}


def scores_of(classes: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(h * w).standard_normal((classes, h, w)).astype(np.float32)


def picture_of(height: int, width: int) -> np.ndarray:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    image.flags.writeable = False
    return image


def some_blend() -> BlendTable:
    random = np.random.default_rng(5)
    colours = random.integers(0, 256, (256, 3)).astype(np.uint8)
    return blend_table(colours, np.append(random.random(254), [0.0, 1.0]))


def held(scores: np.ndarray, image: np.ndarray) -> DeviceScores:
    """Scores in the order in which a network that runs channels last leaves them."""
    return batch_of([scores], [image]).each()[0]


def batch_of(scores: list[np.ndarray], images: list[np.ndarray]) -> DeviceBatch:
    last = torch.from_numpy(np.stack(scores).transpose(0, 2, 3, 1).copy())
    frames = upload(images, torch.device(DEVICE))
    return DeviceBatch(last.to(DEVICE).permute(0, 3, 1, 2), frames)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_mask_counts_and_picture_are_those_of_the_processor(case: Case) -> None:
    classes, h, w, height, width, align = case
    scores, image = scores_of(classes, h, w), picture_of(height, width)
    table = np.arange(256, dtype=np.uint8)
    table[1] = VOID  # a class that was not selected
    prepared, expected = start_painting(image, some_blend())
    mask, counts = decode(scores, (height, width), table, prepared, align_corners=align)

    there = held(scores, image)
    assert there.shape == scores.shape
    np.testing.assert_array_equal(there.numpy(), scores)
    drawn = there.over(table, some_blend(), align_corners=align)
    assert np.mean(drawn.image != expected) <= TIES
    assert np.mean(drawn.mask() != mask) <= TIES
    assert np.abs(drawn.counts - counts).sum() <= TIES * 2 * mask.size
    assert drawn.counts.sum() == mask.size


def test_a_mask_alone_is_decoded_without_a_picture() -> None:
    scores = scores_of(3, 4, 4)
    table = np.arange(256, dtype=np.uint8)
    expected, tally = decode(scores, (21, 30), table)
    mask, counts = held(scores, picture_of(21, 30)).decode((21, 30), table)
    assert np.mean(mask != expected) <= TIES
    assert np.abs(counts - tally).sum() <= TIES * 2 * mask.size


def test_a_segmentation_does_not_show_where_its_scores_lie() -> None:
    labels = LabelSet(("background", "a", "b"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)), background=0)
    scores, image = scores_of(3, 4, 6), picture_of(16, 24)
    here = Segmentation(scores, labels, (16, 24), selected=frozenset({2}))
    there = Segmentation(held(scores, image), labels, (16, 24), selected=frozenset({2}))  # type: ignore[arg-type]
    blend = overlay_table(labels, 0.4)
    wide = np.zeros((16, 50, 3), np.uint8)

    assert repr(there) == repr(here)
    np.testing.assert_allclose(there.over(image, blend), here.over(image, blend), atol=TIES * 255)
    assert np.mean(there.mask != here.mask) <= TIES
    assert not there.mask.flags.writeable
    assert there.shares == pytest.approx(here.shares, abs=0.01)
    np.testing.assert_array_equal(there.scores, here.scores)
    # a second drawing, beside something else, and with the mask known
    np.testing.assert_array_equal(there.over(image, blend, wide, 26), wide)
    np.testing.assert_allclose(wide[:, 26:], here.over(image, blend), atol=TIES * 255)
    fresh = Segmentation(held(scores, image), labels, (16, 24), selected=frozenset({2}))  # type: ignore[arg-type]
    again = fresh.over(image, blend, np.zeros_like(wide), 26)
    np.testing.assert_allclose(again, wide, atol=TIES * 255)


@pytest.mark.parametrize(
    ("large", "small"),
    [((36, 64), (15, 26)), ((30, 40), (64, 64)), ((64, 128), (16, 64)), ((24, 24), (24, 24))],
    ids=["halved", "enlarged", "quartered and halved", "as it is"],
)
def test_frames_are_shrunk_as_on_the_processor(
    large: tuple[int, int], small: tuple[int, int]
) -> None:
    image = cv2.GaussianBlur(picture_of(*large), (0, 0), 1.5)
    into = torch.zeros((2, *small, 3), dtype=torch.uint8, device=DEVICE)
    shrink(upload([np.zeros_like(image), image], torch.device(DEVICE)), into)
    expected = cv2.cvtColor(resized(image, small), cv2.COLOR_BGR2RGB)
    assert not into[0].any()
    difference = np.abs(into[1].cpu().numpy().astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.4


def test_a_side_that_cannot_be_halved_evenly_stays_in_place() -> None:
    ramp = np.repeat(np.linspace(0, 250, 101).astype(np.uint8)[None, :, None], 63, 0).repeat(3, 2)
    into = torch.zeros((1, 16, 24, 3), dtype=torch.uint8, device=DEVICE)
    shrink(upload([ramp], torch.device(DEVICE)), into)
    expected = resized(ramp, (16, 24)).astype(int)
    assert np.abs(into[0].cpu().numpy().astype(int) - expected).max() <= 3


def counted(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The shapes of what is downloaded, a list for each wait."""
    seen: list[list[tuple[int, ...]]] = []
    start = Downloads.__init__

    def spy(self: Downloads, tensors: list[torch.Tensor]) -> None:
        seen.append([tuple(each.shape) for each in tensors])
        start(self, tensors)

    monkeypatch.setattr(Downloads, "__init__", spy)
    return seen


def test_a_batch_is_drawn_and_fetched_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [scores_of(4, 3, n) for n in (5, 5, 5)]
    scores[1], scores[2] = scores[1] * -1, scores[2][::-1]
    images = [picture_of(20, 24) + np.uint8(n) for n in range(3)]
    table, downloads = np.arange(256, dtype=np.uint8), counted(monkeypatch)
    held = batch_of(scores, images).each()
    for n in range(3):
        prepared, expected = start_painting(images[n], some_blend())
        mask, counts = decode(scores[n], (20, 24), table, prepared)
        drawn = held[n].over(table, some_blend())
        assert np.mean(drawn.image != expected) <= TIES
        assert np.abs(drawn.counts - counts).sum() <= TIES * 2 * mask.size
        assert np.mean(drawn.mask() != mask) <= TIES
    assert downloads == [[(3, 20, 24, 3), (3, 256)], [(3, 20, 24)]]
    for n in range(3):
        assert np.mean(held[n].decode((20, 24), table)[0] != mask) <= (TIES if n == 2 else 1)
        np.testing.assert_array_equal(held[n].numpy(), scores[n])
    assert downloads[2:] == [[(3, 20, 24), (3, 256)], [(3, 4, 3, 5)]]


def test_a_frame_drawn_again_or_in_another_way_is_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = picture_of(20, 24)
    held = batch_of([scores_of(4, 3, 5)] * 3, [image] * 3).each()
    table, downloads = np.arange(256, dtype=np.uint8), counted(monkeypatch)
    first = held[0].over(table, some_blend()).image
    kept = first.copy()
    first[:] = 0  # as text over it
    np.testing.assert_array_equal(held[0].over(table, some_blend()).image, kept)
    other = blend_table(np.zeros((256, 3), np.uint8), np.ones(256))
    assert not held[1].over(table, other).image.any()
    assert not held[2].over(table, other).image.any()
    np.testing.assert_array_equal(held[1].over(table, some_blend()).image, kept)
    assert [shapes[0][0] for shapes in downloads] == [3, 1, 2]


def test_other_scores_of_a_frame_are_drawn_over_it_on_the_device() -> None:
    images = [picture_of(20, 24), 255 - picture_of(20, 24)]
    held = batch_of([scores_of(4, 3, 5)] * 2, images).each()
    other = scores_of(4, 3, 5)[::-1].copy()
    table = np.arange(256, dtype=np.uint8)
    prepared, expected = start_painting(images[1], some_blend())
    decode(other, (20, 24), table, prepared)
    smoothed = held[1].with_scores(other)
    assert np.mean(smoothed.over(table, some_blend()).image != expected) <= TIES
    np.testing.assert_array_equal(smoothed.numpy(), other)
