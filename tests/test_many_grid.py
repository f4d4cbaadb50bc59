"""The grid: where cells lie, what they say, and the film of them."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtseg.backends import open_backend
from rtseg.contracts import Rendered, Sink, Source, SourceInfo
from rtseg.effects import ViewOptions, open_effect
from rtseg.errors import SourceError
from rtseg.frame import Frame
from rtseg.labels import LabelSet
from rtseg.nets import find_model
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.session.grid import GAP, AsTheyCome, ByTheirTimes, Film, Grid, fitted, lay_out
from rtseg.session.grid_controls import GridGlass, Hands
from rtseg.session.many import Feed, Look
from rtseg.session.recording import Aside, Keeping, Recorder
from rtseg.session.state import Notices
from rtseg.sinks import SinkOptions
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


def feed(name: str = "camera", **info) -> Feed:
    source = Still(name, **info)
    return Feed(source, name, stats=Stats(source.clock))


def look(source: int, pts: float = 0.0, grey: int = 200, size=(36, 64), index: int = 0) -> Look:
    scores = np.zeros((2, 2, 2), np.float32)
    scores[0] = 1
    frame = Frame(np.full((*size, 3), grey, np.uint8), index, pts, 0.0)
    return Look(source, frame, Segmentation(scores, LABELS, size, selected=frozenset()))


def plain(frame: Frame, segmentation: Segmentation) -> np.ndarray:
    assert segmentation.mask.shape == frame.size
    return frame.image.copy()


def grid_of(*feeds: Feed, hud: bool = False, size: tuple[int, int] = (36, 64)) -> Grid:
    layout = lay_out([size] * len(feeds), HD)
    return Grid(feeds, [plain] * len(feeds), layout, LABELS, hud=hud)


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
    grid = grid_of(feed("a"), feed("b"))
    before = grid.image.copy()
    grid.show(look(1, grey=250))
    (_, left), (height, width) = lay_out([(36, 64)] * 2, HD).corners[1], (36, 64)
    assert (grid.image[:, left:] == 250).all()
    assert (grid.image[:, :left] == before[:, :left]).all()
    assert grid.image.shape == (height, 2 * width + GAP, 3)


def test_a_cell_says_what_became_of_its_source_and_keeps_the_last_picture() -> None:
    some = feed("camera 3")
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
    some = feed("photo.jpg", live=False, count=1)
    grid = grid_of(some)
    grid.show(look(0))
    some.ended = True
    grid.refresh()
    assert (grid.image == 200).all()


def test_the_figures_can_be_hidden_and_a_silent_camera_is_named() -> None:
    some = feed("camera", live=True)
    grid = grid_of(some, size=(360, 640), hud=True)
    grid.show(look(0))
    lively = grid.image.copy()
    assert (lively != 200).any()
    assert not grid.refresh()
    some.source.clock.sleep(3.0)
    assert grid.refresh(), "no frame for 3 s"
    assert (grid.image != lively).any()
    grid.redraw(hud=False)
    assert (grid.image == 200).all()


def test_e_refines_the_edges_of_all_cells_and_of_what_is_written() -> None:
    segmenter = Segmenter(open_backend("stub", find_model("stub"), input_size=(32, 64)))
    hands = Hands(ViewOptions(), hud=False, segmenter=segmenter)
    hands.press("e")
    assert (hands.stale, hands.state.look.refine, segmenter.refine) == (True, True, True)
    assert Hands(ViewOptions(), hud=False, segmenter=segmenter).state.look.refine
    hands.press("e")
    assert (hands.state.look.refine, segmenter.refine) == (False, False)


def test_keys_act_on_all_cells() -> None:
    """Opacity, view and figures; what is for one source does nothing."""
    hands = Hands(ViewOptions(), hud=False, classes=LABELS.names)
    sources = [feed("a"), feed("b")]
    effects = [hands.effect(open_effect) for _ in sources]
    grid = Grid(sources, effects, lay_out([(36, 64)] * 2, HD), LABELS, hud=False)
    scores = np.zeros((2, 1, 1), np.float32)
    scores[1] = 1
    for n in (0, 1):
        frame = Frame(np.full((36, 64, 3), 200, np.uint8), 0, 0.0, 0.0)
        grid.show(Look(n, frame, Segmentation(scores, LABELS, (36, 64))))

    def left_and_right() -> tuple[list[int], list[int]]:
        return grid.image[20, 30].tolist(), grid.image[20, -30].tolist()

    assert left_and_right() == ([120, 120, 222], [120, 120, 222])
    for key, expected in (("+", [100, 100, 228]), ("-", [120, 120, 222]), ("\t", [0, 0, 255])):
        hands.press(key)
        assert hands.stale
        grid.redraw(hud=hands.state.hud)
        assert left_and_right() == (expected, expected), key
    for key, expected in (("2", [0, 0, 255]), ("1", [0, 0, 0]), ("1", [0, 0, 255])):
        hands.press(key)
        grid.redraw(hud=False)
        assert left_and_right() == (expected, expected), f"{hands.state.look.solo} alone"
    hands.stale = False
    for key in ("m", "r", "s", "5", "?", "nonsense"):
        hands.press(key)
    assert not hands.stale
    hands.press("f")
    assert hands.state.hud


def test_a_background_that_cannot_be_drawn_is_said_and_the_last_look_kept(tmp_path) -> None:
    said: list[str] = []
    hands = Hands(ViewOptions(), hud=False, tell=lambda error: said.append(str(error)))
    grid = Grid([feed()], [hands.effect(open_effect)], lay_out([(36, 64)], HD), LABELS, hud=False)
    grid.show(look(0))
    before = grid.image.copy()
    (tmp_path / "broken.png").write_text("no picture")
    hands.state = hands.state.viewed(background=str(tmp_path / "broken.png"))
    grid.redraw(hud=False)
    assert "broken.png" in said[0]
    assert hands.state.view.background == "none"
    assert (grid.image == before).all()


class Kept(Sink):
    def __init__(self) -> None:
        self.pictures: list[tuple[int, float, int]] = []

    def write(self, rendered: Rendered) -> None:
        frame = rendered.frame
        self.pictures.append((frame.index, frame.pts, int(rendered.image[0, 0, 0])))


def test_a_film_has_the_same_rate_whatever_comes_when() -> None:
    grid, sink = grid_of(feed()), Kept()
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
    film = Film(grid_of(feed()), [sink], Fraction(10), clock)
    for _ in range(8):
        film.until(clock.now() + 1e-9, clock.now())
        clock.sleep(0.1)
    assert film.left_out > 10
    indices = [index for index, *_ in sink.pictures]
    assert indices == sorted(set(indices))
    assert len(indices) + film.left_out == indices[-1] + 1
    assert indices[-1] / 10 > clock.now() - 1.0, "it does not fall behind"


def test_a_film_nobody_wants_is_not_written_and_keeps_its_time() -> None:
    grid, sink, wanted = grid_of(feed()), Kept(), [False]
    film = Film(grid, [sink], Fraction(10), wanted=lambda: wanted[0])
    film.until(0.5, 0.0)
    wanted[0] = True
    film.until(0.7, 0.0)
    wanted[0] = False
    film.until(1.0, 0.0)
    assert [index for index, *_ in sink.pictures] == [5, 6]
    assert film.left_out == 0


def test_pictures_and_recordings_of_a_grid_are_kept(tmp_path) -> None:
    """Each has the whole grid; the glass over the window says so and is in neither."""
    grid = grid_of(feed("a"), feed("b"), size=(180, 320))
    source, said = Still(), list[tuple[str, str]]()
    height, width = grid.image.shape[:2]
    source.info, clock = SourceInfo("2 sources", width, height, Fraction(10)), source.clock
    aside, notices = Aside(), Notices(clock, lambda *line: said.append(line))
    recorder = Recorder(source, LABELS, tmp_path, SinkOptions(), aside=aside, now=lambda: NOON)
    keeping = Keeping(recorder, aside, notices, tmp_path, lambda: NOON)
    hands = Hands(ViewOptions(), hud=False, keeping=keeping)
    glass = GridGlass(hands, notices)
    film = Film(grid, [recorder], Fraction(10), wanted=lambda: recorder.recording)
    hands.press("s")
    assert not list(tmp_path.iterdir()), "nothing was shown yet"

    def shown() -> np.ndarray:
        rendered = grid.rendered(0, clock.now(), clock.now())
        image = rendered.image.copy()
        glass.write(image, rendered)
        return image

    assert (shown() == grid.image).all()
    hands.press("r")
    assert glass.stale() == "glass"
    assert (shown() != grid.image).any(), "it says that it records"
    for n in range(5):
        grid.show(look(0, grey=40 * n, size=(180, 320)))
        clock.sleep(0.1)
        film.until(clock.now(), clock.now())
    hands.press("h")
    assert (shown() != grid.image).mean() > 0.1, "the keys"
    hands.press("s")
    hands.press("r")
    recorder.close()
    assert [heading for heading, _ in said] == ["wrote", "wrote"]
    assert "5 frames" in said[1][1]
    kept = cv2.imread(str(tmp_path / "rtseg-20260102-120000.png"))
    assert (kept == grid.image).all()
    pictures = list(open_source(str(tmp_path / "rtseg-20260102-120000.mp4")))
    assert [round(picture.pts, 3) for picture in pictures] == [0.0, 0.1, 0.2, 0.3, 0.4]
    top, left = 4, 4
    levels = [int(picture.image[top, left, 1]) for picture in pictures]
    assert levels == pytest.approx([0, 40, 80, 120, 160], abs=4)


def test_by_the_clock_looks_are_shown_at_once_and_time_begins_with_the_first() -> None:
    clock = ManualClock(100.0)
    order = AsTheyCome(clock)
    assert order.seconds() == 0.0
    first, second = look(1, pts=7.0), look(0)
    assert list(order.due([first])) == [(first, 0.0)]
    clock.sleep(2.0)
    assert list(order.due([second])) == [(second, 2.0)]


def test_recordings_are_shown_by_their_own_times_and_none_before_an_earlier_one() -> None:
    feeds = [feed("a", live=False), feed("b", live=False)]
    order = ByTheirTimes(feeds)
    early, late = look(0, pts=0.0), look(1, pts=0.0)
    assert list(order.due([early])) == [], "the other may have an earlier one"
    assert list(order.due([late])) == [(early, 0.0)]
    second = look(0, pts=0.1)
    assert list(order.due([second])) == [(late, 0.0)]
    feeds[1].ended = True
    assert not order.is_past(1), "its last frame has not had its time"
    assert list(order.due([])) == [(second, 0.1)]
    assert order.is_past(1)
    assert order.seconds() == 0.1
    feeds[0].ended = True
    assert order.seconds() == pytest.approx(0.2), "the last frame has its time too"
