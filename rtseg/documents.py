"""JSON, TOML and YAML, read into types in one way everywhere; and TOML, written.

Whatever a file says was written by somebody else. `read_json`, `parse_json`, `read_toml`,
`read_yaml` and `convert` return a value of the type that the caller wants, or raise one error that
names the file, the field and its value. Limits that a type does not express belong into its
`__post_init__`, which raises ValueError.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from rtseg.errors import RtsegError, UsageError, first_line
from rtseg.text import read_text

T = TypeVar("T")

MOST_BYTES = 1 << 26
"""Limit of a JSON file, other than labelled images'."""

MOST_TOML_BYTES = 1 << 18
"""Limit of a TOML file."""

MOST_YAML_BYTES = 1 << 17
"""Limit of a YAML file: PyYAML takes seconds for longer ones."""

_LONG_KEY = re.compile(r"""(?<![\w\-"'])(?:["']?[\w-]*["']?[ \t]*\.[ \t]*){64}""")
"""A key of that many parts: tomllib takes minutes for one of thousands."""


def read_json(
    path: Path,
    kind: type[T],
    error: type[RtsegError] = UsageError,
    *,
    do: str = "",
    most_bytes: int | None = MOST_BYTES,
) -> T:
    """The content of a JSON file.

    Args:
        kind: its type; a dataclass takes no other keys than its fields, a `msgspec.Struct` does.
        error: raised for whatever is wrong with it, with the advice `do`.
    """
    return parse_json(_text(path, error, do, most_bytes), kind, str(path), error, do=do)


def parse_json(
    text: str | bytes,
    kind: type[T],
    where: str,
    error: type[RtsegError] = UsageError,
    *,
    do: str = "",
) -> T:
    """As `read_json`, of a text that is found in `where`."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
        _check_characters(text, value)
    except RecursionError:
        raise error(f"cannot read {where}", found="it is nested too deeply", do=do) from None
    except ValueError as failure:
        raise error(f"cannot read {where}", found=f"it is not JSON: {failure}", do=do) from failure
    return convert(value, kind, where, error, do=do)


def read_toml(path: Path, error: type[RtsegError] = UsageError) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        UsageError: it cannot be read or is not TOML; `error` names another type.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    text = _text(path, error, "", MOST_TOML_BYTES)
    try:
        if _LONG_KEY.search(text):
            raise RecursionError
        values = tomllib.loads(text)
    except RecursionError:
        raise error(f"cannot read {path}", found="it is nested too deeply") from None
    except ValueError as failure:
        raise error(f"cannot read {path}", found=f"it is not TOML: {failure}") from failure
    if _holds_nul(values):
        raise error(f"cannot read {path}", found="a text holds NUL")
    return values


def read_yaml(path: Path, error: type[RtsegError]) -> Any:
    """The content of a YAML file, its values as they stand: 1, no and null are text."""
    import yaml  # type: ignore[import-untyped]  # no stubs

    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            pairs = [(self.construct_object(key, deep=True), None) for key, _ in node.value]
            if all(isinstance(key, str) for key, _ in pairs):
                _object(pairs)
            return super().construct_mapping(node, deep)

    text = _text(path, error, "", MOST_YAML_BYTES)
    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise error(f"cannot read {path}", found="it is nested too deeply") from None
    except (ValueError, yaml.YAMLError) as failure:
        found = f"it is not YAML: {first_line(failure)}"
        raise error(f"cannot read {path}", found=found) from failure


def convert(
    value: Any,
    kind: type[T],
    where: str,
    error: type[RtsegError] = UsageError,
    *,
    do: str = "",
    strict: bool = True,
) -> T:
    """Plain values as a type: lists as tuples, dicts as dataclasses, 1 as 1.0.

    Args:
        where: the file or flag that they come from.
        strict: whether texts do not stand for numbers.
    """
    import msgspec

    try:
        if (name := _unknown_key(value, kind)) is not None:
            raise error(f"cannot read {where}", found=name, do=do)
        return msgspec.convert(value, kind, strict=strict)
    except RecursionError:
        raise error(f"cannot read {where}", found="it is nested too deeply", do=do) from None
    except msgspec.ValidationError as failure:
        raise error(
            f"cannot read {where}", found=_fault(str(failure), value, kind), do=do
        ) from failure


def shown(value: Any) -> str:
    """A value as messages show it: on one line, without control characters, and short."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an int of thousands of digits
        return "a very large number"


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 40
_SHORT.maxlevel = 2


def _text(path: Path, error: type[RtsegError], do: str, most_bytes: int | None) -> str:
    try:
        return read_text(path, most_bytes)
    except OSError as failure:
        found = failure.strerror or str(failure)
        raise error(f"cannot read {path}", found=found, do=do) from failure
    except UnicodeDecodeError as failure:
        raise error(f"cannot read {path}", found="it is not UTF-8 text", do=do) from failure


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; refuses a key that is there twice, of which json would take the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return values


_HALVES = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


def _check_characters(text: str | bytes, value: Any) -> None:
    """Raise ValueError for halves of characters, which cannot be printed, and for NUL."""
    text = text if isinstance(text, str) else text.decode()
    if _HALVES.search(text):
        again = json.dumps(value, ensure_ascii=False)
        if re.search(r"(?<!\\)(?:\\\\)*\\u0000|[\ud800-\udfff]", again):
            raise ValueError("a text holds NUL or half a character")


def _holds_nul(values: Any) -> bool:
    return re.search(r"(?<!\\)(?:\\\\)*\\u0000", json.dumps(values, default=str)) is not None


def _unknown_key(value: Any, kind: Any) -> str | None:
    """What to say of a key in `value` that is not a field of the dataclass that it becomes."""
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        known = ", ".join(hints)
        found = (f"unknown field {shown(n)}; fields are {known}" for n in value if n not in hints)
        inner = (_unknown_key(value[name], hint) for name, hint in hints.items() if name in value)
        return next(found, None) or next(filter(None, inner), None)
    origin, kinds = get_origin(kind), get_args(kind)
    each = [value]
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        each = list(value)
    elif origin is dict and isinstance(value, dict):
        each, kinds = list(value.values()), kinds[1:]
    kinds = tuple(one for one in kinds if is_dataclass(one) or get_args(one))
    inner = (_unknown_key(one, item) for item in kinds for one in each)
    return next(filter(None, inner), None)


def _fault(message: str, value: Any, kind: Any) -> str:
    """msgspec's message as "input.size[0] is 'x': expected int, got str"."""
    message, _, place = message.partition(" - at `")
    path = place.rstrip("`").removeprefix("$")
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        try:
            value = value[name] if name else value[int(index)]
        except (LookupError, TypeError):  # "[...]", some value of a dict
            break
        kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
    words = re.sub(r"`([^`]+)`", lambda found: _in_words(found[1]), message)
    words = words[:1].lower() + words[1:]
    if words.startswith("invalid enum value"):
        choices = [
            one
            for each in (kind, *get_args(kind))
            if get_origin(each) is Literal
            for one in get_args(each)
        ]
        words = "it is one of " + ", ".join(map(str, choices)) if choices else words
    before, some, _ = path.removeprefix(".").partition("[...]")
    if some:
        return f"a value in {before or 'it'} ({shown(value)}): {words}"
    return f"{before} is {shown(value)}: {words}" if path else words


def _in_words(types: str) -> str:
    """ "int | str | null" as "whole number or text"."""
    names = {"int": "whole number", "float": "number", "str": "text", "array": "list"}
    words = [names.get(one, one) for one in types.split(" | ") if one != "null"]
    return " or ".join(words) or "nothing"


def to_toml(values: Mapping[str, Any]) -> str:
    """One line per value: text, number, truth value, or a list of them; None is a comment."""
    return "".join(f"{line}\n" for line in _lines(values))


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"# {name} =" if value is None else f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's strings and numbers are TOML's, except for a character that TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
