"""What people type on a command line, as numbers."""

from __future__ import annotations

import pytest

from rtseg.cli import options as values
from rtseg.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12.5", 12.5), ("0", 0.0), ("1:02.5", 62.5), ("1:00:00", 3600.0), ("0:07", 7.0)],
)
def test_seconds(text: str, expected: float) -> None:
    assert values.seconds("--start", text) == expected


@pytest.mark.parametrize("text", ["", "abc", "1:2:3:4", "-1", "nan", "inf", "1:-2", "x:5", "1:"])
def test_bad_seconds_name_the_flag_and_the_value(text: str) -> None:
    with pytest.raises(UsageError, match="--start") as caught:
        values.seconds("--start", text)
    assert repr(text) in str(caught.value)


def test_sizes_have_their_own_orders() -> None:
    assert values.width_height("--size", "1280x720") == (1280, 720)
    assert values.input_size("--imgsz", "384x640") == (384, 640)
    assert values.input_size("--imgsz", "512") == (512, 512)
    assert values.input_size("--imgsz", "auto") is None


@pytest.mark.parametrize("text", ["0x5", "5x0", "axb", "1x2x3", "-3x4", "", "x"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        values.width_height("--size", text)
    with pytest.raises(UsageError, match="--imgsz"):
        values.input_size("--imgsz", text)


def test_numbers_may_be_fractions() -> None:
    assert values.number("--scale", "1/255") == pytest.approx(1 / 255)
    assert values.triple("--mean", "0.5") == (0.5, 0.5, 0.5)
    assert values.triple("--mean", "0.1, 0.2,1/4") == (0.1, 0.2, 0.25)
    for text in ("1/0", "a", "1,2", "1,2,3,4", ""):
        with pytest.raises(UsageError, match="--std"):
            values.triple("--std", text)


def test_classes_come_as_lists_and_repeated() -> None:
    assert values.comma_list(("person, cat", "dog,")) == ("person", "cat", "dog")


@pytest.mark.parametrize(
    "read", [values.seconds, values.width_height, values.input_size, values.number, values.triple]
)
def test_nothing_given_is_nothing(read) -> None:
    assert read("--flag", None) is None
