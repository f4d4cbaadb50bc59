"""Which class of a dataset is which class of a network: by name, or as `--classes` says.

An entry is `TARGET=NAME,NAME,...`: the classes so called, of the dataset or of the network, become
TARGET. `*` is every class of the dataset that no entry names, but its background; where no class
of the network bears TARGET's name, nor one of its others, `*` is every such class of the network
too. The target `ignore` is 255: not scored, not trained; where entries say nothing else, all other
classes are as without entries. Names without `=` are their own targets.
A class that bears a target's name is that target unless an entry puts it elsewhere.

**Classes that only one side knows.** Where the scored classes have a background, they count as it.
Where they have none, the dataset's are ignored, and the network's stay predictions of no scored
class: wrong wherever the truth is scored.

Names are compared without case, blanks, `_` and `-`, and four of Pascal VOC's equal COCO's:
aeroplane is airplane, motorbike is motorcycle, sofa is couch, tvmonitor is tv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.classes import Match, Side, by_entries, by_name
from rtseg.datasets.entries import IGNORE, parse_entries
from rtseg.datasets.names import is_background
from rtseg.datasets.pairs import listed
from rtseg.frame import VOID
from rtseg.labels import Colour, LabelSet

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
