"""Masks whose edges follow the picture: finer than the scores, and the same far from any edge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import rtseg
from rtseg.cli.app import main
from rtseg.draw import blend, overlay_table
from rtseg.frame import Frame, Image, Mask, Segmentation
from rtseg.labels import PERSON, VOC, VOID, LabelSet
from rtseg.matte.refine import Refined
from rtseg.segmenter import Segmenter
from rtseg.session.controls import alone
from rtseg.temporal import TemporalOptions

SIZE = (180, 320)
CELL = 16
Capture = pytest.CaptureFixture[str]


def disc(radius: int = 61, size: tuple[int, int] = SIZE) -> Mask:
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, (size[1] // 2 + 3, size[0] // 2 - 2), radius, 1, -1)
    return mask


def picture(truth: Mask) -> Image:
    """A dark disc on a light ground, both with some noise."""
    rng = np.random.default_rng(0)
    clean = np.where(truth[..., None] > 0, (40, 70, 60), (180, 200, 190))
    return np.clip(clean + rng.normal(0, 6, (*truth.shape, 3)), 0, 255).astype(np.uint8)


def coarse(truth: Mask, classes: int = 2, of: int = 1) -> np.ndarray:
    """Scores at the stride of a network, moved a little, as networks are off at edges."""
    moved = np.roll(truth, (CELL // 5, CELL // 5), (0, 1)).astype(np.float32)
    small = (truth.shape[1] // CELL, truth.shape[0] // CELL)
    margin = cv2.resize(moved, small, interpolation=cv2.INTER_AREA) * 12 - 6
    scores = np.full((classes, *margin.shape), -20, np.float32)
    scores[0], scores[of] = -margin / 2, margin / 2
    return scores


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def both(labels: LabelSet = PERSON, of: int = 1) -> tuple[Segmentation, Refined, Mask]:
    truth = disc()
    plain = Segmentation(coarse(truth, len(labels), of), labels, SIZE)
    return plain, Refined(plain, picture(truth)), truth


def test_the_edge_is_found_again_that_the_scores_are_too_coarse_for() -> None:
    plain, refined, truth = both()
    assert iou(plain.mask > 0, truth > 0) < 0.95
    assert iou(refined.mask > 0, truth > 0) > 0.98


def test_far_from_the_edge_nothing_changes() -> None:
    plain, refined, _ = both()
    edge = cv2.Canny(plain.mask * 255, 50, 100)
    near = cv2.dilate(edge, np.ones((61, 61), np.uint8)) > 0
    assert (plain.mask != refined.mask).any()
    assert np.array_equal(plain.mask[~near], refined.mask[~near])


def test_a_picture_of_one_colour_tells_nothing() -> None:
    plain, _, _ = both()
    blank = Refined(plain, np.full((*SIZE, 3), 128, np.uint8))
    assert iou(blank.mask > 0, plain.mask > 0) > 0.97


def test_it_is_a_segmentation_in_all_else() -> None:
    plain, refined, _ = both()
    assert refined.mask is refined.mask
    assert not refined.mask.flags.writeable
    assert refined.mask.dtype == np.uint8
    assert np.array_equal(refined.counts, np.bincount(refined.mask.ravel(), minlength=256))
    assert refined.shares == {"person": pytest.approx((refined.mask == 1).mean())}
    assert np.array_equal(refined.probability("person"), plain.probability("person"))
    table, image = overlay_table(PERSON, 0.4), picture(disc())
    drawn = Refined(plain, image).over(image, table)  # drawn before the mask was asked for
    assert np.array_equal(drawn, blend(image, refined.mask, table))


def test_of_several_classes_the_scores_say_which() -> None:
    labels = VOC
    truth = disc()
    scores = coarse(truth, len(labels), 15)
    half = scores.shape[2] // 2
    scores[8, :, :half] = scores[15, :, :half]  # a cat on the left, a person on the right
    scores[15, :, :half] = -5
    plain = Segmentation(scores, labels, SIZE)
    refined = Refined(plain, picture(truth))
    assert set(np.unique(refined.mask)) == {0, 8, 15}
    assert iou(refined.mask > 0, truth > 0) > iou(plain.mask > 0, truth > 0) + 0.03
    inside = cv2.erode(truth, np.ones((41, 41), np.uint8)) > 0
    assert np.array_equal(refined.mask[inside], plain.mask[inside])


def test_what_is_not_selected_is_background_or_void() -> None:
    plain, refined, truth = both()
    nobody = refined.selecting(frozenset({0}))
    assert isinstance(nobody, Refined)
    assert not nobody.mask.any()
    streets = LabelSet(("road", "car"), ((0, 0, 0), (1, 2, 3)), background=None)
    cars = Segmentation(plain.scores, streets, SIZE, selected=frozenset({1}))
    found = Refined(cars, picture(truth)).mask
    assert set(np.unique(found)) == {1, VOID}
    assert np.array_equal(found == 1, refined.mask == 1)
    everything = Segmentation(plain.scores, streets, SIZE)
    assert np.array_equal(Refined(everything, picture(truth)).mask, everything.mask)


def test_other_sizes_classes_and_scores_keep_the_picture() -> None:
    _, refined, _ = both()
    large = refined.at_size((360, 640))
    assert isinstance(large, Refined)
    assert iou(large.mask > 0, cv2.resize(disc(), (640, 360)) > 0) > 0.97
    assert isinstance(alone(refined, "person"), Refined)
    assert np.array_equal(alone(refined, "person").mask, refined.mask)
    inverse = refined.with_scores(-refined.scores)
    assert isinstance(inverse, Refined)
    assert iou(inverse.mask == 0, refined.mask == 1) > 0.98


def test_scores_that_lie_elsewhere_are_fetched() -> None:
    plain, refined, truth = both()

    class Elsewhere:
        shape = plain.scores.shape

        def numpy(self) -> np.ndarray:
            return plain.scores

    held = Segmentation(Elsewhere(), PERSON, SIZE)  # type: ignore[arg-type]
    assert np.array_equal(Refined(held, picture(truth)).mask, refined.mask)


# --- through the program -------------------------------------------------------------------------


CLIP = "test://?size=320x180&fps=30&frames=4"


def stub(*, refine: bool) -> Segmenter:
    return rtseg.load("stub", imgsz=(64, 96), refine=refine)


@pytest.mark.parametrize(
    "temporal",
    [
        TemporalOptions(),
        TemporalOptions(smooth=0.8),
        TemporalOptions(idle=True),
        TemporalOptions(propagate=True),
    ],
)
def test_streams_give_what_single_pictures_give(temporal: TemporalOptions) -> None:
    with stub(refine=True) as segmenter, stub(refine=False) as plain:
        pairs = list(rtseg.stream(CLIP, segmenter, temporal=temporal))
        usual = list(rtseg.stream(CLIP, plain, temporal=temporal))
        assert isinstance(segmenter(pairs[0][0].image), Refined)
        assert not isinstance(plain(pairs[0][0].image), Refined)
    assert len(pairs) == 4
    for (frame, found), (_, other) in zip(pairs, usual, strict=True):
        assert isinstance(found, Refined)
        assert not isinstance(other, Refined)
        assert np.array_equal(found.mask, Refined(other, frame.image).mask)


def test_several_sources_too() -> None:
    with stub(refine=True) as segmenter:
        looks = list(rtseg.stream_many([CLIP, CLIP], segmenter))
    assert len(looks) == 8
    assert all(isinstance(segmentation, Refined) for _, _, segmentation in looks)


def test_a_run_writes_the_masks_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = [CLIP, "-m", "stub", "-b", "stub", "--imgsz", "64x96", "--refine"]
    assert main([*run, "--mask-output", "masks/", "--json", "a.jsonl", "--metrics", "m.json"]) == 0
    assert json.loads(Path("m.json").read_text())["refine"] is True
    with stub(refine=True) as segmenter:
        expected = [segmentation.mask for _, segmentation in rtseg.stream(CLIP, segmenter)]
    written = sorted((tmp_path / "masks").iterdir())
    import PIL.Image

    for path, mask in zip(written, expected, strict=True):
        assert np.array_equal(np.array(PIL.Image.open(path)), mask)
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    for one in first["classes"]:
        assert one["share"] == pytest.approx((expected[0] == one["id"]).mean(), abs=1e-4)


def test_a_frame_is_finished_once_and_only_where_it_was_asked_for() -> None:
    frame = Frame(picture(disc()), 0, 0.0, 0.0)
    plain = Segmentation(coarse(disc()), PERSON, SIZE)
    with stub(refine=False) as segmenter:
        assert segmenter.finished((frame, plain)) == (frame, plain)
    with stub(refine=True) as segmenter:
        _, found = segmenter.finished((replace(frame, index=3), plain))
    assert isinstance(found, Refined)


def test_eval_measures_it_beside_the_plain_masks(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colour_network import make_network

    monkeypatch.chdir(tmp_path)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    truth = disc()
    cv2.imwrite("images/a.png", picture(truth))
    cv2.imwrite("masks/a.png", truth)
    (tmp_path / "classes.txt").write_text("background\ndisc\n")
    network = make_network(tmp_path / "net.onnx")
    (tmp_path / "suite.toml").write_text(
        '[[set]]\npath = "."\nformat = "folder"\n'
        f'[[network]]\nmodel = "{network}"\nname = "one"\n'
        f'[[network]]\nmodel = "{network}"\nname = "two"\nrefine = true\n'
    )
    assert main(["eval", "--suite", "suite.toml", "--json", "a.json"]) == 0
    assert [r["network"] for r in json.loads(Path("a.json").read_text())["results"]] == [
        "one",
        "two, refined",
    ]
    (tmp_path / "suite.toml").write_text(
        f'[[set]]\npath = "."\n[[network]]\nmodel = "{network}"\nrefine = 1\n'
    )
    capsys.readouterr()
    assert main(["eval", "--suite", "suite.toml"]) == 2
    assert "refine is 1" in capsys.readouterr().err
