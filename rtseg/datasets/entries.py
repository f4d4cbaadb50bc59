"""The entries of `--classes`: TARGET=NAME,NAME,..."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rtseg.datasets.names import canonical, is_background
from rtseg.errors import UsageError
from rtseg.labels import LabelSet

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
