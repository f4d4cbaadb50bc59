"""Finding the target of every class of a dataset and of a network."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.folders import FOREGROUND
from rtseg.datasets.names import canonical, is_background
from rtseg.errors import UsageError
from rtseg.frame import VOID
from rtseg.labels import Colour, LabelSet
from rtseg.text import listed

IGNORE = "ignore"
STAR = "*"


@dataclass(frozen=True)
class Entries:
    """What was asked for.

    Attributes:
        targets: the classes to score or train, in the order in which they were named.
        named: class, in canonical spelling -> its target, or IGNORE.
        star: the target of `*`, if any.
    """

    targets: tuple[str, ...]
    named: dict[str, str]
    star: str | None

    def assign(self, labels: LabelSet) -> list[str | None]:
        """The target of each class: as named, else the one that is called like it."""
        own = {canonical(target): target for target in self.targets}
        names = [canonical(name) for name in labels.names]
        assigned = [self.named.get(name, own.get(name)) for name in names]
        if labels.background is not None and assigned[labels.background] is None:
            assigned[labels.background] = next(filter(is_background, self.targets), None)
        return assigned


def parse_entries(entries: Sequence[str], dataset: LabelSet, network: LabelSet | None) -> Entries:
    """Read entries whose names are classes of either side.

    Raises:
        UsageError: an entry has no target or no name, a name is of no class, or has two targets.
    """
    targets: dict[str, str] = {}
    named: dict[str, str] = {}
    known = {canonical(name) for side in (dataset, network) if side for name in side.names}
    for target, name in _split(entries):
        first = IGNORE if target == IGNORE else targets.setdefault(canonical(target), target)
        word = STAR if name == STAR else canonical(name)
        if word != STAR and word not in known:
            raise _unknown(name, dataset, network)
        if named.setdefault(word, first) != first:
            raise UsageError(f"--classes put {name!r} in both {named[word]} and {first}")
    star = named.pop(STAR, None)
    return Entries(tuple(targets.values()), named, star)


def _split(entries: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(target, name) of each name; one without `=` is its own target."""
    for entry in entries:
        target, equals, names = entry.partition("=")
        words = [name.strip() for name in (names if equals else target).split(",")]
        target = target.strip()
        if not target or not all(words) or (equals and "," in target):
            raise UsageError(
                f"cannot read --classes {entry!r}",
                do='Write "TARGET=NAME,NAME": a class, and what it is called on either side.',
            )
        for word in words:
            into = target if equals else word
            yield (IGNORE if canonical(into) == IGNORE else into), word


def _unknown(name: str, dataset: LabelSet, network: LabelSet | None) -> UsageError:
    every = list(dict.fromkeys([*dataset.names, *(network.names if network else ())]))
    spelled = {canonical(known): known for known in every}
    near = [spelled[word] for word in difflib.get_close_matches(canonical(name), spelled, 3, 0.6)]
    found = "the dataset has " + ", ".join(dataset.names)
    if network:
        found += "; the network has " + ", ".join(network.names)
    meant = f"Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"--classes names {name!r}, which neither side has", found=found, do=meant)


BACKGROUND = "background"

NAMELESS = frozenset({canonical(FOREGROUND), "object", "objects", "mask", "fg", "class1"})
"""Names, folded, of the one class of a set that only tells something from nothing."""


@dataclass
class Side:
    """A dataset or a network.

    Attributes:
        word: "dataset" or "network".
        targets: the target of each class, by index; None where none was found.
    """

    word: str
    labels: LabelSet
    targets: list[str | None]

    @property
    def things(self) -> list[int]:
        """Its classes but the background."""
        return [index for index in range(len(self.labels)) if index != self.labels.background]

    def fill(self, star: str) -> None:
        """Give what has no target this one; the background stays without."""
        for index in self.things:
            self.targets[index] = self.targets[index] or star

    def leave_out(self, ignored: Collection[str]) -> None:
        """Ignore the classes so called, in folded spelling."""
        for index, name in enumerate(self.labels.names):
            if canonical(name) in ignored:
                self.targets[index] = IGNORE


@dataclass(frozen=True)
class Match:
    """The scored classes, background first, and what became them; the dataset is the first side."""

    targets: list[str]
    sides: tuple[Side, ...]
    said: tuple[str, ...] = ()


def by_name(dataset: LabelSet, network: LabelSet, ignored: Collection[str] = frozenset()) -> Match:
    """The classes that both know, by the network's names, but those whose folded name is ignored.

    Raises:
        UsageError: there is none.
    """
    ours = Side("dataset", dataset, [None] * len(dataset))
    theirs = Side("network", network, [None] * len(network))
    said: tuple[str, ...] = ()
    _pair_up(ours, theirs)
    for side in (ours, theirs):
        side.leave_out(ignored)
    if not any(ours.targets) and _is_the_same_by_another_name(ours, theirs):
        ours.targets[ours.things[0]] = theirs.targets[theirs.things[0]] = _thing(theirs)
        said = (f"the dataset's only class, {_thing(ours)}, counts as {_thing(theirs)}",)
    targets = list(dict.fromkeys(target for target in ours.targets if target not in (None, IGNORE)))
    if not targets:
        raise _nothing_common(ours, theirs)
    sides = (ours, theirs)
    return Match([*_background(sides, targets), *targets], sides, said)


def by_entries(dataset: LabelSet, network: LabelSet | None, entries: Entries) -> Match:
    """The targets that entries name.

    Raises:
        UsageError: one side has no class for a target, or there is but one class to tell.
    """
    if not entries.targets and entries.star is None:
        return _all_but(dataset, network, entries.named)
    sides = [Side("dataset", dataset, entries.assign(dataset))]
    if network:
        sides.append(Side("network", network, entries.assign(network)))
    for side in sides:
        # The star is the dataset's, unless the network knows nothing else that would be the target.
        if entries.star and (side is sides[0] or entries.star not in (*side.targets, IGNORE)):
            side.fill(entries.star)
    targets = sorted(entries.targets, key=lambda target: not is_background(target))
    _all_know(sides, targets)
    if not any(map(is_background, targets)):
        targets = [*_background(sides, targets), *targets]
    if len(targets) < 2:
        raise UsageError(
            f"--classes name only {', '.join(targets) or 'what to ignore'}",
            found="there is no background to tell it from",
            do='Add --classes "background=*".',
        )
    return Match(targets, tuple(sides))


def _all_but(dataset: LabelSet, network: LabelSet | None, ignored: Collection[str]) -> Match:
    """As without entries, where these only say what to ignore."""
    if network is not None:
        return by_name(dataset, network, ignored)
    side = Side("dataset", dataset, list(dataset.names))
    side.leave_out(ignored)
    targets = [target for target in side.targets if target not in (None, IGNORE)]
    if len(targets) < 2:
        raise UsageError(
            f"--classes leave only {', '.join(targets) or 'nothing'}",
            found="the dataset has " + ", ".join(dataset.names),
            do="Ignore fewer of them: a network tells two classes apart at least.",
        )
    return Match(targets, (side,))


def _pair_up(ours: Side, theirs: Side) -> None:
    """Give the classes that both sides know the network's name."""
    names = {
        canonical(theirs.labels.names[index]): theirs.labels.names[index] for index in theirs.things
    }
    known = {canonical(ours.labels.names[index]) for index in ours.things}
    for side in (ours, theirs):
        for index in side.things:
            name = canonical(side.labels.names[index])
            side.targets[index] = names[name] if name in names and name in known else None


def _thing(side: Side) -> str:
    return side.labels.names[side.things[0]]


def _is_the_same_by_another_name(ours: Side, theirs: Side) -> bool:
    """Both sides have one class, and one of the two has no telling name."""
    both_one = len(ours.things) == len(theirs.things) == 1
    return both_one and any(canonical(_thing(side)) in NAMELESS for side in (ours, theirs))


def _background(sides: Sequence[Side], targets: Sequence[str]) -> list[str]:
    """Background is scored where both sides have one, or where one class would stand alone."""
    have = [side.labels.background is not None for side in sides]
    return [BACKGROUND] if all(have) or (any(have) and len(targets) == 1) else []


def _all_know(sides: Sequence[Side], targets: Sequence[str]) -> None:
    """Raise UsageError for a target that one side has no class for: its score would be empty."""
    for side in sides:
        for target in targets:
            if target not in side.targets and not is_background(target):
                raise UsageError(
                    f"no class of the {side.word} is {target}",
                    found="it has " + ", ".join(side.labels.names),
                    do=f"Name the one that is meant: {target}=NAME.",
                )


def _nothing_common(ours: Side, theirs: Side) -> UsageError:
    target = "person" if "person" in theirs.labels.names else _thing(theirs)
    name = _thing(ours) if len(ours.things) == 1 else "*"
    return UsageError(
        "the dataset and the network have no class in common",
        found=f"the dataset has {', '.join(ours.labels.names)}; the network has "
        + ", ".join(theirs.labels.names),
        do=f'Say which is which: --classes "TARGET=NAME,NAME", as --classes "{target}={name}".',
    )


Table = NDArray[np.uint8]
"""(256,) uint8: index of one side -> index of the scored classes, or 255."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes that are scored or trained, and how each side's classes become them.

    Attributes:
        labels: the classes that are scored or trained.
        from_dataset: (256,) uint8, values of the dataset's masks -> `labels`; 255 is not scored.
        from_network: (256,) uint8, classes of the network -> `labels`; 255 is a class that is not
            scored, whose prediction is wrong wherever the truth is scored. None for training.
        said: what was assumed, in words.
    """

    labels: LabelSet
    from_dataset: Table
    from_network: Table | None
    said: tuple[str, ...] = ()
    _sides: tuple[Side, ...] = field(default=(), repr=False)

    @classmethod
    def between(
        cls, dataset: LabelSet, network: LabelSet | None, entries: Sequence[str] = ()
    ) -> ClassMap:
        """Match by name, or as `entries` say ("person=foreground"); None is for training.

        Raises:
            UsageError: an entry makes no sense or names an unknown class, or the two sides have
                nothing but a background in common.
        """
        if entries:
            parsed = parse_entries(entries, dataset, network)
            return _mapped(by_entries(dataset, network, parsed))
        if network is None:
            itself = Side("dataset", dataset, list(dataset.names))
            return cls(dataset, _table(dataset.names, itself.targets, None), None, (), (itself,))
        return _mapped(by_name(dataset, network))

    def describe(self) -> tuple[str, ...]:
        """What became what, line by line, for a person; what was assumed comes last."""
        lines = [
            f"{name}: {self._came_from(index)}" for index, name in enumerate(self.labels.names)
        ]
        rest = self._came_from(VOID)
        return (*lines, *([f"not scored: {rest}"] if rest else []), *self.said)

    def _came_from(self, index: int) -> str:
        """The classes of both sides that become `index`, in words."""
        words = []
        for side, table in zip(self._sides, (self.from_dataset, self.from_network), strict=False):
            assert table is not None, "there is a table for every side"
            names = [name for i, name in enumerate(side.labels.names) if table[i] == index]
            if names or index != VOID:
                words.append(f"{side.word} {listed(names, 8) or '-'}")
        return "; ".join(words)


def _mapped(match: Match) -> ClassMap:
    """The map, once every class of both sides has its target or none."""
    targets = match.targets
    background = next((i for i, target in enumerate(targets) if is_background(target)), None)
    colours = tuple(_colour(target, match.sides) for target in targets)
    dataset, *network = match.sides
    return ClassMap(
        LabelSet(tuple(targets), colours, background),
        _table(targets, dataset.targets, background),
        _table(targets, _predicted(network[0]), background) if network else None,
        match.said,
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
    """Truth is ignored, a prediction never: one of an ignored class counts like any unscored."""
    return [None if target == IGNORE else target for target in side.targets]


def _colour(target: str, sides: Sequence[Side]) -> Colour:
    """The network's own, else the dataset's, else black."""
    for side in reversed(sides):
        if target in side.targets:
            return side.labels.colours[side.targets.index(target)]
    return (0, 0, 0)
