"""What options and tables are made of: a field that knows its choices and its range, one check, and
what a row imports.

Options are frozen dataclasses. One line per field, under "Attributes" of the class, is both its
documentation and its text in `--help`; see `rtseg.cli.flags`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import field, fields
from functools import cache
from importlib import import_module
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from rtseg.documents import convert, shown
from rtseg.errors import UsageError
from rtseg.limits import IMAGE_PIXELS

Policy = Literal["auto", "newest", "all"]
"""Which frames to keep when they come faster than they are used."""

Size = tuple[int, int]
"""(height, width) in pixels."""

MIN_SIDE, MAX_SIDE = 32, 8192
"""Of a network's input, in pixels; one of fixed size may be smaller."""

MAX_FRAME_SIDE = 1 << 16
"""Of a frame, in pixels."""

Layout = Literal["NCHW", "NHWC"]
ColourOrder = Literal["RGB", "BGR"]
Activation = Literal["none", "logits", "softmax", "sigmoid", "probabilities"]
"""What a network file that does not describe itself may be told to have."""

LAYOUTS, COLOUR_ORDERS, ACTIVATIONS = map(get_args, (Layout, ColourOrder, Activation))

MAX_SHOWN = 80
"""Characters of a wrong value in a message."""

T = TypeVar("T")


def imported(place: str) -> Any:
    """What "module:name" stands for, as rows of tables have it; imports the module."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def expect(*values: tuple[Any, str]) -> None:
    """Raise UsageError unless each value is of the class in "module:class" beside it."""
    for value, place in values:
        if not isinstance(value, imported(place)):
            wanted = place.partition(":")[2]
            raise UsageError(f"{shown(value)} where a {wanted} is wanted", found=_kind_of(value))


def _kind_of(value: Any) -> str:
    return "it is None" if value is None else f"it is of type {type(value).__name__}"


def keeps_newest(policy: str, live: bool) -> bool:
    """Whether newer frames replace unread ones: by default those of live sources.

    Raises:
        UsageError: there is no such policy.
    """
    if policy not in ("auto", "newest", "all"):
        raise UsageError(f"unknown policy {policy!r}", found="choices are auto, newest, all")
    return live if policy == "auto" else policy == "newest"


def option(
    default: Any,
    *,
    choices: Collection[Any] = (),
    forms: str = "",
    least: float = -math.inf,
    most: float = math.inf,
) -> Any:
    """A field of options whose value is one of `choices`, or from `least` to `most`; or None.

    Args:
        choices: a tuple, or a table, to which rows may be added later.
        forms: what a text may be, where a table says that; it ends the field's line in `--help`.
    """
    rules = {"choices": choices, "forms": forms, "least": least, "most": most}
    return field(default=default, metadata=rules)


def check(options: Any) -> None:
    """Hold every field against its choices and its range.

    Raises:
        UsageError: a value is not one of the choices, or out of its range.
    """
    hints = get_type_hints(options.__class__)
    for one in fields(options):
        value, rules = getattr(options, one.name), one.metadata
        choices = choices_of(options.__class__)[one.name]
        if value is None or not choices:  # of others the choices say what they are
            typed(flag(one.name), hints[one.name], plain(value))
        if value is None:
            continue
        for each in value if isinstance(value, tuple) and choices else (value,):
            if choices and not (isinstance(each, Hashable) and each in choices):
                known = ", ".join(map(str, choices))
                raise UsageError(
                    f"{flag(one.name)} {str(each)[:MAX_SHOWN]}", found=f"choices are {known}"
                )
        least, most = rules.get("least", -math.inf), rules.get("most", math.inf)
        limited = math.isfinite(least) or math.isfinite(most)
        if limited and not (least <= value <= most and value < math.inf):
            bounds = f"{least:.12g} or more" if math.isinf(most) else f"{least:g} to {most:.12g}"
            given = f"{value:g}" if isinstance(value, float) else shown(value)
            raise UsageError(f"{flag(one.name)} {given}", found=f"it must be {bounds}")


def plain(value: Any) -> Any:
    """A number of NumPy or a fraction as Python's own, also in a tuple."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


@cache
def choices_of(cls: type) -> dict[str, Collection[Any]]:
    """What each field may be: its `choices`, or what its type lists; nothing if it is free."""
    hints = get_type_hints(cls)
    return {
        one.name: one.metadata.get("choices") or _literals(hints[one.name]) for one in fields(cls)
    }


def _literals(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def flag(name: str) -> str:
    """How the command line spells a field: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def made(cls: type[T], values: Mapping[str, Any]) -> T:
    """Options from arguments of a call.

    Raises:
        UsageError: there is no such option, or a value is of the wrong kind or makes no sense.
    """
    hints = get_type_hints(cls)
    if unknown := [name for name in values if name not in hints]:
        raise UsageError(
            f"unknown option {shown(unknown[0])}", found="options are " + ", ".join(hints)
        )
    return cls(**values)


def from_values(cls: type[T], values: Mapping[str, Any]) -> T:
    """Options from plain values, as a TOML file holds them.

    Raises:
        UsageError: a name is unknown, or a value is of the wrong kind or makes no sense.
    """
    hints = get_type_hints(cls)
    if unknown := [name for name in values if name not in hints]:
        raise UsageError(
            f"unknown setting {shown(unknown[0])}", found="settings are " + ", ".join(hints)
        )
    return cls(**{name: typed(flag(name), hints[name], value) for name, value in values.items()})


def typed(name: str, hint: Any, value: Any) -> Any:
    """`value` as the annotation `hint` of a field wants it: a list as a tuple, 1 as 1.0.

    Raises:
        UsageError: it is of another kind.
    """
    try:
        return convert(value, hint, name)
    except UsageError as error:
        raise UsageError(f"{name} {shown(value)} is not valid", found=error.found) from error


def check_size(name: str, size: object) -> None:
    """Raise UsageError for what is neither None nor (height, width) of an image."""
    if size is None:
        return
    sides = list(size) if isinstance(size, Iterable) else [size]
    whole = [int(side) for side in sides if isinstance(side, Integral) and side is not True]
    valid = len(whole) == len(sides) == 2 and all(0 < side <= MAX_FRAME_SIDE for side in whole)
    if not (valid and math.prod(whole) <= IMAGE_PIXELS.value()):
        raise UsageError(
            f"{name}={size!r:.80}",
            found="it is not (height, width) of an image in pixels",
            do="Use two whole numbers, such as (360, 640)",
        )
