"""Flags: the fields of the library's options as the command line spells them.

A new flag is a new field of an options class, whose line under "Attributes" is the help text. A row
of `SPELLINGS` is needed only for other names than the field's, or another form than its type's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
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

from rtseg.documents import read_toml, shown, to_toml
from rtseg.errors import UsageError
from rtseg.options import choices_of, typed

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


def read(form: Form, flag: str, text: str) -> Any:
    """The value of a word.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return form.read(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"{flag} {shown(text)} is not valid", do=form.hint) from None


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
WHOLE = Form(int, "Use a whole number")  # cyclopts by itself would round 1.5
TIME = Form(_clock_time, "Use seconds, such as 12.5, or 1:02.5")
WIDTH_HEIGHT = Form(_two_sides, "Use WIDTHxHEIGHT, such as 1280x720")
SIZE = Form(_size, "Use HxW, such as 384x640, or one number")
INPUT_SIZE = Form(_input_size, "Use HxW, such as 384x640, one number, or auto")
INPUT_SIZES = Form(lambda text: tuple(map(_input_size, _commas(text))), INPUT_SIZE.hint, many=True)
NUMBER = Form(_number, "Use a number, such as 0.5 or 1/255")
SHARE = Form(_share, "Use a share, such as 10% or 0.1")
CLASS_SHARE = Form(_class_share, "Use a class and a share from 0 to 1, such as person=0.05")
PAIR = Form(_pair, "Use two numbers separated by a comma, such as 0.5,2")
TRIPLE = Form(_triple, "Use one number, or three separated by commas")
COMMAS = Form(_commas, many=True)

FORMS = {int: WHOLE, tuple[float, float]: PAIR, tuple[float, float, float]: TRIPLE}
"""By type; other types need a row of `SPELLINGS`, or are read by cyclopts."""


class Spelling(NamedTuple):
    """How the command line spells a field.

    Attributes:
        names: all of them, the first for files too; () is the field's name.
        off: names that turn a switch off; () is --no-NAME if it is on by default.
        form: how its value is written as one word; None goes by the type.
        several: more than one value may follow.
        positional: it may be given without its name.
        depends: the default depends on the run, so that neither help nor a file names it.
    """

    names: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    form: Form | None = None
    several: bool = False
    positional: bool = False
    depends: bool = False


def _as(names: str = "", off: str = "", **more: Any) -> Spelling:
    return Spelling(tuple(names.split()), tuple(off.split()), **more)


SPELLINGS: dict[str, Spelling | None] = {
    "RunFlags.input": _as("--input -i --source", positional=True),
    "BatchOptions.input": _as("--input -i --source", positional=True),
    "input": _as("--input -i --source"),
    "output": _as("--output -o"),
    "out": _as("--out -o"),
    "overwrite": _as("--overwrite -y"),
    "verbose": _as("--verbose -v"),
    "quiet": _as("--quiet -q"),
    "show": _as(off="--no-show --headless"),
    "DemoFlags.no_show": _as("--no-show --headless"),
    "size": _as(form=SIZE),
    "SourceOptions.size": _as(form=WIDTH_HEIGHT),
    "TrainOptions.size": _as("--size --imgsz", form=SIZE),
    "start": _as(form=TIME),
    "end": _as(form=TIME),
    "model": _as("--model -m"),
    "models": _as(form=COMMAS),
    "backend": _as("--backend -b"),
    "device": _as("--device -d"),
    "imgsz": _as(form=INPUT_SIZE),
    "window": _as(form=SIZE),
    "colour": _as("--colour --color"),
    "NetworkOptions.scale": _as(form=NUMBER),
    "NetworkOptions.classes": _as(form=COMMAS),
    "align_corners": _as(off="--no-align-corners"),
    "view": _as(depends=True),
    "alpha": _as("--alpha --opacity"),
    "legend": _as(off="--no-legend"),
    "hud": _as(off="--no-hud", depends=True),
    "smooth": _as(depends=True),
    "idle": _as(off="--no-idle", depends=True),
    "BenchOptions.model": _as("--model -m", form=COMMAS),
    "BenchOptions.backend": _as("--backend -b", form=COMMAS),
    "BenchOptions.precision": _as(form=COMMAS),
    "BenchOptions.imgsz": _as(form=INPUT_SIZES),
    "threshold": _as(form=SHARE),
    "EvalOptions.data": _as(several=True),
    "EvalOptions.clip": _as(several=True),
    "EvalOptions.model": _as("--model -m", several=True),
    "EvalOptions.imgsz": _as(),
    "min_share": _as(form=CLASS_SHARE),
    "dataset": _as("--data --dataset"),
    "max_pictures": _as("--max-pictures --max-images"),
    "calibration": _as(several=True),
    "lanes": None,
    "beside": None,
    "title": None,
    "clocks": None,
    "SinkOptions.pix_fmt": None,
}
"""By field, or "Class.field" where classes differ; None has no flag."""


class Row(NamedTuple):
    """Fields of a class that are shown together in help: those named, or the rest of the class.

    Attributes:
        without: fields that the verb does not have.
    """

    group: str
    options: type
    names: str = ""
    without: str = ""


Layout = tuple[Row, ...]
"""The flags of a verb."""


@dataclass(frozen=True)
class Flag:
    """A field of a verb's options, spelled.

    Attributes:
        hint: its type, without None.
        help: one line.
    """

    group: str
    options: type
    field: Field[Any]
    spelling: Spelling
    hint: Any
    help: str

    @property
    def name(self) -> str:
        """Of the field."""
        return self.field.name

    @property
    def names(self) -> tuple[str, ...]:
        """All spellings that take a value, or turn it on."""
        return self.spelling.names or ("--" + self.name.replace("_", "-"),)

    @property
    def off(self) -> tuple[str, ...]:
        """All spellings that turn it off."""
        on = ("--no-" + self.names[0].removeprefix("--"),) if self.field.default is True else ()
        return self.spelling.off or on

    @property
    def shown_default(self) -> str | None:
        """The default as help shows it; None where it goes without saying."""
        default = self.field.default
        if default in (None, "", ()) or isinstance(default, bool) or self.spelling.depends:
            return None
        if isinstance(default, tuple):
            return ("x" if self.form is SIZE else ",").join(map(str, default))
        return str(default)

    @property
    def form(self) -> Form | None:
        """How its value is written as one word; None leaves that to cyclopts."""
        return self.spelling.form or FORMS.get(self.hint)

    @property
    def is_list(self) -> bool:
        """Whether it may be repeated."""
        return get_origin(self.hint) is tuple and get_args(self.hint)[-1] is ...

    def parse(self, texts: Sequence[str]) -> Any:
        """The value of the words after the flag.

        Raises:
            UsageError: one of them cannot be read, or they name nothing.
        """
        form = self.form or WORD
        if not all(text.strip() for text in texts):
            raise UsageError(
                f"{self.names[0]} {texts[0]!r} is empty", do="Leave it out, or name one"
            )
        found = [read(form, self.names[0], text) for text in texts]
        if not self.is_list:
            return found[0]
        if not (values := tuple(chain(*found) if form.many else found)):
            raise UsageError(f"{self.names[0]} {','.join(texts)!r} is empty")
        return values

    def from_file(self, value: Any) -> Any:
        """The value that a TOML file gives, as its type or as it would be typed.

        Raises:
            UsageError: it is of another kind.
        """
        texts = value if isinstance(value, list) else [value]
        if (self.form or self.is_list) and all(isinstance(text, str) for text in texts):
            return self.parse(texts)
        if isinstance(value, str) and not value.strip() and value != self.field.default:
            return self.parse([value])
        try:
            return typed(self.names[0], self.hint, value)
        except UsageError:
            if self.form is None or type(value) not in (int, float):
                raise
            return self.parse([shown(value)])  # one number, where several may be meant


@cache
def flags_of(layout: Layout) -> tuple[Flag, ...]:
    """Every flag of a verb, in the order of its help."""
    named = {(row.options, name) for row in layout for name in row.names.split()}
    found = []
    for row in layout:
        hints, texts = get_type_hints(row.options), help_texts(row.options)
        by_name = {one.name: one for one in fields(row.options)}
        elsewhere = {name for options, name in named if options is row.options}
        rest = [name for name in by_name if name not in elsewhere | {*row.without.split()}]
        for name in row.names.split() or rest:
            key = f"{row.options.__name__}.{name}"
            spelling = SPELLINGS.get(key, SPELLINGS.get(name, Spelling()))
            if spelling is not None:
                text = f"{texts[name]} {by_name[name].metadata.get('forms', '')}".strip()
                hint = _without_none(hints[name])
                found.append(Flag(row.group, row.options, by_name[name], spelling, hint, text))
    return tuple(found)


def help_texts(options: type) -> dict[str, str]:
    """The line of each field under "Attributes", of a class and its bases."""
    return {
        entry.arg_name: " ".join((entry.description or "").split())
        for base in reversed(options.__mro__)
        for entry in parse_docstring(base.__doc__ or "").params
    }


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) and len(kinds) == 1 else hint


def takes(layout: Layout) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a function the flags of a verb; it is called with those that were given, by field."""
    titles = dict.fromkeys(row.group for row in layout)
    panels = {title: Group(title, sort_key=place) for place, title in enumerate(titles, 1)}
    parameters = [_parameter(flag, panels[flag.group]) for flag in flags_of(layout)]
    signature = inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def decorated(function: Callable[..., int]) -> Callable[..., int]:
        @wraps(function)
        def call(*args: Any, **more: Any) -> int:
            return function(**signature.bind(*args, **more).arguments)

        vars(call).pop("__wrapped__")
        vars(call)["__signature__"] = signature  # from which cyclopts reads the flags
        call.__annotations__ = {}
        return call

    return decorated


def _parameter(flag: Flag, group: Group) -> inspect.Parameter:
    def convert(kind: object, tokens: Sequence[Token]) -> Any:
        return flag.parse([token.value for token in tokens])

    shown, positional = flag.shown_default, flag.spelling.positional
    rendered = Parameter(
        name=flag.names,
        group=group,
        help=flag.help,
        negative=flag.off,
        converter=convert if flag.form or flag.is_list or flag.hint is str else None,
        consume_multiple=flag.spelling.several,
        show_default=False if shown is None else lambda _: shown,
    )
    kinds = inspect.Parameter
    return inspect.Parameter(
        flag.name,
        kinds.POSITIONAL_OR_KEYWORD if positional else kinds.KEYWORD_ONLY,
        default=() if positional else None,
        annotation=Annotated[_hint(flag), rendered],
    )


def _hint(flag: Flag) -> Any:
    """The type that cyclopts sees: choices, or text for what a `Form` reads."""
    if flag.is_list:
        lists = tuple[str, ...]
        return lists if flag.spelling.positional else Optional[lists]  # noqa: UP045
    choices = tuple(choices_of(flag.options)[flag.name])
    if choices:
        return Optional[Literal[choices]]  # noqa: UP045
    plain = flag.form is None or flag.form is WHOLE
    return Optional[flag.hint if plain else str]  # noqa: UP045


def collect(cls: Callable[..., T], layout: Layout, given: Mapping[str, Any]) -> T:
    """The options of a verb from what was given; `cls` has a field for each class of options.

    Raises:
        UsageError: a value makes no sense.
    """
    names: dict[type, set[str]] = {}
    for flag in flags_of(layout):
        names.setdefault(flag.options, set()).add(flag.name)
    parts = {
        part: hint(**{name: given[name] for name in names[hint] & given.keys()})
        for part, hint in get_type_hints(cls).items()
        if part != "given"
    }
    return cls(**parts, given=frozenset(given))


def of_class(options: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a class of options, by field."""
    return {one.name: given[one.name] for one in fields(options) if one.name in given}


SAME = {"smooth": "no_smooth", "precision": "half", "input": "camera", "quiet": "verbose"}
"""Flags of one thing: of the two, one on the command line replaces the other in a file."""


def with_config(layout: Layout, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and below it the values of the file that `--config` names.

    Raises:
        UsageError: the file cannot be read, holds a table, or has a value that no flag takes.
    """
    if given.get("config") is None:
        return dict(given)
    found = _from_file(layout, Path(given["config"]))
    for one, other in (*SAME.items(), *((other, one) for one, other in SAME.items())):
        if one in given:
            found.pop(other, None)
    return {**found, **given}


def _from_file(layout: Layout, path: Path) -> dict[str, Any]:
    spellings = {name: flag for flag in flags_of(layout) for name in (*flag.names, flag.name)}
    values = {}
    for name, value in read_toml(path).items():
        if isinstance(value, dict):
            raise UsageError(
                f"--config {path}",
                found=f"it has a table [{name[:40]}]",
                do="Write the flags at the top level, as `rtseg --print-config` does",
            )
        flag = spellings.get(name) or spellings.get("--" + name.replace("_", "-"))
        if flag is None:
            raise UsageError(f"--config {path}", found=f"unknown flag {shown(name)}")
        if value != []:
            values[flag.name] = flag.from_file(value)
    return values


def print_config(flags: Any, layout: Layout, without: Iterable[str]) -> str:
    """A TOML file that repeats the run; flags whose default depends on the run are comments."""
    parts = {type(part): part for part in vars(flags).values()}
    values = {}
    for flag in flags_of(layout):
        if flag.name in without:
            continue
        value = getattr(parts[flag.options], flag.name)
        if flag.spelling.depends and flag.name not in flags.given:
            value = None
        if flag.spelling.positional and len(value) < 2:
            value = value[0] if value else None
        values[flag.names[0].removeprefix("--")] = value
    heading = "# rtseg --config FILE repeats this run; the command line takes precedence"
    return f"{heading}\n{to_toml(values)}"
