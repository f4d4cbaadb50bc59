"""Counts, lists and tables as plain text, and natural order of names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence


def counted(count: int, what: str, many: str = "") -> str:
    """ "1 frame", "2 frames"; `many` is the plural if it is not formed with s, as "classes"."""
    return f"{count} {what if count == 1 else many or what + 's'}"


def listed(words: Sequence[object], most: int = 5) -> str:
    """The first `most` words, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(str(word) for word in words[:most]) + more


def aligned(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """The lines of a table, heads first; columns numbered in `right` are right-aligned."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def distinct(names: Iterable[str], form: str = "{} ({})") -> list[str]:
    """The names; one that was there before gets a number, in this form."""
    found: list[str] = []
    for name in names:
        number, other = 2, name
        while other in found:
            number, other = number + 1, form.format(name, number)
        found.append(other)
    return found


def natural_key(name: object) -> tuple[list[str | int], str]:
    """A sort key that compares numbers by value: img2 before img10."""
    text = str(name)
    parts = re.split(r"(\d+)", text.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], text
