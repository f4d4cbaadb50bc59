"""Flags: the fields of the library's options as the command line spells them.

A new flag is a new field of an options class. Its line under "Attributes" is the help text; a row
of `FLAGS` is needed only where it is spelled or read in another way than its name and type say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from fractions import Fraction
from functools import cache, wraps
from itertools import chain
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Optional,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from cyclopts import Group, Parameter, Token
from docstring_parser import parse as parse_docstring

from rtseg.errors import UsageError
from rtseg.options import choices_of, typed
from rtseg.toml import read_toml, to_toml

T = TypeVar("T")


class Form(NamedTuple):
    """How a value is written as one word.

    Attributes:
        hint: advice where it cannot be read.
        many: a word is several values.
    """

    read: Callable[[str], Any]
    hint: str = ""
    many: bool = False


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


def _two_sides(text: str) -> tuple[int, int]:
    first, second = text.lower().split("x")
    return _positive(first), _positive(second)


def _size(text: str) -> tuple[int, int]:
    return _two_sides(text if "x" in text.lower() else f"{text}x{text}")


def _input_size(text: str) -> tuple[int, int] | None:
    return None if text == "auto" else _size(text)


def _number(text: str) -> float:
    return float(Fraction(text.replace(" ", "")))


def _share(text: str) -> float:
    plain = text.strip().removesuffix("%")
    return _number(plain) / (1 if plain == text.strip() else 100)


def _class_share(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    if not name or not 0 <= _number(share) <= 1:
        raise ValueError(text)
    return name.strip(), _number(share)


def _triple(text: str) -> tuple[float, float, float]:
    parts = [_number(part) for part in text.split(",")]
    red, green, blue = parts * 3 if len(parts) == 1 else parts
    return red, green, blue


def _pair(text: str) -> tuple[float, float]:
    first, second = map(_number, text.split(","))
    return first, second


def _commas(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


WORD = Form(str)
TIME = Form(_clock_time, "Give seconds, as 12.5, or 1:02.5")
WIDTH_HEIGHT = Form(_two_sides, "Give WIDTHxHEIGHT, as 1280x720")
SIZE = Form(_size, "Give HxW, as 384x640, or one number")
INPUT_SIZE = Form(_input_size, "Give HxW, as 384x640, one number, or auto")
NUMBER = Form(_number, "Give a number, as 0.5 or 1/255")
CLASS_SHARE = Form(_class_share, "Write a class and a share from 0 to 1, as person=0.05")
SHARE = Form(_share, "Give a share, as 10% or 0.1")
TRIPLE = Form(_triple, "Give one number, or three with commas between")
PAIR = Form(_pair, "Give two numbers with a comma between, as 0.5,2")
COMMAS = Form(_commas, many=True)
INPUT_SIZES = Form(lambda text: tuple(map(_input_size, _commas(text))), INPUT_SIZE.hint, many=True)


def read(form: Form, flag: str, text: str) -> Any:
    """The value of a word.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return form.read(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{flag} {text!r} cannot be read", do=form.hint) from None


class Flag(NamedTuple):
    """How the command line spells a field.

    Attributes:
        names: all spellings, the first for files too; none is the field's name.
        negative: spellings that turn a switch off.
        form: how its value is written as one word; None goes by the type.
        several: more than one value may follow.
        positional: it may be given without its name.
        depends: the default depends on the run, so that neither help nor a file names it.
    """

    names: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    form: Form | None = None
    several: bool = False
    positional: bool = False
    depends: bool = False


def _flag(names: str = "", **more: Any) -> Flag:
    return Flag(tuple(names.split()), **more)


FLAGS: dict[str, Flag | None] = {
    "RunFlags.input": _flag("--input -i --source", positional=True),
    "start": _flag(form=TIME),
    "end": _flag(form=TIME),
    "SourceOptions.size": _flag(form=WIDTH_HEIGHT),
    "reconnect": _flag(negative=("--no-reconnect",)),
    "model": _flag("--model -m"),
    "models": _flag(form=COMMAS),
    "backend": _flag("--backend -b"),
    "device": _flag("--device -d"),
    "imgsz": _flag(form=INPUT_SIZE),
    "lanes": None,
    "beside": None,
    "colour": _flag("--colour --color"),
    "mean": _flag(form=TRIPLE),
    "std": _flag(form=TRIPLE),
    "NetworkOptions.scale": _flag(form=NUMBER),
    "align_corners": _flag(negative=("--no-align-corners",)),
    "NetworkOptions.classes": _flag(form=COMMAS),
    "EvalOptions.data": _flag(several=True),
    "EvalOptions.clip": _flag(several=True),
    "EvalOptions.model": _flag("--model -m", several=True),
    "EvalOptions.imgsz": _flag(),
    "BenchOptions.model": _flag("--model -m", form=COMMAS),
    "BenchOptions.backend": _flag("--backend -b", form=COMMAS),
    "BenchOptions.precision": _flag(form=COMMAS),
    "BenchOptions.imgsz": _flag(form=INPUT_SIZES),
    "input": _flag("--input -i --source"),
    "encode": _flag(negative=("--no-encode",)),
    "clocks": None,
    "threshold": _flag(form=SHARE),
    "calibration": _flag(several=True),
    "min_share": _flag(form=CLASS_SHARE),
    "dataset": _flag("--data --dataset"),
    "TrainOptions.size": _flag(form=SIZE),
    "TrainOptions.scale": _flag(form=PAIR),
    "out": _flag("--out -o"),
    "view": _flag(depends=True),
    "alpha": _flag("--alpha --opacity"),
    "legend": _flag(negative=("--no-legend",)),
    "hud": _flag(negative=("--no-hud",), depends=True),
    "output": _flag("--output -o"),
    "show": _flag(negative=("--no-show", "--headless")),
    "DemoFlags.no_show": _flag("--no-show --headless"),
    "CamerasFlags.measure": _flag(negative=("--no-measure",)),
    "title": None,
    "SinkOptions.pix_fmt": None,
    "overwrite": _flag("--overwrite -y"),
    "smooth": _flag(depends=True),
    "idle": _flag(negative=("--no-idle",), depends=True),
    "verbose": _flag("--verbose -v"),
    "quiet": _flag("--quiet -q"),
}
"""By field, or "Class.field" where classes differ; None is not a flag."""


class Row(NamedTuple):
    """Fields of a class that are shown together in help: those named, or the rest of the class.

    Attributes:
        without: fields that the verb does not have.
    """

    group: str
    options: type
    names: str = ""
    without: str = ""


@dataclass(frozen=True)
class One:
    """One flag of a verb."""

    group: str
    options: type
    field: Field[Any]
    flag: Flag
    hint: Any
    help: str

    @property
    def name(self) -> str:
        """Of the field."""
        return self.field.name

    @property
    def names(self) -> tuple[str, ...]:
        """Spellings, the longest form first."""
        return self.flag.names or ("--" + self.name.replace("_", "-"),)

    @property
    def default(self) -> Any:
        """Of the field; None where it has none, or that depends on the run."""
        return None if self.flag.depends or self.field.default is MISSING else self.field.default

    @property
    def is_list(self) -> bool:
        """Whether it may be repeated."""
        return get_origin(self.hint) is tuple and get_args(self.hint)[-1] is ...

    def parse(self, texts: Sequence[str]) -> Any:
        """The value of the words after the flag.

        Raises:
            UsageError: one of them cannot be read, or they name nothing.
        """
        form = self.flag.form or (WORD if self.hint is not int else None)
        if not self.is_list:
            return _whole(texts[0]) if form is None else read(form, self.names[0], texts[0])
        found = [read(form or WORD, self.names[0], text) for text in texts]
        values = tuple(chain(*found)) if form is not None and form.many else tuple(found)
        if not values:
            raise UsageError(f"{self.names[0]} {','.join(texts)!r} names nothing")
        return values

    def from_file(self, value: Any) -> Any:
        """The value that a TOML file gives, as its type or as text.

        Raises:
            UsageError: it is of another kind.
        """
        if isinstance(value, str) and self.flag.form is not None:
            return self.parse([value])
        if isinstance(value, str) and self.is_list:
            return (value,)
        if self.is_list and self.flag.form is COMMAS and isinstance(value, list):
            return tuple(chain(*(_commas(str(text)) for text in value)))
        return typed(self.names[0], self.hint, value)


def _whole(text: str) -> int:
    """A whole number: cyclopts by itself would round 1.5."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a whole number") from error


@cache
def flags_of(layout: tuple[Row, ...]) -> tuple[One, ...]:
    """Every flag of a verb, in the order of its help."""
    named = {(row.options, name) for row in layout for name in row.names.split()}
    found = []
    for row in layout:
        hints, helps = get_type_hints(row.options), help_texts(row.options)
        by_name = {one.name: one for one in fields(row.options)}
        left_out = {*row.without.split(), *(n for cls, n in named if cls is row.options)}
        rest = [name for name in by_name if name not in left_out]
        for name in row.names.split() or rest:
            key = f"{row.options.__name__}.{name}"
            if (flag := FLAGS.get(key, FLAGS.get(name, Flag()))) is not None:
                hint = _without_none(hints[name])
                one = by_name[name]
                text = f"{helps[name]} {one.metadata.get('forms', '')}".strip()
                found.append(One(row.group, row.options, one, flag, hint, text))
    return tuple(found)


def help_texts(options: type) -> dict[str, str]:
    """The line of each field under "Attributes", of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(options.__mro__):
        for entry in parse_docstring(base.__doc__ or "").params:
            texts[entry.arg_name] = " ".join((entry.description or "").split())
    return texts


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) and len(kinds) == 1 else hint


def signature(layout: tuple[Row, ...]) -> inspect.Signature:
    """The signature of a function that takes the flags of a verb, as cyclopts reads it."""
    groups = {row.group: None for row in layout}
    panels = {title: Group(title, sort_key=n) for n, title in enumerate(groups, 1)}
    parameters = [_parameter(one, panels[one.group]) for one in flags_of(layout)]
    return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))


def takes(layout: tuple[Row, ...]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a function that takes `**given` the flags of a verb; it gets those that were given."""

    def decorated(function: Callable[..., int]) -> Callable[..., int]:
        flags = signature(layout)

        @wraps(function)
        def call(*args: Any, **more: Any) -> int:
            return function(**flags.bind(*args, **more).arguments)

        vars(call).pop("__wrapped__")
        vars(call)["__signature__"] = flags
        call.__annotations__ = {}
        return call

    return decorated


def _parameter(one: One, group: Group) -> inspect.Parameter:
    shown = one.default
    if shown is None or isinstance(shown, (bool, tuple)):
        shown = None

    def convert(kind: object, tokens: Sequence[Token]) -> Any:
        return one.parse([token.value for token in tokens])

    choices = tuple(choices_of(one.options)[one.name])
    simple = one.flag.form is None and (one.hint in (bool, float, str) or choices)
    annotation = Parameter(
        name=one.names,
        group=group,
        help=one.help,
        negative=one.flag.negative,
        converter=None if simple else convert,
        consume_multiple=one.flag.several,
        show_default=False if shown is None else lambda _: str(shown),
    )
    kinds = inspect.Parameter
    return inspect.Parameter(
        one.name,
        kinds.POSITIONAL_OR_KEYWORD if one.flag.positional else kinds.KEYWORD_ONLY,
        default=() if one.flag.positional else None,
        annotation=Annotated[_typed_as(one, choices), annotation],
    )


def _typed_as(one: One, choices: tuple[Any, ...]) -> Any:
    """The type that cyclopts sees; whatever a `Form` reads is text to it."""
    if one.is_list:
        return tuple[str, ...] if one.flag.positional else Optional[tuple[str, ...]]  # noqa: UP045
    plain = one.hint if one.flag.form is None and one.hint in (bool, int, float) else str
    return Optional[Literal[choices] if choices else plain]  # noqa: UP045


def collect(cls: Callable[..., T], layout: tuple[Row, ...], given: Mapping[str, Any]) -> T:
    """The options of a verb from what was given; `cls` has a field for each class of options.

    Raises:
        UsageError: a value makes no sense.
    """
    names: dict[type, set[str]] = {}
    for one in flags_of(layout):
        names.setdefault(one.options, set()).add(one.name)
    parts = {
        part: hint(**{name: given[name] for name in names[hint] & given.keys()})
        for part, hint in get_type_hints(cls).items()
        if part != "given"
    }
    return cls(**parts, given=frozenset(given))


def of_class(options: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a class of options, by field."""
    return {one.name: given[one.name] for one in fields(options) if one.name in given}


def with_config(layout: tuple[Row, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and below it the values of the file that `--config` names.

    Raises:
        UsageError: the file cannot be read, holds a table, or has a value that no flag takes.
    """
    if given.get("config") is None:
        return dict(given)
    path = Path(given["config"])
    return {**_from_file(layout, path), **given}


def _from_file(layout: tuple[Row, ...], path: Path) -> dict[str, Any]:
    spellings = {name: one for one in flags_of(layout) for name in (*one.names, f"--{one.name}")}
    values = {}
    for name, value in read_toml(path).items():
        if isinstance(value, dict):
            raise UsageError(
                f"--config {path}",
                found=f"it has a table [{name}]",
                do="Write the flags at the top level, as `rtseg --print-config` does",
            )
        one = spellings.get(f"--{name}") or spellings.get("--" + name.replace("_", "-"))
        if one is None:
            raise UsageError(f"--config {path}", found=f"there is no flag {name!r}")
        if value != []:
            values[one.name] = one.from_file(value)
    return values


def print_config(flags: Any, layout: tuple[Row, ...], without: Iterable[str]) -> str:
    """A TOML file that repeats the run; flags whose default depends on the run are comments."""
    parts = {type(part): part for part in vars(flags).values()}
    values = {}
    for one in flags_of(layout):
        if one.name not in without:
            value = getattr(parts[one.options], one.name)
            left_open = one.flag.depends and one.name not in flags.given
            if one.flag.positional:
                value = (value or (None,))[0] if len(value) < 2 else value
            values[one.names[0].removeprefix("--")] = None if left_open else value
    return to_toml(values)


def rows(layout: tuple[Row, ...]) -> Iterator[tuple[str, list[One]]]:
    """The groups of a verb's help and their flags."""
    for title in dict.fromkeys(row.group for row in layout):
        yield title, [one for one in flags_of(layout) if one.group == title]
