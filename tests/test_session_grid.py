"""The grid: where cells lie, what they say, and the film of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtseg.backends import open_backend
from rtseg.contracts import Rendered, Sink, Source, SourceInfo
from rtseg.effects import ViewOptions
from rtseg.errors import SourceError
from rtseg.frame import Frame, Segmentation
from rtseg.labels import LabelSet
from rtseg.nets import find_model
from rtseg.segmenter import Segmenter
from rtseg.session.controls import Controls, open_controls
from rtseg.session.engine import Channel, Result
from rtseg.session.grid import (
    GAP,
    ByArrival,
    ByTimestamp,
    Film,
    Grid,
    GridCompositor,
    fitted,
    lay_out,
    order_of,
    rate_of,
)
from rtseg.session.overlay import Overlay
from rtseg.session.sources import Unopened
from rtseg.session.state import Hud
from rtseg.sources import open_source
from rtseg.stats import ManualClock, Stats

LABELS = LabelSet(("background", "thing"), ((0, 0, 0), (255, 0, 0)))
WIDE, SQUARE, TALL = (720, 1280), (600, 600), (1280, 720)
HD = (1080, 1920)
NOON = datetime(2026, 1, 2, 12)


class Still(Source):
    def __init__(self, name: str = "camera", *, live: bool = True, count: int | None = None):
        super().__init__(ManualClock())
        self.info = SourceInfo(name, 64, 36, Fraction(10), count, live)

    def _read(self) -> Frame | None:
        return None


def channel(name: str = "camera", **info) -> Channel:
    source = Still(name, **info)
    return Channel(source, name, stats=Stats(source.clock))


def look(source: int, pts: float = 0.0, grey: int = 200, size=(36, 64), index: int = 0) -> Result:
    scores = np.zeros((2, 2, 2), np.float32)
    scores[0] = 1
    frame = Frame(np.full((*size, 3), grey, np.uint8), index, pts, 0.0)
    return Result(source, frame, Segmentation(scores, LABELS, size, selected=frozenset()))


def plain(frame: Frame, segmentation: Segmentation) -> np.ndarray:
    assert segmentation.mask.shape == frame.size
    return frame.image.copy()


def grid_of(*channels: Channel, hud: Hud = "none", size: tuple[int, int] = (36, 64)) -> Grid:
    layout = lay_out([size] * len(channels), HD)
    return Grid(channels, [plain] * len(channels), layout, LABELS, hud=hud)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (WIDE, {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2, 7: 3, 9: 3, 10: 3, 12: 3, 13: 4, 16: 4}),
        (SQUARE, {1: 1, 2: 1, 3: 1, 4: 2, 6: 2, 8: 2, 12: 3}),
        (TALL, {1: 1, 2: 1, 3: 1, 4: 1, 6: 1, 16: 2}),
    ],
)
def test_rows_suit_the_number_and_the_shape(shape, rows) -> None:
    found = {n: len({top for top, _ in lay_out([shape] * n, HD).corners}) for n in rows}
    assert found == rows


@given(st.lists(st.tuples(st.integers(16, 3000), st.integers(16, 3000)), min_size=1, max_size=16))
def test_cells_are_equal_lie_within_the_grid_and_apart(sizes) -> None:
    layout = lay_out(sizes, HD)
    height, width = layout.cell
    assert len(layout.corners) == len(sizes)
    assert all(side % 2 == 0 for side in (*layout.cell, *layout.size))
    for n, (top, left) in enumerate(layout.corners):
        assert 0 <= top <= layout.size[0] - height
        assert 0 <= left <= layout.size[1] - width
        for other_top, other_left in layout.corners[:n]:
            assert abs(top - other_top) >= height + GAP or abs(left - other_left) >= width + GAP


def test_no_picture_is_enlarged_for_want_of_others() -> None:
    assert lay_out([(180, 320)], HD).size == (180, 320)
    assert lay_out([(2160, 3840)], HD).size == HD


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [
        ((720, 1280), 1.0, (180, 320)),
        ((1280, 720), 1.0, (180, 101)),
        ((576, 720), 64 / 45, (180, 320)),
        ((10, 2000), 1.0, (2, 320)),
    ],
)
def test_a_picture_keeps_its_shape_in_its_cell(size, ratio, expected) -> None:
    assert fitted(size, (180, 320), ratio) == expected


def test_each_look_is_drawn_into_its_own_cell_and_nowhere_else() -> None:
    grid = grid_of(channel("a"), channel("b"))
    before = grid.image.copy()
    grid.show(look(1, grey=250))
    (_, left), (height, width) = lay_out([(36, 64)] * 2, HD).corners[1], (36, 64)
    assert (grid.image[:, left:] == 250).all()
    assert (grid.image[:, :left] == before[:, :left]).all()
    assert grid.image.shape == (height, 2 * width + GAP, 3)


def test_a_cell_says_what_became_of_its_source_and_keeps_the_last_picture() -> None:
    some = channel("camera 3")
    grid = grid_of(some, size=(360, 640))
    grid.show(look(0))
    assert (grid.image == 200).all(), "while all is well there is nothing over the picture"
    assert not grid.refresh()
    some.source.notice = "reconnecting to camera 3 (try 1)"
    assert grid.refresh()
    assert np.median(grid.image) == 120, "dimmed"
    assert not grid.refresh(), "nothing new"
    waiting = grid.image.copy()
    some.source.notice = None
    assert grid.refresh()
    assert (grid.image == 200).all()
    some.ended, some.error = True, SourceError("camera 3 is gone")
    assert grid.refresh()
    assert np.median(grid.image) == 120
    assert (grid.image != waiting).any(), "other words"


def test_a_single_picture_that_ended_stays_bright() -> None:
    some = channel("photo.jpg", live=False, count=1)
    grid = grid_of(some)
    grid.show(look(0))
    some.ended = True
    grid.refresh()
    assert (grid.image == 200).all()


def test_the_figures_can_be_hidden_and_a_silent_camera_is_named() -> None:
    some = channel("camera", live=True)
    grid = grid_of(some, size=(360, 640), hud="all")
    grid.show(look(0))
    lively = grid.image.copy()
    assert (lively != 200).any()
    assert not grid.refresh()
    some.source.clock.sleep(3.0)
    assert grid.refresh(), "no frame for 3 s"
    assert (grid.image != lively).any()
    grid.redraw(hud="none")
    assert (grid.image == 200).all()


def test_a_source_is_not_silent_while_its_image_is_still_to_be_shown() -> None:
    some = channel("slides", live=True)
    some.source.info = replace(some.source.info, frame_rate=Fraction(1, 3))
    grid = grid_of(some, size=(360, 640), hud="all")
    grid.show(look(0))
    some.source.clock.sleep(2.9)
    assert not grid.refresh()
    some.source.clock.sleep(2.0)
    assert grid.refresh()


def test_a_paused_camera_is_not_silent() -> None:
    some = channel("camera", live=True)
    grid = grid_of(some, size=(360, 640), hud="all")
    grid.show(look(0))
    some.paused = True
    some.source.clock.sleep(3.0)
    assert not grid.refresh()
    some.paused = False
    assert not grid.refresh(), "its next frame is not due yet"
    some.source.clock.sleep(3.0)
    assert grid.refresh()


def controlled(*sources: Channel, view: ViewOptions = ViewOptions(), **options: Any) -> Controls:  # noqa: B008
    segmenter = Segmenter(open_backend("stub", find_model("stub"), input_size=(32, 64)))
    return open_controls(view, sources, segmenter, SourceInfo("grid", 128, 36), **options)


def composed(controls: Controls, *sources: Channel) -> GridCompositor:
    """A grid whose cells are drawn by the controls; its image is `_grid.image`."""
    labels, layout = controls.segmenter.labels, lay_out([(36, 64)] * len(sources), HD)
    grid = Grid(sources, controls.effects, layout, labels, hud=controls.state.hud)
    controls.locate = grid.locate
    clock = sources[0].stats.clock
    appearance = lambda: (controls.look(), controls.state.hud)  # noqa: E731
    return GridCompositor(grid, ByArrival(clock), [], [], appearance, Stats(clock))


def of_class(number: int, source: int, labels: LabelSet) -> Result:
    """A grey frame that is all of one class."""
    scores = np.zeros((len(labels), 1, 1), np.float32)
    scores[number] = 1
    frame = Frame(np.full((36, 64, 3), 200, np.uint8), 0, 0.0, 0.0)
    return Result(source, frame, Segmentation(scores, labels, (36, 64)))


def test_e_refines_the_edges_of_all_cells_and_of_what_is_written() -> None:
    controls = controlled(channel())
    controls.press("e")
    assert controls.state.appearance.refine
    assert controls.segmenter.refine
    controls.press("e")
    assert not controls.state.appearance.refine
    assert not controls.segmenter.refine


def test_keys_act_on_all_cells() -> None:
    sources = [channel("a"), channel("b")]
    controls = controlled(*sources)
    labels = controls.segmenter.labels
    compositor = composed(controls, *sources)
    for n in (0, 1):
        compositor.show(of_class(1, n, labels))
    red, green, blue = labels.colours[1]

    def left_and_right() -> tuple[list[int], list[int]]:
        compositor.present(changed=False)
        image = compositor._grid.image
        return image[20, 30].tolist(), image[20, -30].tolist()

    def blended(alpha: float) -> list[int]:
        return [round(200 + alpha * (part - 200)) for part in (blue, green, red)]

    assert left_and_right() == (blended(0.4), blended(0.4))
    for key, expected in (("+", blended(0.5)), ("-", blended(0.4)), ("\t", [blue, green, red])):
        controls.press(key)
        assert left_and_right() == (expected, expected), key
    for key, expected in (("2", [0, 0, 0]), ("2", [blue, green, red])):
        controls.press(key)
        assert left_and_right() == (expected, expected), f"{controls.state.appearance.solo} alone"
    controls.press("f")
    assert controls.state.hud == "line"
    compositor.present(changed=False)
    assert (compositor._grid.image[:12] != compositor._grid.image[20, 30]).any(), "its figures"


def test_the_pointer_finds_the_class_in_its_cell_and_a_click_shows_it_alone() -> None:
    sources = [channel("a"), channel("b")]
    controls = controlled(*sources)
    labels = controls.segmenter.labels
    compositor = composed(controls, *sources)
    compositor.show(of_class(1, 0, labels))
    compositor.show(of_class(2, 1, labels))
    for at, number in (((0.2, 0.5), 1), ((0.8, 0.5), 2)):
        controls.point(at)
        pointed = controls.pointed()
        assert pointed is not None
        assert (pointed[0], pointed[1].number) == (at, number)
    controls.point((0.5, 0.5))
    assert controls.pointed() is None, "between the cells"
    controls.click((0.8, 0.5))
    assert controls.state.appearance.solo == labels.names[2]


def test_a_background_that_cannot_be_drawn_is_reported_and_the_last_view_kept(tmp_path) -> None:
    logged: list[str] = []
    some = channel()
    controls = controlled(some, log=lambda heading, text: logged.append(text))
    compositor = composed(controls, some)
    compositor.show(of_class(1, 0, controls.segmenter.labels))
    before = compositor._grid.image.copy()
    (tmp_path / "broken.png").write_text("no picture")
    controls.state = controls.state.viewed(background=str(tmp_path / "broken.png"))
    compositor.present(changed=False)
    assert "broken.png" in logged[0]
    assert controls.state.view.background == "none"
    assert (compositor._grid.image == before).all()


class Kept(Sink):
    def __init__(self) -> None:
        self.pictures: list[tuple[int, float, int]] = []

    def write(self, rendered: Rendered) -> None:
        frame = rendered.frame
        self.pictures.append((frame.index, frame.pts, int(rendered.image[0, 0, 0])))


def test_a_film_has_the_same_rate_whatever_comes_when() -> None:
    grid, sink = grid_of(channel()), Kept()
    film = Film(grid, [sink], Fraction(10))
    grid.show(look(0, grey=10))
    film.until(0.35, 0.0)
    grid.show(look(0, grey=20))
    film.until(0.36, 0.0)
    film.until(0.7, 0.0)
    assert [(index, pts) for index, pts, _ in sink.pictures] == [(n, n / 10) for n in range(7)]
    assert [grey for *_, grey in sink.pictures] == [10] * 4 + [20] * 3


def test_a_film_by_the_clock_leaves_out_what_it_cannot_write_in_time() -> None:
    """Each picture takes longer to write than it lasts: the times hold, and nobody waits."""
    clock = ManualClock()

    class Slow(Kept):
        def write(self, rendered: Rendered) -> None:
            super().write(rendered)
            clock.sleep(0.3)

    sink = Slow()
    film = Film(grid_of(channel()), [sink], Fraction(10), clock)
    for _ in range(8):
        film.until(clock.now() + 1e-9, clock.now())
        clock.sleep(0.1)
    assert film.left_out > 10
    indices = [index for index, *_ in sink.pictures]
    assert indices == sorted(set(indices))
    assert len(indices) + film.left_out == indices[-1] + 1
    assert indices[-1] / 10 > clock.now() - 1.0, "it does not fall behind"


def test_a_film_nobody_wants_is_not_written_and_keeps_its_time() -> None:
    grid, sink, wanted = grid_of(channel()), Kept(), [False]
    film = Film(grid, [sink], Fraction(10), wanted=lambda: wanted[0])
    assert film.until(0.5, 0.0) == 0
    wanted[0] = True
    assert film.until(0.7, 0.0) == 2
    wanted[0] = False
    film.until(1.0, 0.0)
    assert [index for index, *_ in sink.pictures] == [5, 6]
    assert film.left_out == 0


def test_screenshots_and_recordings_of_a_grid_have_all_of_it_and_no_overlay(tmp_path) -> None:
    sources, logged = [channel("a"), channel("b")], list[tuple[str, str]]()
    grid = grid_of(*sources, size=(180, 320))
    height, width = grid.image.shape[:2]
    segmenter = Segmenter(open_backend("stub", find_model("stub"), input_size=(32, 64)))
    info = SourceInfo("2 sources", width, height, Fraction(10))
    controls = open_controls(
        ViewOptions(), sources, segmenter, info,
        folder=tmp_path, log=lambda *line: logged.append(line),
    )  # fmt: skip
    controls.locate = grid.locate
    clock, recorder = sources[0].stats.clock, controls.captures.recorder
    controls.captures._now = recorder._now = lambda: NOON
    overlay = Overlay(controls, None)
    film = Film(grid, [recorder], Fraction(10), wanted=lambda: recorder.recording)
    controls.press("s")
    assert not list(tmp_path.iterdir()), "nothing was shown yet"
    clock.sleep(10.0)

    def shown() -> np.ndarray:
        rendered = grid.rendered(0, clock.now(), clock.now())
        image = rendered.image.copy()
        overlay.write(image, rendered)
        return image

    start = clock.now()
    assert (shown() == grid.image).all()
    controls.press("r")
    assert overlay.stale() == "overlay"
    assert (shown() != grid.image).any(), "it shows that it records"
    for n in range(5):
        grid.show(look(0, grey=40 * n, size=(180, 320)))
        clock.sleep(0.1)
        film.until(clock.now() - start, clock.now())
    controls.press("h")
    assert (shown() != grid.image).mean() > 0.1, "the keys"
    controls.press("s")
    controls.press("r")
    recorder.close()
    assert [heading for heading, _ in logged] == ["wrote", "wrote"]
    assert "5 frames" in logged[1][1]
    kept = cv2.imread(str(tmp_path / "rtseg-20260102-120000.png"))
    assert (kept == grid.image).all()
    frames = list(open_source(str(tmp_path / "rtseg-20260102-120000.mp4")))
    assert [round(frame.pts, 3) for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    levels = [int(frame.image[4, 4, 1]) for frame in frames]
    assert levels == pytest.approx([0, 40, 80, 120, 160], abs=4)


def test_by_arrival_results_are_shown_at_once_and_time_begins_with_the_first() -> None:
    clock = ManualClock(100.0)
    order = ByArrival(clock)
    assert order.seconds() == 0.0
    first, second = look(1, pts=7.0), look(0)
    assert list(order.due([first])) == [(first, 0.0)]
    clock.sleep(2.0)
    assert list(order.due([second])) == [(second, 2.0)]


def test_recordings_are_shown_by_their_own_times_and_none_before_an_earlier_one() -> None:
    channels = [channel("a", live=False), channel("b", live=False)]
    order = ByTimestamp(channels)
    early, late = look(0, pts=0.0), look(1, pts=0.0)
    assert list(order.due([early])) == [], "the other may have an earlier one"
    assert list(order.due([late])) == [(early, 0.0)]
    second = look(0, pts=0.1)
    assert list(order.due([second])) == [(late, 0.0)]
    channels[1].ended = True
    assert not order.is_past(1), "its last frame has not had its time"
    assert list(order.due([])) == [(second, 0.1)]
    assert order.is_past(1)
    assert order.seconds() == 0.1
    channels[0].ended = True
    assert order.seconds() == pytest.approx(0.2), "the last frame has its time too"


def test_a_last_image_that_stands_for_long_has_its_time_in_the_grid_too() -> None:
    channels = [channel("a", live=False)]
    order = ByTimestamp(channels)
    result = look(0, pts=1.0)
    list(order.due([result._replace(frame=replace(result.frame, lasts=2.5))]))
    channels[0].ended = True
    assert order.seconds() == 3.5


def test_written_recordings_go_by_their_own_times_and_rates_all_else_by_the_clock() -> None:
    fast, slow, camera = channel(live=False), channel(live=False), channel(live=True)
    fast.source.info = replace(fast.source.info, frame_rate=Fraction(60))
    lost = Channel(Unopened("camera 7", SourceError("cannot open camera 7")))
    for channels, written, by_time, rate in [
        ([slow, fast], True, True, 60),
        ([slow, fast, lost], True, True, 60),
        ([slow, fast], False, False, 30),
        ([slow, camera], True, False, 10),
        ([slow, fast, camera], True, False, 30),
    ]:
        order = order_of(channels, written=written)
        assert isinstance(order, ByTimestamp) == by_time
        assert rate_of([each.source for each in channels], order) == rate


def test_a_last_row_that_is_not_full_is_centred() -> None:
    layout = lay_out([(36, 64)] * 3, (76, 132))
    lefts = [left for _, left in layout.corners]
    assert lefts == [0, 68, 34], layout
