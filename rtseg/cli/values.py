"""What people type on a command line, turned into numbers; a UsageError names the flag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TypeVar

from rtseg.errors import UsageError

T = TypeVar("T")


def seconds(flag: str, text: str | None) -> float | None:
    """`12.5`, `1:02.5` or `1:00:00` as seconds; None stays None."""
    return _read(flag, text, _clock_time, "Give seconds, as 12.5, or 1:02.5")


def width_height(flag: str, text: str | None) -> tuple[int, int] | None:
    """`1280x720` as (width, height); None stays None."""
    return _read(flag, text, _two_sizes, "Give WIDTHxHEIGHT, as 1280x720")


def input_size(
    flag: str, text: str | None, others: Sequence[str] = ("auto",)
) -> tuple[int, int] | None:
    """`512` or `384x512` as (height, width); None for None and "auto".

    Args:
        others: what else the flag takes, for the error's advice.
    """
    text = None if text == "auto" else text
    *more, last = ("HxW, as 384x640", "one number", *others)
    return _read(flag, text, _one_or_two_sizes, f"Give {', '.join(more)}, or {last}")


def number(flag: str, text: str | None) -> float | None:
    """`0.5` or `1/255`; None stays None."""
    return _read(flag, text, _number, "Give a number, as 0.5 or 1/255")


def share(flag: str, text: str) -> float:
    """`10%` or `0.1` as 0.1."""
    found = _read(flag, text, _share, "Give a share, as 10% or 0.1")
    assert found is not None
    return found


def triple(flag: str, text: str | None) -> tuple[float, float, float] | None:
    """`0.5` or `0.485,0.456,0.406` as three numbers; None stays None."""
    return _read(flag, text, _triple, "Give one number, or three with commas between")


def pair(flag: str, text: str | None) -> tuple[float, float] | None:
    """`0.5,2` as two numbers; None stays None."""
    return _read(flag, text, _pair, "Give two numbers with a comma between, as 0.5,2")


def comma_list(texts: Iterable[str]) -> tuple[str, ...]:
    """`("person,cat", "dog")` as `("person", "cat", "dog")`."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def at_least(flag: str, value: float | None, least: float) -> None:
    """Refuse a number below `least`.

    Raises:
        UsageError: it is.
    """
    if value is not None and not value >= least:
        raise UsageError(f"{flag} {value:g}", found=f"it is below {least:g}")


def _read(flag: str, text: str | None, read: Callable[[str], T], do: str) -> T | None:
    if text is None:
        return None
    try:
        return read(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{flag} {text!r} cannot be read", do=do) from None


def _clock_time(text: str) -> float:
    *larger, last = text.split(":")
    if len(larger) > 2 or not 0 <= float(last) < float("inf"):
        raise ValueError(text)
    total = 0
    for part in larger:
        total = total * 60 + _natural(part)
    return total * 60 + float(last)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> int:
    if (value := _natural(text)) == 0:
        raise ValueError(text)
    return value


def _two_sizes(text: str) -> tuple[int, int]:
    first, second = text.lower().split("x")
    return _positive(first), _positive(second)


def _one_or_two_sizes(text: str) -> tuple[int, int]:
    return _two_sizes(text if "x" in text.lower() else f"{text}x{text}")


def _number(text: str) -> float:
    return float(Fraction(text.replace(" ", "")))


def _share(text: str) -> float:
    plain = text.strip().removesuffix("%")
    return _number(plain) / (1 if plain == text.strip() else 100)


def _triple(text: str) -> tuple[float, float, float]:
    parts = [_number(part) for part in text.split(",")]
    red, green, blue = parts * 3 if len(parts) == 1 else parts
    return red, green, blue


def _pair(text: str) -> tuple[float, float]:
    first, second = map(_number, text.split(","))
    return first, second
