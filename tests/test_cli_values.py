"""Values as they are typed on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtseg.cli import flags
from rtseg.cli.app import main
from rtseg.cli.flags import Flag, flags_of, read
from rtseg.cli.options import LAYOUTS
from rtseg.errors import UsageError

Capture = pytest.CaptureFixture[str]

TEXTS = [
    (verb, flag)
    for verb, layout in LAYOUTS.items()
    for flag in flags_of(layout)
    if flag.hint is str or flag.is_list
]
"""Every flag whose value is text, or several."""


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


def test_there_are_text_flags_to_test() -> None:
    named = {(verb, flag.name) for verb, flag in TEXTS}
    assert named >= {("run", "metrics"), ("run", "input"), ("bench", "compare"), ("eval", "names")}
    assert named >= {("train", "dataset"), ("export", "output"), ("demo", "output")}


@pytest.mark.parametrize(("verb", "flag"), TEXTS, ids=[f"{v} {f.name}" for v, f in TEXTS])
@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_refused(capsys: Capture, verb: str, flag: Flag, text: str) -> None:
    """Whatever the flag: a shell's empty variable must not mean "as usual"."""
    for name in flag.names:
        assert main([verb, f"{name}={text}"]) == 2
        assert f"{flag.names[0]} {text!r} is empty" in capsys.readouterr().err


def test_an_empty_text_in_a_file_is_refused(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    for line in ('metrics = ""', 'palette = " "', 'output = [""]', 'models = ""'):
        file.write_text(f'input = "test://"\n{line}\n')
        assert main(["--config", str(file), "--print-config"]) == 2
        assert f"--{line.partition(' ')[0]} " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--end", "0.0001"], "no frame in this time"),
        (["--start", "1", "--end", "1.0001"], "no frame in this time"),
        (["--weights", "nope.pth"], "the stub has none"),
        (["-q", "-v"], "--quiet with --verbose"),
    ],
)
def test_flags_that_leave_nothing_to_do_are_refused(
    capsys: Capture, given: list[str], words: str
) -> None:
    assert main(["test://?size=64x48", "-m", "stub", "--no-show", *given]) == 2
    assert words in capsys.readouterr().err
