"""Frames, labels, specs, errors, durations, clocks: the values everything is made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rtseg.errors import (
    DeviceError,
    ModelError,
    RtsegError,
    SourceError,
    ThresholdError,
    UsageError,
)
from rtseg.frame import Frame, Segmentation
from rtseg.labels import PERSON, VOC, VOID, LabelSet, voc_colours
from rtseg.stats import Durations, ManualClock, Stats
from rtseg.text import counted
from rtseg.zoo import InputSpec, ModelSpec, WeightsSpec


def test_a_frame_is_sealed() -> None:
    frame = Frame(np.zeros((3, 5, 3), np.uint8), 0, 0.0, 0.0)
    assert frame.size == (3, 5)
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0, 0, 0] = 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 5), np.uint8),
        np.zeros((3, 5, 4), np.uint8),
        np.zeros((3, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_a_frame_refuses_other_shapes(image) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, got"):
        Frame(image, 0, 0.0, 0.0)


def test_voc_colours_are_the_published_ones() -> None:
    assert voc_colours(21)[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc_colours(21)[15] == (192, 128, 128)
    assert len(VOC) == 21
    assert VOC.names[15] == "person"


def test_classes_by_name_or_number() -> None:
    assert VOC.index("Person") == VOC.index("15") == VOC.index(15) == 15
    assert VOC.select(["dog", 12, "cat"]) == {12, 8}
    with pytest.raises(UsageError, match="unknown class 'unicorn': the model has background"):
        VOC.index("unicorn")
    with pytest.raises(UsageError, match="unknown class '21'"):
        VOC.index(21)


def test_what_is_not_selected_becomes_background_or_void() -> None:
    kept = VOC.lookup_table(frozenset({15}))
    assert kept[15] == 15
    assert kept[12] == 0
    no_background = replace(VOC, background=None)
    assert no_background.lookup_table(frozenset({15}))[12] == VOID
    assert (VOC.lookup_table(None) == np.arange(256)).all()


def test_label_sets_are_checked() -> None:
    with pytest.raises(ValueError, match="2 names but 1 colours"):
        LabelSet(("a", "b"), ((0, 0, 0),))
    with pytest.raises(UsageError, match="it has 1 colours"):
        PERSON.with_colours([(1, 2, 3)])


def test_a_spec_survives_json() -> None:
    spec = ModelSpec(
        "x",
        "lraspp_mobilenet_v3_large",
        PERSON,
        InputSpec((288, 512), fixed=True, mean=(0.5, 0.5, 0.5)),
        weights=WeightsSpec("https://example.invalid/x.pth", "ab" * 32, "MIT", 12.5),
        miou=57.9,
    )
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rtseg": 99}', '{"rtseg": 1, "name": "x"}'])
def test_what_is_no_spec_is_refused(text) -> None:
    with pytest.raises(ModelError, match="here"):
        ModelSpec.from_json(text, "here")


def test_errors_say_asked_found_do_and_know_their_exit_code() -> None:
    error = SourceError("cannot open camera 3", found="there is only camera 0", do="Pass 0.")
    assert str(error) == "cannot open camera 3: there is only camera 0. Pass 0."
    codes = [kind("x").exit_code for kind in (RtsegError, UsageError, SourceError, DeviceError)]
    assert codes == [1, 2, 3, 4]
    assert ThresholdError("x").exit_code == 5


def test_quantiles_within_half_a_percent() -> None:
    seconds = np.random.default_rng(0).lognormal(-4, 1, 5000)
    durations = Durations()
    for value in seconds:
        durations.add(float(value))
    for share in (0.5, 0.95, 0.99):
        true = float(np.quantile(seconds, share, method="inverted_cdf"))
        assert durations.quantile(share) == pytest.approx(true, rel=0.0051)
        assert durations.milliseconds()[f"p{100 * share:.0f}"] == pytest.approx(
            1e3 * true, rel=0.0051
        )
    assert durations.milliseconds()["max"] == pytest.approx(seconds.max() * 1e3, abs=1e-3)
    assert math.isnan(Durations().quantile(0.5))
    assert Durations().milliseconds() == {}


def test_stats_measure_the_loop_by_their_clock() -> None:
    clock = ManualClock()
    stats = Stats(clock)
    stats.start()
    for i in range(10):
        clock.sleep(0.1)
        stats.show(captured_at=i * 0.1)
    assert stats.fps == pytest.approx(10.0)
    assert stats.fps_now == pytest.approx(10.0)
    assert stats.age.quantile(0.99) == pytest.approx(0.1, rel=0.01)
    with stats.stage("infer"):
        clock.sleep(0.02)
    assert stats.recent["infer"] == pytest.approx(0.02)
    since = clock.now()
    clock.sleep(5.0)
    stats.add_pause(since)
    for _ in range(3):
        clock.sleep(0.05)
        stats.show(captured_at=clock.now())
    assert stats.fps_now == pytest.approx(20.0), "a pause is not slow"


def scores(values: list[list[float]]) -> np.ndarray:
    """(C, 1, w) float32 from one row per class."""
    return np.array(values, np.float32)[:, None, :]


def test_mask_shares_and_selection() -> None:
    raw = scores([[0, 0, 1, 1], [1, 1, 0, 0], [-9, -9, -9, -9]])
    labels = LabelSet(("nothing", "a", "b"), voc_colours(3))
    whole = Segmentation(raw, labels, (2, 4))
    assert whole.mask.tolist() == [[1, 1, 0, 0]] * 2
    assert whole.shares == {"a": 0.5}
    assert not whole.mask.flags.writeable
    none = Segmentation(raw, labels, (2, 4), selected=frozenset({2}))
    assert none.shares == {}
    assert not none.mask.any()


def test_probability_of_two_classes_is_the_softmax_of_the_enlarged_logits() -> None:
    raw = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    segmentation = Segmentation(raw, PERSON, (33, 44))
    import torch

    large = torch.nn.functional.interpolate(
        torch.from_numpy(raw)[None], (33, 44), mode="bilinear", align_corners=False
    )
    expected = large.softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(segmentation.probability("person"), expected, atol=1e-5)


def test_probability_of_probabilities_is_their_enlargement() -> None:
    raw = scores([[0.2, 0.2], [0.8, 0.8]])
    assert Segmentation(raw, PERSON, (3, 3), kind="probabilities").probability(1) == pytest.approx(
        np.full((3, 3), 0.8)
    )


def seen(segmentation: Segmentation) -> np.ndarray:
    """(H, W, 3) uint8 BGR: what a notebook shows."""
    import cv2

    return cv2.imdecode(np.frombuffer(segmentation._repr_png_(), np.uint8), cv2.IMREAD_COLOR)


def test_a_notebook_sees_the_mask_in_its_colours() -> None:
    picture = seen(Segmentation(scores([[0, 9], [9, 0]]), PERSON, (4, 8)))
    red, green, blue = PERSON.colours[1]
    assert picture[0, 0].tolist() == [blue, green, red]
    assert picture[0, 7].tolist() == [0, 0, 0]


def test_a_notebook_sees_the_mask_over_its_picture_with_names() -> None:
    labels = LabelSet(("nothing", "a <b>", "c"), ((0, 0, 0), (200, 0, 0), (0, 0, 200)))
    segmentation = Segmentation(scores([[0, 9], [9, 0], [-9, -9]]), labels, (4, 8))
    segmentation.picture = np.full((4, 8, 3), 100, np.uint8)
    picture = seen(segmentation)
    assert picture[0, 7].tolist() == [100, 100, 100], "the background is the picture"
    assert picture[0, 0].tolist() == pytest.approx([45, 45, 155], abs=1), "over grey, RGB is BGR"
    html = segmentation._repr_html_()
    assert '<span style="color: rgb(200, 0, 0)">' in html
    assert "a &lt;b&gt; 50.0 %" in html
    assert "> c " not in html
    assert not segmentation.with_scores(segmentation.scores).picture, "it may be of another frame"
    nothing = Segmentation(scores([[9, 9], [0, 0], [0, 0]]), labels, (4, 8))
    assert "only background" in nothing._repr_html_()


def test_a_notebook_keeps_a_large_picture_small() -> None:
    assert seen(Segmentation(scores([[0, 9], [9, 0]]), PERSON, (64, 4096))).shape == (16, 1024, 3)


def test_what_prints_in_one_line() -> None:
    from rtseg.zoo import MODELS

    segmentation = Segmentation(scores([[0, 9], [9, 0]]), PERSON, (4, 8))
    assert repr(segmentation) == "<Segmentation 8x4 of 2 classes>"
    assert repr(Frame(np.zeros((4, 8, 3), np.uint8), 3, 0.1, 0.0)) == "<Frame 3, 8x4, at 0.100 s>"
    assert repr(PERSON) == "<LabelSet of 2: background, person>"
    spec = MODELS["deeplabv3_resnet50"]
    assert repr(spec) == "<ModelSpec deeplabv3_resnet50: 21 classes, input 520x520>"


def test_what_is_counted_is_one_or_many() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
