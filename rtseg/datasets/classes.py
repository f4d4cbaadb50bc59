"""Finding the target of every class of a dataset and of a network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rtseg.datasets.entries import IGNORE, Entries
from rtseg.datasets.names import canonical, is_background
from rtseg.datasets.values import FOREGROUND
from rtseg.errors import UsageError
from rtseg.labels import LabelSet

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
