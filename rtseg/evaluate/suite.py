"""A TOML file that names sets and networks, so that one command measures all of them.

root = "../../shared/data"          # paths below are under it; it is under the file's folder

[[set]]
name = "coco"                       # optional, as is all but the path
path = "coco"
split = "val"                       # default: val, else test, else all
format = "auto"
names = "classes.json"              # a file under the set's path, or a list of names
classes = ["person=*"]              # as --classes
min_share = { person = 0.05 }       # only pictures in which the class covers that much
only = "kept_aside.txt"             # names of pictures, one a line, beside this file
max_pictures = 100

[[network]]
name = "selfie"
model = "networks/selfie.onnx"      # a name of `rtseg models`, or a file under root
imgsz = "256x256"                   # optional; default: as --imgsz
refine = true                       # optional; as --refine
labels = "person"                   # and all else that a TOML file beside the network may say
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from rtseg.errors import UsageError
from rtseg.evaluate.sets import SetSpec

SET_KEYS = frozenset("name path split format names classes min_share max_pictures".split())


@dataclass(frozen=True)
class NetworkSpec:
    """A network as a person asks for it.

    Attributes:
        model: what `find_model` takes.
        name: what the results call it; "" is the network's own.
        imgsz: as `--imgsz`; None is what the command says.
        refine: whether the edges of its masks follow the picture's, whatever the command says.
        settings: of a foreign file, over those of the TOML file beside it.
    """

    model: str
    name: str = ""
    imgsz: str | None = None
    refine: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """What a suite's file names."""

    sets: tuple[SetSpec, ...]
    networks: tuple[NetworkSpec, ...]


def read_suite(path: Path, root: Path | None = None) -> Suite:
    """Read a suite.

    Args:
        root: the folder that the paths are under, over what the file says.

    Raises:
        UsageError: the file cannot be read, or says something that makes no sense.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the suite {path}", found=words) from error
    _known(path, content, {"root", "set", "network"})
    base = root or path.parent / str(content.get("root", ""))
    sets = tuple(_set(path, base, table) for table in _tables(path, content, "set"))
    networks = tuple(_network(path, base, table) for table in _tables(path, content, "network"))
    if not sets:
        raise UsageError(f"the suite {path} has no [[set]]")
    return Suite(sets, networks)


def _tables(path: Path, content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    tables = content.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"[{name}] in {path}", found="it is a list of tables", do=f"[[{name}]]")
    return tables


def _set(path: Path, base: Path, table: dict[str, Any]) -> SetSpec:
    _known(path, table, SET_KEYS)
    shares = table.get("min_share", {})
    if not isinstance(shares, dict) or not all(_is_share(share) for share in shares.values()):
        raise UsageError(f"min_share = {shares!r} in {path}", found="as { person = 0.05 }")
    most = table.get("max_pictures", 0)
    if not isinstance(most, int) or most < 0:
        raise UsageError(f"max_pictures = {most!r} in {path}", found="it is a whole number")
    return SetSpec(
        path=base / _text(path, table, "path"),
        name=_text(path, table, "name", ""),
        format=_text(path, table, "format", "auto"),
        split=_text(path, table, "split", ""),
        classes=_list(path, table, "classes"),
        min_share=shares,
        names=path.parent / _text(path, table, "names") if "names" in table else None,
        max_pictures=most,
    )


def _network(path: Path, base: Path, table: dict[str, Any]) -> NetworkSpec:
    model = _text(path, table, "model")
    own = {"model", "name", "imgsz", "refine"}
    refine = table.get("refine", False)
    if not isinstance(refine, bool):
        raise UsageError(f"refine = {refine!r} in {path}", found="it is true or false")
    return NetworkSpec(
        model=str(base / model) if Path(model).suffix else model,
        name=_text(path, table, "name", ""),
        imgsz=_text(path, table, "imgsz") if "imgsz" in table else None,
        refine=refine,
        settings={key: value for key, value in table.items() if key not in own},
    )


def _text(path: Path, table: dict[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        found = "it is a text" if key in table else f"a table has no {key}"
        raise UsageError(f"{key} = {value!r} in {path}", found=found)
    return value


def _list(path: Path, table: dict[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UsageError(f"{key} = {value!r} in {path}", found="it is a list of texts")
    return tuple(value)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _known(path: Path, table: dict[str, Any], keys: set[str] | frozenset[str]) -> None:
    if strange := sorted(set(table) - keys):
        raise UsageError(
            f"unknown key {strange[0]!r} in {path}", found="there are " + ", ".join(sorted(keys))
        )
