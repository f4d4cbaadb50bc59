"""The table of keys: complete, without contradictions, and told everywhere alike."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtseg.session.controls import Controls
from rtseg.session.keys import KEYS, MOUSE, as_text, find_key, lines
from rtseg.session.overlay import write_help
from rtseg.sinks.window import key_name

ROOT = Path(__file__).resolve().parents[1]
ASKED = (
    "q",
    "\x1b",
    " ",
    ".",
    "s",
    "\t",
    "m",
    "+",
    "-",
    "l",
    "e",
    "b",
    "c",
    "f",
    "r",
    "h",
    *"123456789",
)


def test_every_key_that_people_know_does_something_and_no_two_are_the_same() -> None:
    names = [name for key in KEYS for name in key.names]
    assert len(set(names)) == len(names)
    assert set(ASKED) <= set(names)
    for key in KEYS:
        assert callable(getattr(Controls, key.action)), key


def test_a_capital_is_its_small_letter_and_an_unknown_key_is_none() -> None:
    assert find_key("S") is find_key("s") is not None
    assert find_key("x") is None
    assert find_key("other") is None


def test_the_terminal_help_and_the_docs_list_every_key() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rtseg", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / "docs" / "run.md").read_text("utf-8")
    for line in as_text().splitlines():
        assert line in done.stdout
    for shown, _ in lines():
        assert re.search(rf"^\| {re.escape(shown)} \|", page, re.MULTILINE), shown


def test_the_table_loads_no_library() -> None:
    code = (
        "import sys, rtseg.session.keys; sys.exit(any(m in sys.modules for m in ('cv2', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (1080, 1920)])
def test_the_help_lies_within_the_picture(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    write_help(image, lines())
    rows, columns = np.nonzero((image != 200).any(2))
    assert rows.min() > 0
    assert rows.max() < size[0] - 1
    assert columns.min() > 0
    assert columns.max() < size[1] - 1
    # as many lines of letters as there are keys, in one column or two
    bright = (image.min(2) > 150) & (np.arange(size[1]) > columns.min() + 4)
    bright = bright[rows.min() : rows.max(), columns.min() : columns.max()].any(1)
    seen = int(np.count_nonzero(np.diff(bright.astype(int)) == 1))
    assert seen >= (len(KEYS) + len(MOUSE)) // 2 - 1


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (-1, None), (ord("q"), "q"), (27, "\x1b"), (9, "\t"), (0xFFC8, "F11"), (0x7A0000, "F11"),
        (0xFFE1, None), (0xFE03, None), (0xFFAB, "+"), (0xFFB1, "1"), (0xFF1B, "\x1b"),
        (0x100000 | ord("s"), "s"), (0xFF51, "other"), (0x250000, "other"),
    ],
)  # fmt: skip
def test_the_numbers_of_keys_are_read(code: int, name: str | None) -> None:
    assert key_name(code) == name
