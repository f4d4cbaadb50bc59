"""Which pictures of which dataset are measured, and under which names its classes go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rtseg.datasets import Dataset, Problem, Sample, named_samples, open_dataset
from rtseg.datasets.checks import check_masks
from rtseg.datasets.classes import ClassMap
from rtseg.datasets.folders import SPLITS
from rtseg.errors import DatasetError, UsageError, counted
from rtseg.images import IMAGE_SUFFIXES
from rtseg.text import listed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MEASURED_SPLITS = ("val", "test")
PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class SetSpec:
    """A set as a person asks for it.

    Attributes:
        path: of the dataset, as `open_dataset` takes it.
        name: what the results call it; "" is the path's last part.
        split: "" takes val, else test, else all that there is; "all" is all.
        classes: entries of `ClassMap.between`.
        min_share: classes and the share of the picture, 0 to 1, that each must cover in the truth.
        names: a text file with the names of the pictures to take, one a line.
        max_pictures: take so many, spread evenly over the set; 0 takes all.
    """

    path: Path
    name: str = ""
    format: str = "auto"
    split: str = ""
    classes: tuple[str, ...] = ()
    min_share: Mapping[str, float] = field(default_factory=dict)
    names: Path | None = None
    max_pictures: int = 0


@dataclass(frozen=True)
class LabelledSet:
    """A set that is open: its dataset is whole, and its pictures are named.

    Attributes:
        split: the one taken; "" when the dataset has none, or all were taken.
        samples: pictures of the split, and of the list if there is one; `pick` takes fewer.
    """

    name: str
    spec: SetSpec
    dataset: Dataset
    split: str
    samples: tuple[Sample, ...]

    def named(self, name: str) -> LabelledSet:
        """The same set under another name."""
        return replace(self, name=name)

    def describe(self) -> str:
        """The set in one line, for people."""
        split = f", {self.split}" if self.split else ""
        all_of_them = counted(len(self.dataset), "picture")
        of = "" if len(self.samples) == len(self.dataset) else f"{len(self.samples)} of "
        only = f", those in {self.spec.names.name}" if self.spec.names else ""
        return (
            f"{self.name}: {self.dataset.root} ({self.dataset.format}{split}), "
            f"{of}{all_of_them}{only}, {counted(len(self.dataset.labels), 'class', 'classes')}"
        )


def open_set(spec: SetSpec) -> LabelledSet:
    """Open a dataset and choose its pictures.

    Raises:
        DatasetError: it is no dataset, something in what was chosen is broken (all of it is named
            at once), or nothing is left to measure.
    """
    dataset = open_dataset(spec.path, format=spec.format)
    named = named_samples(dataset, spec.names) if spec.names else dataset.samples
    split = _split(spec, dataset, named)
    samples = tuple(sample for sample in named if split in ("", sample.split))
    stems = {sample.image_path.stem for sample in samples} if spec.names else None
    known = [problem for problem in dataset.problems if _touches(problem, split, stems)]
    problems = [*known, *check_masks(samples)]
    if problems:
        raise DatasetError(_told(spec.path, [str(problem) for problem in problems]))
    if not samples:
        raise DatasetError(f"{spec.path} has no pictures to measure")
    name = spec.name or spec.path.resolve().name
    return LabelledSet(name, spec, _with_rest_told(dataset), split, samples)


def _touches(problem: Problem, split: str, stems: set[str] | None) -> bool:
    """Whether a problem may be of the pictures that were chosen.

    Args:
        stems: of their files, where a list named them; None where all of the split are meant.
    """
    if split and problem.split not in ("", split):
        return False
    of_one_picture = problem.path.suffix.lower() in IMAGE_SUFFIXES
    return stems is None or not of_one_picture or problem.path.stem in stems


def _with_rest_told(dataset: Dataset) -> Dataset:
    """The dataset with a note of its problems, none of which is of what was chosen."""
    if not dataset.problems:
        return dataset
    others = listed([str(problem) for problem in dataset.problems], 1)
    return replace(dataset, notes=(*dataset.notes, f"wrong in what is not measured: {others}"))


def pick(
    chosen: LabelledSet, classes: ClassMap, stop: Callable[[], bool] = lambda: False
) -> tuple[Sample, ...]:
    """The pictures to measure: those with enough of each class asked for, thinned out if asked.

    Raises:
        UsageError: a class asked for is not one of `classes`.
        DatasetError: no picture is left, or a mask cannot be read.
    """
    shares = {classes.labels.index(name): s for name, s in chosen.spec.min_share.items()}
    samples: Sequence[Sample] = chosen.samples
    if shares:
        samples = [s for s in samples if not stop() and _covers(s, classes, shares)]
    if not samples and not stop():
        asked = " and ".join(f"{name} {s:.1%}" for name, s in chosen.spec.min_share.items())
        raise DatasetError(
            f"no picture of {chosen.name} is left",
            found=f"none of {len(chosen.samples)} has {asked} of its pixels",
        )
    return tuple(_spread(samples, chosen.spec.max_pictures or len(samples)))


def _covers(sample: Sample, classes: ClassMap, shares: Mapping[int, float]) -> bool:
    truth = sample.read_as(classes.from_dataset)
    return all(np.mean(truth == index) >= share for index, share in shares.items())


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of them at even distances, the first among them."""
    if count >= len(samples):
        return list(samples)
    return [samples[index * len(samples) // count] for index in range(count)]


def _split(spec: SetSpec, dataset: Dataset, named: Sequence[Sample]) -> str:
    """The split to take, "" for all; one of which there is nothing but problems is there too."""
    if spec.split == "all":
        return ""
    told = [] if spec.names else [problem.split for problem in dataset.problems]
    there_are = list(filter(None, dict.fromkeys([*(sample.split for sample in named), *told])))
    if not spec.split:
        return next((split for split in MEASURED_SPLITS if split in there_are), "")
    split = SPLITS.get(spec.split.casefold(), spec.split)
    if split not in there_are:
        there = "there are " + ", ".join(there_are) if there_are else "it has none"
        raise DatasetError(f"no split {spec.split!r} in {spec.path}", found=there)
    return split


def _told(where: Path, problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:PROBLEMS_SHOWN])
    more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
    plural = "" if len(problems) == 1 else "s"
    return f"{where} has {len(problems)} problem{plural}: {shown}{more}"


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
