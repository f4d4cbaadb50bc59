"""Settings of a network file: those of the TOML file beside it, and of flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rtseg.documents import convert, read_toml, shown
from rtseg.errors import ModelError, UsageError
from rtseg.labels import (
    ADE20K,
    ATR,
    CITYSCAPES,
    COCO_STUFF,
    LIP,
    MAX_NAME,
    PERSON,
    VOC,
    Colour,
    LabelSet,
    is_background,
    is_name,
    voc_colours,
)
from rtseg.options import MAX_SIDE, Activation, ColourOrder, Layout
from rtseg.text import read_text

Triple = tuple[float, float, float]

NAMED_LABELS = {
    "voc": VOC,
    "person": PERSON,
    "ade20k": ADE20K,
    "cityscapes": CITYSCAPES,
    "coco-stuff": COCO_STUFF,
    "lip": LIP,
    "atr": ATR,
}


@dataclass(frozen=True)
class Settings:
    """What is said about a network file that does not describe itself; None where nothing is.

    Attributes:
        labels: with the background that is named.
    """

    layout: Layout | None
    colour: ColourOrder | None
    size: tuple[int, int] | None
    scale: float | None
    mean: Triple | None
    std: Triple | None
    labels: LabelSet | None
    activation: Activation | None
    output: str | None
    align_corners: bool
    architecture: str | None
    name: str | None

    @property
    def normalises(self) -> bool:
        """Whether scale, mean or std is given."""
        return any(each is not None for each in (self.scale, self.mean, self.std))


@dataclass(frozen=True)
class _Written:
    """`Settings` as a file or flags write them."""

    layout: Layout | None = None
    colour: ColourOrder | None = None
    size: int | str | list[int] | None = None
    scale: float | str | None = None
    mean: float | str | list[float | str] | None = None
    std: float | str | list[float | str] | None = None
    labels: str | list[str] | None = None
    background: int | str | None = None
    activation: Activation | None = None
    output: str | None = None
    align_corners: bool | None = None
    architecture: str | None = None
    name: str | None = None


def read_settings(
    path: Path, flags: Mapping[str, Any] | None, known: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of a network file: of the TOML file beside it, overridden by `flags`.

    A flag that is None was not given.

    Args:
        known: settings from elsewhere, which the TOML file and the flags override.

    Raises:
        ModelError: the TOML file cannot be read, or a key or value makes no sense.
    """
    sidecar = path.with_suffix(".toml")
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    convert(given, _Written, "the flags", ModelError)
    beside = read_beside(path, without="labels" if "labels" in given else "")
    values = laid_over(known or {}, {**beside, **given})
    written = convert(values, _Written, str(sidecar), ModelError)
    # not vars(), in which msgspec leaves out what is as usual
    found = {one.name: getattr(written, one.name) for one in fields(_Written)}
    for key, parse in _FORMS.items():
        try:
            found[key] = None if found[key] is None else parse(found[key])
        except ValueError as error:
            where = f"{key} = {shown(found[key])} for {path.name}"
            raise ModelError(where, found=str(error)) from error
    background = found.pop("background")
    found["labels"] = _labels_of(written.labels, background, path.name)
    found["align_corners"] = bool(written.align_corners)
    return Settings(**found)


def laid_over(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, over those known.

    A known scale is of the known mean and std, and goes with them.
    """
    kept = dict(known)
    if "scale" not in given and ("mean" in given or "std" in given):
        kept.pop("scale", None)
    return {**kept, **given}


def read_beside(path: Path, *, without: str = "") -> dict[str, Any]:
    """The settings in the TOML file beside a network file, with the labels of a file in its folder.

    Args:
        without: a setting that is left out.

    Raises:
        ModelError: it cannot be read, or that file of labels.
    """
    sidecar = path.with_suffix(".toml")
    values = read_toml(sidecar, ModelError) if sidecar.is_file() else {}
    values.pop(without, None)
    labels = values.get("labels")
    if isinstance(labels, str) and labels.lower() not in NAMED_LABELS:
        values["labels"] = list(_names(labels, sidecar.parent))
    return values


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


def _labels_of(
    given: str | list[str] | None, background: int | str | None, file: str
) -> LabelSet | None:
    """The classes of the network in `file`; None if they are not named.

    Raises:
        ModelError: they cannot be read, are too few or too many, or lack the background's.
    """
    if given is None and background is not None:
        raise ModelError(
            f"background = {shown(background)} for {file}",
            found="its classes are not named",
            do="Give labels, too",
        )
    if given is None:
        return None
    if isinstance(given, str) and given.lower() in NAMED_LABELS:
        found = NAMED_LABELS[given.lower()]
    else:
        found = _named(_names(given), file)
    return found if background is None else _with_background(found, background)


def _size_of(value: int | str | list[int]) -> tuple[int, int]:
    """(height, width) from one number, two, or a text "HxW"."""
    if isinstance(value, str):
        value = [int(side) if side.isdecimal() else 0 for side in value.lower().split("x")]
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 2) or not 1 <= min(numbers) <= max(numbers) <= MAX_SIDE:
        raise ValueError(f"it is height and width in pixels, each 1 to {MAX_SIDE}")
    return numbers[0], numbers[-1]


def triple(value: float | str | list[float | str]) -> Triple:
    """Three numbers from one, three, or a text."""
    parts = value.split(",") if isinstance(value, str) else value
    numbers = [number(part) for part in (parts if isinstance(parts, list) else [parts])]
    if len(numbers) not in (1, 3):
        raise ValueError("it is one number or three")
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def _std(value: float | str | list[float | str]) -> Triple:
    found = triple(value)
    if min(found) <= 0:
        raise ValueError("it is greater than 0")
    return found


def _scale(value: float | str) -> float:
    if (found := number(value)) <= 0:
        raise ValueError("it is greater than 0")
    return found


def number(value: float | str) -> float:
    """A finite number, or a text, which may be a fraction: "1/255"; raises ValueError."""
    above, _, below = str(value).partition("/")
    try:
        found = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("not a number")
    return found


def usual_scale(mean: Triple, std: Triple) -> float:
    """1 if mean or std is of pixels from 0 to 255, which one above 2 shows; else 1/255."""
    return 1.0 if max(*std, *map(abs, mean)) > 2 else 1 / 255


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"not a name of 1 to {MAX_NAME} characters")
    return text


_FORMS: dict[str, Callable[[Any], Any]] = {
    "size": _size_of,
    "scale": _scale,
    "mean": triple,
    "std": _std,
    "name": _name,
}
"""How the settings that may be written in several ways are parsed; raises ValueError."""


def output_kind(activation: Activation) -> Literal["logits", "probabilities"]:
    """What the output holds."""
    probable = activation in ("softmax", "sigmoid", "probabilities")
    return "probabilities" if probable else "logits"


def _names(given: str | list[str], folder: Path = Path()) -> tuple[str, ...]:
    if isinstance(given, str) and "," not in given:
        file = folder / given
        try:
            given = read_text(file).splitlines()
        except (OSError, ValueError) as error:
            known = ", ".join(NAMED_LABELS)
            raise ModelError(
                f"cannot read the labels {str(file)!r}",
                found=getattr(error, "strerror", None) or "not a text file",
                do=f"Give {known}, a comma list, or a file with one name per line",
            ) from error
    if isinstance(given, str):
        given = given.split(",")
    return tuple(name.strip() for name in given if name.strip())


def _named(names: tuple[str, ...], file: str) -> LabelSet:
    if len(names) == 1:  # a network with one output channel: this class or background
        names = ("background", *names)
    try:
        background = 0 if names and is_background(names[0]) else None
        return LabelSet(names, _usual_colours(names), background)
    except ValueError as error:
        raise ModelError(f"cannot use {len(names)} labels for {file}", found=str(error)) from error


def _usual_colours(names: tuple[str, ...]) -> tuple[Colour, ...]:
    """Those of known label sets for their classes, in whatever spelling; else Pascal VOC's."""
    for known in (ADE20K, CITYSCAPES, COCO_STUFF, LIP, ATR):
        if len(names) == len(known) and names[0].casefold() == known.names[0]:
            return known.colours
    return voc_colours(len(names))


def _with_background(found: LabelSet, background: int | str) -> LabelSet:
    index = None if str(background).casefold() == "none" else found.index(background)
    return LabelSet(found.names, found.colours, index)
