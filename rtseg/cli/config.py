"""`--config rtseg.toml` and `--print-config`: the same names as the flags, without the dashes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from rtseg.cli.options import Flags
from rtseg.errors import UsageError

_NOT_PRINTED = {"config", "print_config"}


def config_file(arguments: Sequence[str]) -> Path | None:
    """The file after `--config`, found before the other flags are read."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return None
        if argument == "--config" and place + 1 < len(arguments):
            return Path(arguments[place + 1])
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2])
    return None


def read_config(path: Path) -> dict[str, Any]:
    """The values of a TOML file by flag name.

    Raises:
        UsageError: it cannot be read, is no TOML, or holds a table.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"--config {path}", found=str(reason)) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path} is not TOML", found=str(error)) from error
    for name, value in values.items():
        if isinstance(value, dict):
            raise UsageError(
                f"--config {path}",
                found=f"it has a table [{name}]",
                do="Write the flags at the top level, as `rtseg --print-config` does",
            )
    # an empty list says nothing, and cyclopts 4 takes it for a list of one
    return {name.replace("_", "-"): value for name, value in values.items() if value != []}


def to_toml(flags: Flags) -> str:
    """A TOML file that repeats the run; flags that were left open stand as comments."""
    lines = ["# rtseg --config FILE repeats this run; the command line wins over the file"]
    lines.append(_line("input", (flags.input, *flags.more) if flags.more else flags.input))
    for group in ("source", "model", "view", "output", "run"):
        lines += [*_lines(getattr(flags, group)), ""]
    return "\n".join(lines[:-1])


def _lines(group: Any) -> Iterator[str]:
    for field in fields(group):
        if field.name not in _NOT_PRINTED:
            yield _line(field.name.replace("_", "-"), getattr(group, field.name))


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"# {name} ="
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # JSON's strings and numbers are TOML's, but for a character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
