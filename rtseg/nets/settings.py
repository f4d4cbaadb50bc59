"""Settings of a network file: those of the TOML file beside it, and of flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rtseg.errors import ModelError, UsageError
from rtseg.labels import PERSON, VOC, LabelSet, voc_colours
from rtseg.options import ACTIVATIONS, COLOUR_ORDERS, LAYOUTS
from rtseg.text import read_text
from rtseg.toml import read_toml

Settings = dict[str, Any]
"""Of a network file, as a TOML file beside it or flags give them; `KEYS` are the keys."""

KEYS = frozenset(
    "layout colour dtype size scale mean std labels background activation output align_corners "
    "architecture name".split()
)
CHOICES = {
    "layout": LAYOUTS,
    "colour": COLOUR_ORDERS,
    "dtype": ("float32", "uint8"),
    "align_corners": (True, False),
    "activation": ACTIVATIONS,
}
NAMED_LABELS = {"voc": VOC, "person": PERSON}
BACKGROUND_NAMES = {"background", "null", "nothing", "unlabelled", "unlabeled", "__background__"}


def read_settings(path: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a network file: of the TOML file beside it, overridden by `flags`.

    A flag that is None was not given.

    Raises:
        ModelError: the TOML file cannot be read, or a key or choice is unknown.
    """
    sidecar = path.with_suffix(".toml")
    settings = read_toml(sidecar, ModelError) if sidecar.is_file() else {}
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for where, values in ((str(sidecar), settings), ("the flags", given)):
        _check(where, values)
    return {**settings, **given}


def refuse_flags(flags: Mapping[str, Any] | None, name: str) -> None:
    """Refuse flags for a network that describes itself.

    Raises:
        UsageError: a flag was given.
    """
    given = [key for key, value in (flags or {}).items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(f'--{key}' for key in given)} for {name}",
            found="the model describes its own input and classes",
            do=f"Remove {'them' if len(given) > 1 else 'it'}",
        )


def labels_of(settings: Settings) -> LabelSet | None:
    """The classes; None if the settings do not name them.

    Raises:
        ModelError: they cannot be read, are too few or too many, or lack the background's.
    """
    given = settings.get("labels")
    if given is None:
        return None
    if isinstance(given, str) and given.lower() in NAMED_LABELS:
        found = NAMED_LABELS[given.lower()]
    else:
        found = _named(_names(given))
    return _with_background(found, settings["background"]) if "background" in settings else found


def size_of(value: Any) -> tuple[int, int]:
    """(height, width) from one number, two, or a text "HxW"."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    try:
        numbers = [int(part) for part in parts]
    except (ValueError, TypeError) as error:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels") from error
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels")
    return numbers[0], numbers[-1]


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers from one, three, or a text."""
    parts = value.split(",") if isinstance(value, str) else value
    numbers = [number(v, key) for v in (parts if isinstance(parts, (list, tuple)) else [parts])]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or (key == "std" and 0 in numbers):
        do = "No value of std may be 0" if key == "std" else ""
        raise ModelError(f"{key} = {value!r}", found="it is one number or three", do=do)
    return numbers[0], numbers[1], numbers[2]


def number(value: Any, key: str) -> float:
    """A number, or a text, which may be a fraction: "1/255"."""
    try:
        above, _, below = str(value).partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{key} = {value!r}", found="not a number") from error


def output_kind(settings: Settings) -> Literal["logits", "probabilities"]:
    """What the output holds."""
    probable = settings.get("activation", "none") in ("softmax", "sigmoid", "probabilities")
    return "probabilities" if probable else "logits"


def _check(where: str, values: Settings) -> None:
    for key, value in values.items():
        if key not in KEYS:
            known = ", ".join(sorted(KEYS))
            raise ModelError(f"unknown setting {key!r} in {where}", found=f"settings are {known}")
        if key in CHOICES and value not in CHOICES[key]:
            choices = ", ".join(map(str, CHOICES[key]))
            raise ModelError(f"{key} = {value!r} in {where}", found=f"it is one of {choices}")


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and "," not in given:
        try:
            given = read_text(Path(given)).splitlines()
        except (OSError, ValueError) as error:
            known = " or ".join(NAMED_LABELS)
            raise ModelError(
                f"cannot read the labels {given!r}",
                found=getattr(error, "strerror", None) or "not a text file",
                do=f"Give {known}, a comma list, or a file with one name per line",
            ) from error
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ModelError(f"labels = {given!r}", found="they are a list of names")
    return tuple(name.strip() for name in given if name.strip())


def _named(names: tuple[str, ...]) -> LabelSet:
    if len(names) == 1:  # a network with one output channel: this class or background
        names = ("background", *names)
    try:
        background = 0 if names[:1] and names[0].casefold() in BACKGROUND_NAMES else None
        return LabelSet(names, voc_colours(len(names)), background)
    except ValueError as error:
        raise ModelError(f"{len(names)} labels", found=str(error)) from error


def _with_background(found: LabelSet, background: Any) -> LabelSet:
    index = None if str(background).casefold() == "none" else found.index(background)
    return LabelSet(found.names, found.colours, index)
