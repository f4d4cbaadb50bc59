"""What is written over a view: the HUD's figures, the legend, a word when nothing is there."""

from __future__ import annotations

import numpy as np
import pytest

from rtseg.contracts import BackendInfo, Source, SourceInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.effects.hud import empty_line, hud_lines, legend_rows
from rtseg.frame import Frame, Segmentation
from rtseg.labels import VOC, VOID, LabelSet, palette
from rtseg.stats import ManualClock, Stats

THREE = LabelSet(("nothing", "cat", "dog"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))


class Silent(Source):
    def __init__(self, notice: str | None = None, outages: int = 0) -> None:
        super().__init__()
        self.info = SourceInfo("silent", 8, 8)
        self.notice, self.outages = notice, outages

    def _read(self) -> None:
        return None


def columns(line: str) -> dict[str, str]:
    cells = line.split("\t")
    return dict(zip(cells[::2], cells[1::2], strict=True))


def running() -> Stats:
    """Ten frames a second, each 45 ms old when shown."""
    clock = ManualClock()
    stats = Stats(clock)
    stats.start()
    for _ in range(5):
        clock.sleep(0.1)
        stats.show(clock.now() - 0.045)
    stats.recent |= {"capture": 0.0021, "preprocess": 0.0009, "infer": 0.123456, "decode": 0.0}
    return stats


def segmentation(mask: list[list[int]], labels: LabelSet = THREE, selected=None) -> Segmentation:
    made = Segmentation(
        np.zeros((len(labels), 1, 1), np.float32),
        labels,
        np.shape(mask),
        selected=None if selected is None else frozenset(selected),
    )
    made.__dict__["mask"] = np.array(mask, np.uint8)
    return made


def test_before_the_first_frame_every_figure_is_a_dash() -> None:
    lines = hud_lines(Stats())
    first, *stages = map(columns, lines)
    assert first == {"fps": "-", "age": "-", "dropped": "0"}
    assert [{*row.values()} for row in stages] == [{"-"}, {"-"}]
    assert hud_lines()[0] == "fps\t-\tage\t-\tdropped\t-"


def test_the_hud_shows_rate_age_and_stages() -> None:
    first, second, third = map(columns, hud_lines(running()))
    assert first == {"fps": "10.0", "age": "45 ms", "dropped": "0"}
    assert second == {"capture": "2.1 ms", "preprocess": "0.9 ms", "infer": "123 ms"}
    assert third == {"decode": "0.0 ms", "draw": "-", "write": "-"}


def test_the_hud_shows_stages_that_not_every_run_has() -> None:
    stats = running()
    stats.add("encode", 0.0213)
    fourth = columns(hud_lines(stats)[3])
    assert fourth == {"encode": "21.3 ms"}
    stats.add("smooth", 0.003)
    assert columns(hud_lines(stats)[3]) == {"smooth": "3.0 ms", "encode": "21.3 ms"}


def test_the_hud_shows_drops_by_cause() -> None:
    stats = running()
    stats.dropped_by = {"capture": 10, "display": 2}
    lines = hud_lines(stats)
    assert columns(lines[0])["dropped"] == "12"
    assert "dropped: model busy 10, drawing busy 2" in lines


def test_the_hud_names_the_networks_size_as_imgsz_takes_it() -> None:
    assert hud_lines(model="lraspp", imgsz=(288, 512))[-1] == "lraspp 288x512"
    assert hud_lines(model="lraspp")[-1] == "lraspp"


def test_the_hud_shows_what_really_runs() -> None:
    info = BackendInfo("onnx", "cuda:0 (NVIDIA X)", "fp16", "CUDAExecutionProvider")
    assert hud_lines(backend=info)[-1] == "onnx · cuda:0 (NVIDIA X) · fp16 · CUDAExecutionProvider"
    assert hud_lines(backend=BackendInfo("stub", "cpu", "fp32"))[-1] == "stub · cpu · fp32"


def test_the_hud_warns_of_a_device_that_was_not_asked_for() -> None:
    info = BackendInfo("torch", "cpu", "fp32", "ATen", ("cuda is not available",), kept=False)
    assert hud_lines(backend=info)[-2:] == ["torch · cpu · fp32 · ATen", "!cuda is not available"]
    silent = BackendInfo("torch", "cpu", "fp32", kept=False)
    assert hud_lines(backend=silent)[-1].startswith("!")


def test_notes_of_a_device_that_was_asked_for_are_no_warning() -> None:
    info = BackendInfo("torch", "cpu", "fp32", "ATen", ("2 threads",))
    assert not any(line.startswith("!") for line in hud_lines(backend=info))


def test_the_hud_shows_notices_and_outages() -> None:
    assert hud_lines(source=Silent("reconnecting", 2))[-2:] == ["!reconnecting", "!outages 2"]
    assert not any(line.startswith("!") for line in hud_lines(source=Silent()))


def test_the_hud_follows_the_run() -> None:
    stats = running()
    effect = open_effect(ViewOptions(hud=True), THREE, stats=stats)
    frame = Frame(np.full((240, 320, 3), 90, np.uint8), 0, 0.0, 0.0)
    seen = Segmentation(np.array([0, 1, 0], np.float32).reshape(3, 1, 1), THREE, frame.size)
    first = effect(frame, seen)
    stats.dropped_by = {"capture": 10}
    assert not np.array_equal(effect(frame, seen), first)


def test_the_legend_names_classes_in_view_the_largest_first() -> None:
    seen = segmentation([[0, 2, 2, 2], [0, 1, 2, VOID]])
    assert legend_rows(seen, THREE) == [("dog\t50%", (0, 0, 255)), ("cat\t12%", (255, 0, 0))]


def test_the_legend_has_the_colours_that_are_drawn() -> None:
    labels = VOC.with_colours(palette("random:3", 21))
    assert legend_rows(segmentation([[15]], labels), labels)[0][1] == palette("random:3", 21)[15]


def test_the_legend_never_rounds_a_class_away() -> None:
    mask = np.zeros((100, 100), int)
    mask[0, 0] = 1
    assert legend_rows(segmentation(mask.tolist()), THREE) == [("cat\t<1%", (255, 0, 0))]


@pytest.mark.parametrize("nothing", [0, VOID])
def test_an_empty_result_says_what_is_missing(nothing: int) -> None:
    assert empty_line(segmentation([[nothing]], selected=[2])) == "no pixels of: dog"
    assert empty_line(segmentation([[nothing]], selected=[0, 1, 2])) == "no pixels of: cat, dog"
    assert empty_line(segmentation([[nothing]])) == "no pixels of: cat, dog"


def test_an_empty_result_of_many_classes_is_short() -> None:
    line = empty_line(segmentation([[0]], VOC))
    assert line == ("no pixels of: aeroplane, bicycle, bird, boat, bottle, bus and 14 more")


@pytest.mark.parametrize("mask", [[[1]], [[0, VOID, 2]]])
def test_a_result_that_is_not_empty_says_nothing(mask: list[list[int]]) -> None:
    assert empty_line(segmentation(mask)) is None


def test_background_alone_selected_is_nothing_to_miss() -> None:
    assert empty_line(segmentation([[0]], selected=[0])) is None


def test_an_empty_picture_has_no_words_that_nobody_asked_for() -> None:
    effect = open_effect(ViewOptions(), THREE)
    frame = Frame(np.full((240, 320, 3), 90, np.uint8), 0, 0.0, 0.0)
    drawn = effect(frame, segmentation(np.zeros((240, 320), int).tolist()))
    np.testing.assert_array_equal(drawn, frame.image)


def test_the_empty_line_is_drawn_at_the_bottom_left() -> None:
    effect = open_effect(ViewOptions(legend=True), THREE)
    frame = Frame(np.full((240, 320, 3), 90, np.uint8), 0, 0.0, 0.0)
    drawn = (effect(frame, segmentation(np.zeros((240, 320), int).tolist())) != 90).any(2)
    rows, across = np.nonzero(drawn)
    assert rows.min() > 180
    assert across.max() < 200
    assert drawn.sum() > 500


def test_opening_an_effect_has_compiled_it() -> None:
    from rtseg import decode

    open_effect(ViewOptions("side"), THREE)
    assert decode._decode.signatures
    open_effect(ViewOptions("contours"), THREE)
    assert decode._paint_mask.signatures
