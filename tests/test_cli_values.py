"""Values as they are typed on the command line."""

from __future__ import annotations

import pytest

from rtseg.cli import flags
from rtseg.cli.flags import read
from rtseg.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12.5", 12.5), ("0", 0.0), ("1:02.5", 62.5), ("1:00:00", 3600.0), ("0:07", 7.0)],
)
def test_seconds(text: str, expected: float) -> None:
    assert read(flags.TIME, "--start", text) == expected


@pytest.mark.parametrize("text", ["", "abc", "1:2:3:4", "-1", "nan", "inf", "1:-2", "x:5", "1:"])
def test_bad_seconds_name_the_flag_and_the_value(text: str) -> None:
    with pytest.raises(UsageError, match="--start") as caught:
        read(flags.TIME, "--start", text)
    assert repr(text) in str(caught.value)


def test_sizes_have_their_own_orders() -> None:
    assert read(flags.WIDTH_HEIGHT, "--size", "1280x720") == (1280, 720)
    assert read(flags.INPUT_SIZE, "--imgsz", "384x640") == (384, 640)
    assert read(flags.INPUT_SIZE, "--imgsz", "512") == (512, 512)
    assert read(flags.INPUT_SIZE, "--imgsz", "auto") is None


@pytest.mark.parametrize("text", ["0x5", "5x0", "axb", "1x2x3", "-3x4", "", "x"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        read(flags.WIDTH_HEIGHT, "--size", text)
    with pytest.raises(UsageError, match="--imgsz"):
        read(flags.INPUT_SIZE, "--imgsz", text)


def test_numbers_may_be_fractions() -> None:
    assert read(flags.NUMBER, "--scale", "1/255") == pytest.approx(1 / 255)
    assert read(flags.TRIPLE, "--mean", "0.5") == (0.5, 0.5, 0.5)
    assert read(flags.TRIPLE, "--mean", "0.1, 0.2,1/4") == (0.1, 0.2, 0.25)
    for text in ("1/0", "a", "1,2", "1,2,3,4", ""):
        with pytest.raises(UsageError, match="--std"):
            read(flags.TRIPLE, "--std", text)


def test_comma_lists() -> None:
    assert read(flags.COMMAS, "--classes", "person, cat,") == ("person", "cat")


def test_shares_and_pairs() -> None:
    assert read(flags.SHARE, "--threshold", "10%") == read(flags.SHARE, "--threshold", "0.1") == 0.1
    assert read(flags.PAIR, "--scale", "0.5,2") == (0.5, 2.0)
    with pytest.raises(UsageError, match="two numbers"):
        read(flags.PAIR, "--scale", "1")
