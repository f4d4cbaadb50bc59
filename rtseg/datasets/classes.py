"""Names of classes, and which class of a dataset is which class of a model."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from rtseg.datasets.contract import Table
from rtseg.documents import parse_json
from rtseg.errors import DatasetError, UsageError
from rtseg.labels import VOID, Colour, LabelSet, fold, is_background, random_colours
from rtseg.text import listed, read_text

NAME_FILES = (
    "labelmap.txt label_map.txt classes.json classes.txt labels.json labels.txt names.txt "
    "class_dict.csv class_names.txt"
).split()
"""Files that may hold class names, in the order in which they are tried."""

SYNONYMS = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}
"""Pascal VOC's name, folded -> COCO's for the same class (as in torchvision's references)."""

BACKGROUND = "background"
FOREGROUND = "foreground"
"""The name given to the only class of binary masks."""

GENERIC_NAMES = frozenset({FOREGROUND, "object", "objects", "mask", "fg", "class1"})
"""Names, folded, of the only class of a dataset that separates foreground from background."""

IGNORE = "ignore"
STAR = "*"


def canonical(name: str) -> str:
    """One spelling for all names of a class."""
    return SYNONYMS.get(fold(name), fold(name))


@dataclass(frozen=True)
class Names:
    """Class names in the order of their indices.

    Attributes:
        colours: RGB of each class in full-colour masks, where the file gives them.
        path: the file they come from.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    path: Path

    @property
    def labels(self) -> LabelSet:
        """The names as labels, in the file's colours or else in distinct ones."""
        return label_set(self.names, self.path, colours=self.colours)


def label_set(
    names: Sequence[str],
    where: Path,
    *,
    colours: Sequence[Colour] | None = None,
) -> LabelSet:
    """Labels with these names; the first that `is_background` names is the background.

    Raises:
        DatasetError: there are fewer than 2 or more than 255 names, or two are equal.
    """
    if not 2 <= len(names) <= VOID:
        raise DatasetError(
            f"cannot use the classes of {where}",
            found=f"there are {len(names)}",
            do=f"An 8-bit mask holds 2 to {VOID} classes.",
        )
    folded = [fold(name) for name in names]
    twice = sorted({name for name in names if folded.count(fold(name)) > 1})
    if twice:
        raise DatasetError(
            f"cannot use the classes of {where}",
            found="named twice: " + listed([name[:40] for name in twice], 9),
        )
    background = next((i for i, name in enumerate(names) if is_background(name)), None)
    colours = tuple(colours or _distinct_colours(len(names), background))
    try:
        return LabelSet(tuple(names), colours, background)
    except ValueError as error:
        raise DatasetError(f"cannot use the classes of {where}", found=str(error)) from error


def _distinct_colours(count: int, background: int | None) -> list[Colour]:
    """Distinct colours; the background is black."""
    black, *others = random_colours(0, count + 1)
    if background is not None:
        others.insert(background, black)
    return others[:count]


def find_names(folders: Iterable[Path]) -> Names | None:
    """The names in the first file of `NAME_FILES` in these folders, or None.

    Raises:
        DatasetError: the file cannot be read.
    """
    files = [file for file in map(name_file, folders) if file]
    return read_names(files[0]) if files else None


def name_file(folder: Path) -> Path | None:
    """The first file of `NAME_FILES` in a folder, or None."""
    return next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)


_WRITE_NAMES = "Write a JSON list of names, or one name per line, in the order of the indices."


class _Named(Struct):
    name: str


_List = list[str | int | float | _Named]
_NamesFile: Any = _List | dict[str, str | int | _List | dict[str, str | int]]


def read_names(path: Path) -> Names:
    """Read names from a JSON list or dict, a CSV of name,r,g,b, CVAT's labelmap, or lines.

    Raises:
        DatasetError: the file cannot be read, or holds no names.
    """
    try:
        text = read_text(path)
        if path.suffix == ".json":
            value = parse_json(text, _NamesFile, str(path), DatasetError, do=_WRITE_NAMES)
            return Names(_json_names(value), None, path)
        lines = [line.strip() for line in text.splitlines()]
        return _line_names([line for line in lines if line and not line.startswith("#")], path)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DatasetError(
            f"cannot read the class names in {path}",
            found=str(error),
            do=_WRITE_NAMES,
        ) from error


def _json_names(value: Any) -> tuple[str, ...]:
    """From a list; {"names": [...]}; {"0": "sky", ...} or {"sky": 0, ...}."""
    if isinstance(value, list):
        return tuple(
            (entry.name if isinstance(entry, _Named) else str(entry)).strip() for entry in value
        )
    for key in ("names", "classes", "labels"):
        if isinstance(inner := value.get(key), (list, dict)):
            return _json_names(inner)
    pairs = [
        (int(key), name) if isinstance(name, str) else (int(name), key)
        for key, name in value.items()
    ]
    return _in_order(pairs)


def _in_order(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    ordered = sorted(pairs)
    if [index for index, _ in ordered] != list(range(len(ordered))):
        raise ValueError("the class indices do not count from 0 on without a gap")
    return tuple(name for _, name in ordered)


def _line_names(lines: list[str], path: Path) -> Names:
    rows = [next(csv.reader([line], skipinitialspace=True)) for line in lines]
    if path.suffix == ".csv":
        if rows and not all(part.strip().isdecimal() for part in rows[0][1:4]):
            del rows[0]  # a heading
        found = [(row[0], _parse_colour(row[1:4])) for row in rows]
    elif path.stem.replace("_", "") == "labelmap" and all(":" in line for line in lines):
        # CVAT: name:r,g,b:parts:actions
        parts = [line.split(":") for line in lines]
        found = [(part[0], _parse_colour(part[1].split(","))) for part in parts]
    else:
        return Names(_plain_names(lines), None, path)
    return Names(tuple(name for name, _ in found), tuple(colour for _, colour in found), path)


def _plain_names(lines: list[str]) -> tuple[str, ...]:
    """One name per line; leading numbers that count the lines are dropped."""
    numbered = [re.fullmatch(r"(\d{1,9})\s*[:,\s]\s*(\S.*)", line) for line in lines]
    if all(numbered):
        return _in_order((int(match[1]), match[2].strip()) for match in numbered if match)
    return tuple(lines)


def _parse_colour(parts: Sequence[str]) -> Colour:
    r, g, b = (int(part) for part in parts)
    if not all(0 <= part <= 255 for part in (r, g, b)):
        raise ValueError(f"{r},{g},{b} is not a colour")
    return r, g, b


@dataclass(frozen=True)
class Side:
    """A dataset or a model, and the target of each of its classes.

    Attributes:
        role: "dataset" or "model".
        targets: the target of each class, by index; None where there is none. Changed in place.
    """

    role: str
    labels: LabelSet
    targets: list[str | None]

    @property
    def foreground(self) -> list[int]:
        """All classes but the background."""
        return [index for index in range(len(self.labels)) if index != self.labels.background]

    def fill(self, star: str) -> None:
        """Give this target to every class without one, except the background."""
        for index in self.foreground:
            self.targets[index] = self.targets[index] or star

    def ignore(self, names: Collection[str]) -> None:
        """Ignore the classes with these canonical names."""
        for index, name in enumerate(self.labels.names):
            if canonical(name) in names:
                self.targets[index] = IGNORE


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes that are scored or trained, and how each side's classes become them.

    Attributes:
        labels: the classes that are scored or trained.
        from_dataset: (256,) uint8, values of the dataset's masks -> `labels`; 255 is not scored.
        from_network: (256,) uint8, classes of the model -> `labels`; 255 is a class that is not
            scored, whose prediction is wrong wherever the truth is scored. None for training.
        assumptions: what was assumed, as sentences for the user.
    """

    labels: LabelSet
    from_dataset: Table
    from_network: Table | None
    assumptions: tuple[str, ...] = ()
    _sides: tuple[Side, ...] = field(default=(), repr=False)

    @classmethod
    def between(
        cls, dataset: LabelSet, network: LabelSet | None, entries: Sequence[str] = ()
    ) -> ClassMap:
        """Match classes by name, or by `entries` such as "person=foreground".

        Args:
            network: None for training.

        Raises:
            UsageError: an entry makes no sense or names an unknown class, or the two sides have
                only a background in common.
        """
        if entries:
            return _class_map(_by_entries(dataset, network, _parse(entries, dataset, network)))
        if network is None:
            itself = Side("dataset", dataset, list(dataset.names))
            return cls(dataset, _table(dataset.names, itself.targets, None), None, (), (itself,))
        return _class_map(_by_name(dataset, network))

    def describe(self) -> tuple[str, ...]:
        """One line per class, and the assumptions last."""
        lines = [f"{name}: {self._sources(index)}" for index, name in enumerate(self.labels.names)]
        rest = self._sources(VOID)
        return (*lines, *([f"not scored: {rest}"] if rest else []), *self.assumptions)

    def _sources(self, index: int) -> str:
        """The classes of both sides that become `index`."""
        parts = []
        for side, table in zip(self._sides, (self.from_dataset, self.from_network), strict=False):
            assert table is not None, "there is a table for every side"
            names = [name for i, name in enumerate(side.labels.names) if table[i] == index]
            if names or index != VOID:
                parts.append(f"{side.role} {listed(names, 8) or '-'}")
        return "; ".join(parts)


@dataclass(frozen=True)
class _Match:
    """The scored classes, background first, and the sides that they come from, dataset first."""

    targets: list[str]
    sides: tuple[Side, ...]
    assumptions: tuple[str, ...] = ()


def _class_map(match: _Match) -> ClassMap:
    targets = match.targets
    background = next((i for i, target in enumerate(targets) if is_background(target)), None)
    colours = tuple(_colour_of(target, match.sides) for target in targets)
    dataset, *network = match.sides
    return ClassMap(
        LabelSet(tuple(targets), colours, background),
        _table(targets, dataset.targets, background),
        _table(targets, _predicted(network[0]), background) if network else None,
        match.assumptions,
        match.sides,
    )


def _table(targets: Sequence[str], assigned: Sequence[str | None], background: int | None) -> Table:
    table = np.full(256, VOID, np.uint8)
    for index, target in enumerate(assigned):
        if target in targets:
            table[index] = targets.index(target)
        elif target != IGNORE and background is not None:
            table[index] = background
    return table


def _predicted(side: Side) -> list[str | None]:
    """Truth can be ignored, a prediction cannot: an ignored class counts as not scored."""
    return [None if target == IGNORE else target for target in side.targets]


def _colour_of(target: str, sides: Sequence[Side]) -> Colour:
    """The model's colour, else the dataset's, else black."""
    for side in reversed(sides):
        if target in side.targets:
            return side.labels.colours[side.targets.index(target)]
    return (0, 0, 0)


def _by_name(
    dataset: LabelSet, network: LabelSet, ignored: Collection[str] = frozenset()
) -> _Match:
    """The classes that both sides have, under the model's names, without the ignored ones.

    Raises:
        UsageError: there is none.
    """
    ours = Side("dataset", dataset, [None] * len(dataset))
    theirs = Side("model", network, [None] * len(network))
    assumptions: tuple[str, ...] = ()
    _pair_up(ours, theirs)
    for side in (ours, theirs):
        side.ignore(ignored)
    if not any(ours.targets) and _have_one_generic_class(ours, theirs):
        name = _only_class(theirs)
        ours.targets[ours.foreground[0]] = theirs.targets[theirs.foreground[0]] = name
        assumptions = (f"the dataset's only class, {_only_class(ours)}, counts as {name}",)
    targets = list(dict.fromkeys(target for target in ours.targets if target not in (None, IGNORE)))
    if not targets:
        raise _nothing_in_common(ours, theirs)
    sides = (ours, theirs)
    return _Match([*_background(sides, targets), *targets], sides, assumptions)


def _pair_up(ours: Side, theirs: Side) -> None:
    """Give the classes that both sides have the model's name."""
    names = {canonical(theirs.labels.names[i]): theirs.labels.names[i] for i in theirs.foreground}
    known = {canonical(ours.labels.names[i]) for i in ours.foreground}
    for side in (ours, theirs):
        for index in side.foreground:
            name = canonical(side.labels.names[index])
            side.targets[index] = names[name] if name in names and name in known else None


def _only_class(side: Side) -> str:
    return side.labels.names[side.foreground[0]]


def _have_one_generic_class(ours: Side, theirs: Side) -> bool:
    """Whether both sides have one class, and one of the two has a generic name."""
    both_one = len(ours.foreground) == len(theirs.foreground) == 1
    return both_one and any(
        canonical(_only_class(side)) in GENERIC_NAMES for side in (ours, theirs)
    )


def _background(sides: Sequence[Side], targets: Sequence[str]) -> list[str]:
    """The background is scored where both sides have one, or beside a single class."""
    have = [side.labels.background is not None for side in sides]
    return [BACKGROUND] if all(have) or (any(have) and len(targets) == 1) else []


def _nothing_in_common(ours: Side, theirs: Side) -> UsageError:
    target = "person" if "person" in theirs.labels.names else _only_class(theirs)
    name = _only_class(ours) if len(ours.foreground) == 1 else "*"
    return UsageError(
        "the dataset and the model have no class in common",
        found=f"the dataset has {', '.join(ours.labels.names)}; the model has "
        + ", ".join(theirs.labels.names),
        do=f'Map them with --classes "TARGET=NAME,NAME", for example "{target}={name}".',
    )


@dataclass(frozen=True)
class _Entries:
    """Parsed --classes entries.

    Attributes:
        targets: the classes to score or train, in the order given.
        named: canonical class name -> its target, or IGNORE.
        star: the target of `*`, if any.
    """

    targets: tuple[str, ...]
    named: dict[str, str]
    star: str | None

    def assign(self, labels: LabelSet) -> list[str | None]:
        """The target of each class: as named, else the target with its own name."""
        own = {canonical(target): target for target in self.targets}
        names = [canonical(name) for name in labels.names]
        assigned = [self.named.get(name, own.get(name)) for name in names]
        if labels.background is not None and assigned[labels.background] is None:
            assigned[labels.background] = next(filter(is_background, self.targets), None)
        return assigned


def _parse(entries: Sequence[str], dataset: LabelSet, network: LabelSet | None) -> _Entries:
    """Parse entries whose names are classes of either side.

    Raises:
        UsageError: an entry has no target or no name, or a name is unknown or has two targets.
    """
    targets: dict[str, str] = {}
    named: dict[str, str] = {}
    known = {canonical(name) for side in (dataset, network) if side for name in side.names}
    for target, name in _split_entries(entries):
        first = IGNORE if target == IGNORE else targets.setdefault(canonical(target), target)
        key = STAR if name == STAR else canonical(name)
        if key != STAR and key not in known:
            raise _unknown_class(name, dataset, network)
        if named.setdefault(key, first) != first:
            raise UsageError(f"--classes puts {name!r} in both {named[key]} and {first}")
    star = named.pop(STAR, None)
    return _Entries(tuple(targets.values()), named, star)


def _split_entries(entries: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(target, name) for each name; a name without `=` is its own target."""
    for entry in entries:
        target, equals, rest = entry.partition("=")
        names = [name.strip() for name in (rest if equals else target).split(",")]
        target = target.strip()
        if not target or not all(names) or (equals and "," in target):
            raise UsageError(
                f"cannot read --classes {entry!r}",
                do='Write "TARGET=NAME,NAME": a class, and its names in the dataset or the model.',
            )
        for name in names:
            into = target if equals else name
            yield (IGNORE if canonical(into) == IGNORE else into), name


def _unknown_class(name: str, dataset: LabelSet, network: LabelSet | None) -> UsageError:
    every = list(dict.fromkeys([*dataset.names, *(network.names if network else ())]))
    spelled = {canonical(known): known for known in every}
    near = [spelled[match] for match in difflib.get_close_matches(canonical(name), spelled, 3, 0.6)]
    found = "the dataset has " + ", ".join(dataset.names)
    if network:
        found += "; the model has " + ", ".join(network.names)
    meant = f"Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown class {name!r} in --classes", found=found, do=meant)


def _by_entries(dataset: LabelSet, network: LabelSet | None, entries: _Entries) -> _Match:
    """The targets that the entries name.

    Raises:
        UsageError: one side has no class for a target, or only one class is left.
    """
    if not entries.targets and entries.star is None:
        return _all_but(dataset, network, entries.named)
    sides = [Side("dataset", dataset, entries.assign(dataset))]
    if network:
        sides.append(Side("model", network, entries.assign(network)))
    for side in sides:
        # The star concerns the dataset, unless the model has no other class for its target.
        if entries.star and (side is sides[0] or entries.star not in (*side.targets, IGNORE)):
            side.fill(entries.star)
    targets = sorted(entries.targets, key=lambda target: not is_background(target))
    _check_targets(sides, targets)
    if not any(map(is_background, targets)):
        targets = [*_background(sides, targets), *targets]
    if len(targets) < 2:
        raise UsageError(
            f"--classes names only {', '.join(targets) or 'what to ignore'}",
            found="there is no background to separate it from",
            do='Add --classes "background=*".',
        )
    return _Match(targets, tuple(sides))


def _all_but(dataset: LabelSet, network: LabelSet | None, ignored: Collection[str]) -> _Match:
    """As without entries, but for the classes that these ignore."""
    if network is not None:
        return _by_name(dataset, network, ignored)
    side = Side("dataset", dataset, list(dataset.names))
    side.ignore(ignored)
    targets = [target for target in side.targets if target not in (None, IGNORE)]
    if len(targets) < 2:
        raise UsageError(
            f"--classes leaves only {', '.join(targets) or 'nothing'}",
            found="the dataset has " + ", ".join(dataset.names),
            do="Ignore fewer classes: a model separates at least two.",
        )
    return _Match(targets, (side,))


def _check_targets(sides: Sequence[Side], targets: Sequence[str]) -> None:
    """Raise UsageError for a target that one side has no class for: its score would be empty."""
    for side in sides:
        for target in targets:
            if target not in side.targets and not is_background(target):
                raise UsageError(
                    f"the {side.role} has no class for {target}",
                    found="it has " + ", ".join(side.labels.names),
                    do=f"Name the class you mean: {target}=NAME.",
                )
