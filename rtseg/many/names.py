"""Names that tell several sources apart."""

from __future__ import annotations

from collections.abc import Iterable


def distinct(names: Iterable[str], form: str = "{} ({})") -> list[str]:
    """The names; one that was there before gets a number, in this form."""
    found: list[str] = []
    for name in names:
        number, other = 2, name
        while other in found:
            number, other = number + 1, form.format(name, number)
        found.append(other)
    return found
