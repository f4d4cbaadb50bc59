"""What a person says of a foreign network, in a TOML file beside it or by flags.

    # net.toml, beside net.onnx or net.pth
    layout = "NHWC"                  # or NCHW
    colour = "RGB"                   # or BGR
    dtype = "float32"                # or uint8
    size = [256, 256]                # height, width
    scale = 0.00392156862745098      # a pixel v becomes (v * scale - mean) / std
    mean = [0.485, 0.456, 0.406]     # or one number
    std = [0.229, 0.224, 0.225]
    labels = ["background", "person"]  # or "voc", "person", a comma list, a file of names
    background = "background"        # a name, an index, or "none"
    activation = "none"              # logits; "softmax" or "sigmoid": already probabilities
    output = "logits"                # which output, by name
    align_corners = false            # true for most networks from TensorFlow
    architecture = "fcn_resnet50"    # of a state dict

Everything is optional: what is not said is read from the file, or assumed, aloud.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from rtseg.errors import ModelError, UsageError
from rtseg.labels import PERSON, VOC, LabelSet, voc_colours

Settings = dict[str, Any]

KEYS = frozenset(
    "layout colour dtype size scale mean std labels background activation output align_corners "
    "architecture name".split()
)
CHOICES = {
    "layout": ("NCHW", "NHWC"),
    "colour": ("RGB", "BGR"),
    "dtype": ("float32", "uint8"),
    "align_corners": (True, False),
    "activation": ("none", "logits", "softmax", "sigmoid", "probabilities"),
}
KNOWN_LABELS = {"voc": VOC, "person": PERSON}
NOTHING = {"background", "null", "nothing", "unlabelled", "unlabeled", "__background__"}


def read_settings(path: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of the network file at `path`: of `path` with suffix .toml, then of `flags`.

    A flag that is None was not given.

    Raises:
        ModelError: the TOML file cannot be read, or a key or choice is unknown.
    """
    sidecar = path.with_suffix(".toml")
    settings = _read_toml(sidecar) if sidecar.is_file() else {}
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for where, values in ((str(sidecar), settings), ("the flags", given)):
        _check(where, values)
    return {**settings, **given}


def refuse(flags: Mapping[str, Any] | None, name: str) -> None:
    """Refuse flags for a network that brings what they say.

    Raises:
        UsageError: one was given.
    """
    given = [key for key, value in (flags or {}).items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(f'--{key}' for key in given)} for {name}",
            found="it says itself what its input and its classes are",
            do=f"Leave {'them' if len(given) > 1 else 'it'} out",
        )


def _read_toml(path: Path) -> Settings:
    try:
        values: Settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}", found=str(error).splitlines()[0]) from error
    return values


def _check(where: str, values: Settings) -> None:
    for key, value in values.items():
        if key not in KEYS:
            known = ", ".join(sorted(KEYS))
            raise ModelError(f"unknown setting {key!r} in {where}", found=f"there are {known}")
        if key in CHOICES and value not in CHOICES[key]:
            choices = ", ".join(map(str, CHOICES[key]))
            raise ModelError(f"{key} = {value!r} in {where}", found=f"it is one of {choices}")


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers, out of one, three, or their text."""
    parts = value.split(",") if isinstance(value, str) else value
    numbers = [number(v, key) for v in (parts if isinstance(parts, (list, tuple)) else [parts])]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or (key == "std" and 0 in numbers):
        raise ModelError(f"{key} = {value!r}", found="it is one number or three", do=_NOT_ZERO)
    return numbers[0], numbers[1], numbers[2]


_NOT_ZERO = "None of std may be 0"


def number(value: Any, key: str) -> float:
    """A number, or its text, which may be a fraction: "1/255"."""
    try:
        above, _, below = str(value).partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{key} = {value!r}", found="it is no number") from error


def size(value: Any) -> tuple[int, int]:
    """(height, width), out of one number, two, or their text "HxW"."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    try:
        numbers = [int(part) for part in parts]
    except (ValueError, TypeError) as error:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels") from error
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ModelError(f"size = {value!r}", found="it is height and width in pixels")
    return numbers[0], numbers[-1]


def output_kind(settings: Settings) -> Literal["logits", "probabilities"]:
    """What the output holds."""
    probable = settings.get("activation", "none") in ("softmax", "sigmoid", "probabilities")
    return "probabilities" if probable else "logits"


def labels(settings: Settings) -> LabelSet | None:
    """The classes, where the settings say them.

    Raises:
        ModelError: they cannot be read, are too few or too many, or the background is none of them.
    """
    given = settings.get("labels")
    if given is None:
        return None
    if isinstance(given, str) and given.lower() in KNOWN_LABELS:
        found = KNOWN_LABELS[given.lower()]
    else:
        found = _named(_names(given))
    return _with_background(found, settings["background"]) if "background" in settings else found


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and "," not in given:
        try:
            given = Path(given).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            known = " or ".join(KNOWN_LABELS)
            raise ModelError(
                f"cannot read the labels {given!r}",
                found=getattr(error, "strerror", None) or "it is no text",
                do=f"Give {known}, a comma list, or a file with one name a line",
            ) from error
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ModelError(f"labels = {given!r}", found="they are a list of names")
    return tuple(name.strip() for name in given if name.strip())


def _named(names: tuple[str, ...]) -> LabelSet:
    if len(names) == 1:  # of a network with one output channel: this, or nothing
        names = ("background", *names)
    try:
        nothing = 0 if names[:1] and names[0].casefold() in NOTHING else None
        return LabelSet(names, voc_colours(len(names)), nothing)
    except ValueError as error:
        raise ModelError(f"{len(names)} labels", found=str(error)) from error


def _with_background(found: LabelSet, background: Any) -> LabelSet:
    nothing = str(background).casefold() == "none"
    index = None if nothing else found.index(background)
    return LabelSet(found.names, found.colours, index)


def numbered(count: int) -> LabelSet:
    """Classes called by their numbers; nothing is known of them."""
    return LabelSet(tuple(f"class {i}" for i in range(count)), voc_colours(count), None)
