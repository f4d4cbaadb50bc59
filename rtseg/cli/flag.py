"""What flags are made of: kinds of values, and their help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Optional

from cyclopts import Parameter, Token


def whole(kind: object, tokens: Sequence[Token]) -> int:
    """A whole number: cyclopts by itself would round 1.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no whole number") from error


# Optional[X], not X | None: cyclopts evaluates these at run time, under Python 3.10 too.
Text = Optional[str]  # noqa: UP045
Whole = Annotated[Optional[int], Parameter(converter=whole)]  # noqa: UP045
Real = Optional[float]  # noqa: UP045


def flag(text: str, *names: str, negative: str | tuple[str, ...] = ()) -> Parameter:
    """A flag's help; `names` where the field's own will not do; a `--no-...` form if given."""
    return Parameter(name=names or None, help=text, negative=negative, show_default=_if_telling)


def _if_telling(default: object) -> str | None:
    """A default worth showing: not that a switch is off, or a list empty."""
    return None if default is None or isinstance(default, (bool, tuple)) else str(default)
