"""Names and colours of classes. Colours are RGB here, as tables and colour files write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import UsageError
from rtseg.frame import VOID

Colour = tuple[int, int, int]
"""(red, green, blue), 0 to 255."""

VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()


@dataclass(frozen=True)
class LabelSet:
    """The classes of a network: index i is called `names[i]` and drawn in `colours[i]`.

    Attributes:
        names: one per class, in the network's order.
        colours: RGB, as many as names.
        background: index of the class that means "nothing", or None where there is none.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    background: int | None = 0

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours):
            raise ValueError(f"{len(self.names)} names but {len(self.colours)} colours")
        if not 2 <= len(self.names) <= VOID:
            raise ValueError(f"a label set has 2 to {VOID} classes, got {len(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name_or_id: str | int) -> int:
        """The class called `name_or_id`, or numbered so.

        Raises:
            UsageError: there is no such class.
        """
        text = str(name_or_id).strip()
        folded = [name.casefold() for name in self.names]
        if text.casefold() in folded:
            return folded.index(text.casefold())
        if text.isdecimal() and int(text) < len(self):
            return int(text)
        raise UsageError(
            f"unknown class {text!r}", found="this network has " + ", ".join(self.names)
        )

    def select(self, classes: Iterable[str | int]) -> frozenset[int]:
        """Indices of the named classes; raises UsageError for one that is not here."""
        return frozenset(self.index(name) for name in classes)

    def sought(self, selected: frozenset[int] | None) -> frozenset[int]:
        """The classes looked for: those selected, else all; never the background."""
        wanted = frozenset(range(len(self))) if selected is None else selected
        return wanted - {self.background}

    def listed(self, classes: Iterable[int], most: int = 6) -> str:
        """Names in the network's order, those beyond `most` counted: "cat, dog and 3 more"."""
        names = [self.names[index] for index in sorted(classes)]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    def kept(self, selected: frozenset[int] | None) -> NDArray[np.uint8]:
        """(256,) uint8: each class itself, or background (else VOID) when it is not selected."""
        table = np.arange(256, dtype=np.uint8)
        if selected is not None:
            nothing = VOID if self.background is None else self.background
            for index in range(len(self)):
                if index not in selected:
                    table[index] = nothing
        return table

    def recoloured(self, colours: Sequence[Colour]) -> LabelSet:
        """The same classes in other colours; `colours` may be longer than needed, not shorter."""
        if len(colours) < len(self):
            raise UsageError(
                f"a palette for {len(self)} classes", found=f"it has {len(colours)} colours"
            )
        return replace(self, colours=tuple(colours[: len(self)]))


def voc_colours(count: int = 256) -> tuple[Colour, ...]:
    """The colour map of Pascal VOC: the bits of the index, dealt to red, green and blue."""

    def channel(index: int, offset: int) -> int:
        return sum(((index >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(count))


VOC = LabelSet(tuple(VOC_NAMES), voc_colours(21))
PERSON = LabelSet(("background", "person"), ((0, 0, 0), (0, 200, 120)))
