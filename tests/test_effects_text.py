"""Panels, legend and banner: readable on any picture, at any size, in any alphabet."""

from __future__ import annotations

import numpy as np
import pytest

from rtseg import draw
from rtseg import draw as text
from rtseg.draw import banner, drawable, legend, panel, put_text, text_size, text_width

SIZES = [(1, 1), (2, 900), (900, 2), (40, 60), (240, 320), (720, 1280), (1281, 719)]
CORNERS = ["top left", "top right", "bottom left", "bottom right", "centre"]
LINES = ["fps\t29.9\tage\t45 ms", "a longer line of words", "!a warning"]


@pytest.fixture(params=["truetype", "strokes"])
def letters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to draw letters, as far as this OpenCV has them."""
    if request.param == "truetype" and not text.TRUETYPE:
        pytest.skip("this OpenCV draws strokes only")
    monkeypatch.setattr(text, "TRUETYPE", request.param == "truetype")
    drawable.cache_clear()
    text._letter.cache_clear()
    yield request.param
    drawable.cache_clear()
    text._letter.cache_clear()


def plain(size: tuple[int, int], level: int = 128) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def changed(image: np.ndarray, level: int = 128) -> np.ndarray:
    return (image != level).any(2)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("corner", CORNERS)
def test_a_panel_fits_any_picture(size: tuple[int, int], corner: str, letters: str) -> None:
    image = plain(size)
    panel(image, LINES, corner)
    legend(image, [("person\t30%", (255, 0, 0)), ("car", (0, 0, 0))], corner)
    assert image.shape == (*size, 3)
    assert changed(image).any() == (min(size) >= 40)


def test_a_panel_that_would_cover_another_lies_below_it() -> None:
    image = plain((384, 512))
    figures = panel(image, ["25.0 fps  40 ms  cpu"])
    assert figures is not None
    words = ["wrote kept/a-long-name.png, kept/a-long-name-mask.png, kept/a-long-name-overlay.png"]
    long = panel(image.copy(), words, "top right")
    assert long is not None
    assert long.left < figures.right, "it would"
    moved = panel(image, words, "top right", below=figures)
    short = panel(image, ["paused"], "top right", below=figures)
    assert moved is not None
    assert short is not None
    assert moved.top > figures.bottom
    assert short.top == figures.top


@pytest.mark.parametrize("corner", CORNERS)
def test_a_panel_lies_in_its_corner(corner: str) -> None:
    image = plain((400, 600))
    panel(image, ["hello"], corner)
    rows, columns = np.nonzero(changed(image))
    vertical, horizontal = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    if corner == "centre":
        assert abs(vertical - 200) < 3
        assert abs(horizontal - 300) < 3
    else:
        assert (vertical > 200) == ("bottom" in corner)
        assert (horizontal > 300) == ("right" in corner)
    assert 0 < rows.min() < rows.max() < 399, "there is a margin"
    assert 0 < columns.min() < columns.max() < 599


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
def test_letters_stand_out_from_their_plate_on_any_background(level: int, letters: str) -> None:
    image = plain((400, 600), level)
    panel(image, ["MMMMMM"])
    rows, columns = np.nonzero(changed(image, level))
    plate = image[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
    brightness = plate.max(2).astype(int)
    assert brightness.max() > 220
    assert brightness.max() - np.median(brightness) > 120


def test_the_picture_outside_the_plate_is_untouched() -> None:
    image = plain((400, 600))
    panel(image, LINES)
    rows, columns = np.nonzero(changed(image))
    inside = np.zeros((400, 600), bool)
    inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert not changed(image)[~inside].any()
    assert inside.mean() < 0.2


def test_text_grows_with_the_picture() -> None:
    sizes = [text_size(plain((height, height * 16 // 9))) for height in (120, 480, 720, 1080, 2160)]
    assert sizes == sorted(sizes)
    assert sizes[-1] >= 4 * sizes[0]
    assert text_size(plain((1280, 720))) == text_size(plain((720, 1280)))


def test_a_line_too_long_is_broken_and_stays_inside(letters: str) -> None:
    words = "a very long sentence about a network that runs somewhere else " * 3
    tall, short = plain((480, 320)), plain((480, 320))
    panel(tall, [words])
    panel(short, ["a very"])
    assert changed(tall).sum() > 4 * changed(short).sum()
    assert not changed(tall)[:, -2:].any()


def test_pairs_that_do_not_fit_beside_one_another_stand_below_one_another() -> None:
    lines = ["live\t30.0 fps\tage\t25 ms", "infer\t12.3 ms\tpreprocess\t0.8 ms"]
    narrow, pairs = (np.full((240, 130, 3), 128, np.uint8) for _ in "ab")
    panel(narrow, lines)
    panel(pairs, [pair for line in lines for pair in _in_pairs(line)])
    np.testing.assert_array_equal(narrow, pairs)
    assert (narrow[:, -2:] == 128).all()


def _in_pairs(line: str) -> list[str]:
    cells = line.split("\t")
    return ["\t".join(cells[:2]), "\t".join(cells[2:])]


def test_a_panel_without_lines_draws_nothing() -> None:
    image = plain((400, 600))
    panel(image, [])
    legend(image, [])
    assert not changed(image).any()


def test_the_width_holds_still_while_numbers_change() -> None:
    widths = set()
    for milliseconds in (9.9, 10.1, 11.1, 18.8):
        image = plain((720, 1280))
        panel(
            image, [f"capture\t{milliseconds} ms\tage\t20 ms", "a longer line of words than that"]
        )
        widths.add(int(np.nonzero(changed(image))[1].max()))
    assert len(widths) == 1


def colours_in(image: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, image.reshape(-1, 3).tolist()))


def test_a_legend_shows_rgb_colours_as_bgr_pixels() -> None:
    image = plain((400, 600))
    legend(image, [("red", (250, 10, 20)), ("blue", (5, 15, 245))])
    assert (20, 10, 250) in colours_in(image)
    assert (245, 15, 5) in colours_in(image)
    assert (250, 10, 20) not in colours_in(image)


def test_a_legend_takes_what_fits_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(draw, "put_text", lambda image, cell, *rest: written.append(cell))
    image = plain((400, 600))
    names = [f"class{i}" for i in range(100)]
    legend(image, [(name, (i, 0, 0)) for i, name in enumerate(names)])
    shown = [cell for cell in written if cell.startswith("class")]
    assert shown == names[: len(shown)]
    assert 5 < len(shown) < 30
    assert written[-1] == f"+ {100 - len(shown)} more"
    rows = np.nonzero(changed(image))[0]
    assert rows.max() - rows.min() < 0.62 * 400


def test_a_banner_is_a_new_picture_and_dims_the_old() -> None:
    image = plain((400, 600), 200)
    image.flags.writeable = False
    shown = banner(image, "reconnecting to camera 0\ntry 3")
    assert (image == 200).all()
    assert shown.shape == image.shape
    assert shown.dtype == np.uint8
    assert not np.shares_memory(shown, image)
    assert shown[5, 5].tolist() == [120, 120, 120]
    assert shown[170:230, 200:400].max() > 220, "the text is in the middle"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_banner_fits_any_picture(size: tuple[int, int]) -> None:
    assert banner(plain(size), "reconnecting to rtsp://camera.example/stream").shape == (*size, 3)


NAMES = ["person", "Zürich", "čeština", "людина", "ελληνικά", "人", "คน", "☂", "🚗", "\u2013"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_question_marks(name: str, letters: str) -> None:
    assert "?" not in drawable(name)
    assert drawable(name).strip()
    assert text_width(name, 20) > 0
    image, marks = plain((60, 600), 0), plain((60, 600), 0)
    put_text(image, name, 5, 30, 20, (255, 255, 255))
    put_text(marks, "?" * len(name), 5, 30, 20, (255, 255, 255))
    assert changed(image, 0).any()
    assert not np.array_equal(image, marks)


def test_different_names_look_different(letters: str) -> None:
    pictures = set()
    for name in NAMES:
        image = plain((60, 600), 0)
        put_text(image, name, 5, 30, 20, (255, 255, 255))
        pictures.add(image.tobytes())
    assert len(pictures) == len(NAMES)


def test_strokes_keep_the_letter_under_an_accent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TRUETYPE", False)
    drawable.cache_clear()
    text._letter.cache_clear()
    assert drawable("Zürich \u2013 čeština 人") == "Zurich - cestina u4eba"
    drawable.cache_clear()
    text._letter.cache_clear()


def test_a_question_mark_may_be_one(letters: str) -> None:
    assert drawable("really?") == "really?"


def test_measured_width_is_what_is_drawn(letters: str) -> None:
    image = plain((60, 900), 0)
    put_text(image, "preprocess 12.3 ms", 10, 30, 20, (255, 255, 255))
    columns = np.nonzero(changed(image, 0))[1]
    assert abs(columns.max() - 10 - text_width("preprocess 12.3 ms", 20)) <= 5


def test_capitals_are_centred_on_their_row(letters: str) -> None:
    image = plain((100, 200), 0)
    put_text(image, "HEH", 10, 50, 40, (255, 255, 255))
    rows = np.nonzero(image.max(2) > 128)[0]
    assert abs((rows.min() + rows.max()) / 2 - 50) <= 2
