"""What keys do: the one table from which the window, its help, `rtseg --help` and tests are made.

Nothing here loads a library.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class Key(NamedTuple):
    """One line of the table.

    Attributes:
        names: what the window calls the keys: a character, or "F11"; letters are small.
        shown: what a person calls them.
        action: the method of `Controls` that is called; `solo_number` with the digit.
        help: what it does, in a few words.
    """

    names: tuple[str, ...]
    shown: str
    action: str
    help: str


KEYS = (
    Key(("q", "\x1b"), "q, Esc", "quit", "quit"),
    Key((" ",), "space", "pause", "pause, go on"),
    Key((".",), ".", "step", "one frame further"),
    Key(("\t",), "Tab", "next_view", "next view"),
    Key(("c",), "c", "contours", "contours"),
    Key(("b",), "b", "next_background", "next background"),
    Key(("+", "="), "+", "more_opacity", "more colour"),
    Key(("-", "_"), "-", "less_opacity", "less colour"),
    Key(tuple("123456789"), "1-9", "solo_number", "one class alone, all"),
    Key(("e",), "e", "edges", "edges follow the picture"),
    Key(("l",), "l", "legend", "names of classes"),
    Key(("f",), "f", "hud", "speed, age, device"),
    Key(("m",), "m", "next_network", "next network"),
    Key(("s",), "s", "screenshot", "save the picture"),
    Key(("r",), "r", "record", "record, finish"),
    Key(("F11", "z"), "F11, z", "full_screen", "full screen"),
    Key(("h", "?"), "h", "help", "this help"),
)

MOUSE = (
    ("pointer", "class and probability"),
    ("click", "that class alone, all"),
)

_BY_NAME = {name: key for key in KEYS for name in key.names}


def find_key(name: str) -> Key | None:
    """The line for a key as the window names it; a capital means its small letter."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.lower())


def lines(actions: Container[str] | None = None) -> list[tuple[str, str]]:
    """(what to press, what it does), for every key and the mouse, or for keys of some actions."""
    if actions is None:
        return [*((key.shown, key.help) for key in KEYS), *MOUSE]
    return [(key.shown, key.help) for key in KEYS if key.action in actions]


def as_text() -> str:
    """The table as aligned lines, for a terminal."""
    return "\n".join(f"{shown:<9}{told}" for shown, told in lines())
