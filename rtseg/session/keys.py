"""The table of keys, from which the window, its help, `rtseg run --help` and the tests are made.

Loads no library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Key(NamedTuple):
    """One line of the table.

    Attributes:
        names: what the window calls the keys: a character, or "F11"; letters are small.
        shown: their names for people.
        action: the method of `Controls` that is called; `solo_number` with the digit.
        help: what it does.
    """

    names: tuple[str, ...]
    shown: str
    action: str
    help: str


KEYS = (
    Key(("q", "\x1b"), "q, Esc", "quit", "quit"),
    Key((" ",), "space", "pause", "pause or resume"),
    Key((".",), ".", "step", "one frame forward"),
    Key(("\t",), "Tab", "next_view", "next view"),
    Key(("c",), "c", "contours", "contours"),
    Key(("b",), "b", "next_background", "next background"),
    Key(("+", "="), "+", "more_opacity", "more colour"),
    Key(("-", "_"), "-", "less_opacity", "less colour"),
    Key(tuple("123456789"), "1-9", "solo_number", "one class only, or all"),
    Key(("e",), "e", "edges", "refine mask edges"),
    Key(("l",), "l", "legend", "class names"),
    Key(("f",), "f", "hud", "figures: line, all or none"),
    Key(("m",), "m", "next_model", "next model"),
    Key(("s",), "s", "screenshot", "save a screenshot"),
    Key(("r",), "r", "record", "start or stop recording"),
    Key(("F11", "z"), "F11, z", "full_screen", "full screen"),
    Key(("h", "?"), "h", "help", "this help"),
)

MOUSE = (
    ("pointer", "class and probability"),
    ("click", "that class only, or all"),
)

_BY_NAME = {name: key for key in KEYS for name in key.names}


def find_key(name: str) -> Key | None:
    """The line for a key as the window names it; a capital means its small letter."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.lower())


def lines() -> list[tuple[str, str]]:
    """(what to press, what it does) for every key and the mouse."""
    return [*((key.shown, key.help) for key in KEYS), *MOUSE]


def summary(
    shown: Sequence[str] = ("q", "space", "Tab", "c", "b", "1-9", "f", "s", "r", "h"),
) -> str:
    """The most useful keys in one line: "q: quit; Tab: next view"."""
    found = (key for name in shown for key in KEYS if name in key.shown.split(", "))
    return "; ".join(f"{key.shown.split(', ')[0]}: {key.help}" for key in found)


def as_text() -> str:
    """The table as aligned lines, for a terminal."""
    return "\n".join(f"{shown:<9}{text}" for shown, text in lines())
