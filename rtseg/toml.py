"""TOML files, read and written in one way everywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rtseg.errors import RtsegError, UsageError
from rtseg.text import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, error: type[RtsegError] = UsageError) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        UsageError: it cannot be read or is not TOML; `error` names another type.
    """
    try:
        return tomllib.loads(read_text(path))
    except OSError as failure:
        raise error(f"cannot read {path}", found=failure.strerror or str(failure)) from failure
    except UnicodeDecodeError as failure:
        raise error(f"cannot read {path}", found="it is not UTF-8 text") from failure
    except tomllib.TOMLDecodeError as failure:
        raise error(f"cannot read {path}", found=f"it is not TOML: {failure}") from failure


def to_toml(values: Mapping[str, Any]) -> str:
    """One line per value: text, number, truth value, or a list of them; None is a comment."""
    return "".join(f"{line}\n" for line in _lines(values))


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"# {name} =" if value is None else f"{name} = {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_text, value)) + "]"
    # JSON's strings and numbers are TOML's, except for a character that TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
