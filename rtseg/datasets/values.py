"""What the values in masks mean, where no standard says so: by a file of names, or by looking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rtseg.datasets.camvid import camvid_values, is_camvid
from rtseg.datasets.files import is_coloured, read_index_mask
from rtseg.datasets.names import NAME_FILES, Names, find_names, label_set
from rtseg.datasets.pairs import Values, identity, listed
from rtseg.errors import DatasetError
from rtseg.frame import VOID
from rtseg.labels import Colour, voc_colours

MOST_MASKS_READ = 500
"""So many masks, evenly spaced, are read to see which values there are."""

Colours: TypeAlias = "tuple[Colour, ...] | None"
"""RGB by value, for masks in full colour."""

Found: TypeAlias = tuple[Values, tuple[str, ...]]
"""The classes, and what to tell a person of how they were found."""

FOREGROUND = "foreground"
"""What the one class of masks is called that only tell something from nothing."""


def values_of(folders: Iterable[Path], masks: Sequence[Path]) -> Found:
    """The classes of index masks, and what to tell a person of how they were found.

    Names come from the first file of `NAME_FILES` in `folders`. Without one, values 0 and 1 (or 0
    and 255) are background and foreground, and others background, class_1, class_2, ... Masks in
    full colour are in those of Pascal VOC, unless all of them are grey: then these are the values.

    Raises:
        DatasetError: the names cannot be read, or no mask can.
    """
    names = find_names(folders)
    if names is not None and names.colours:
        return Values(names.labels, identity(names.labels), names.colours, _advice(names)), ()
    # told for all masks at once: the grey of VOC's car is a class among colours, else a value
    coloured = any(map(is_coloured, _sampled(masks)))
    colours = tuple(voc_colours(VOID)) if coloured else None
    return _unnamed(masks, colours) if names is None else _named(names, masks, colours)


def _advice(names: Names) -> str:
    return f"Add its name to {names.path}; --classes ignore=NAME leaves a class out."


def _named(names: Names, masks: Sequence[Path], colours: Colours) -> Found:
    advice = _advice(names)
    if len(names.names) <= 2 and not colours:
        present, _ = _present(masks, None)
        if present <= {0, VOID}:
            both = names.names if len(names.names) == 2 else ("background", *names.names)
            return _binary(both, present, names.path, advice)
    return Values(names.labels, identity(names.labels), colours, advice), ()


def _unnamed(masks: Sequence[Path], colours: Colours) -> Found:
    present, count = _present(masks, colours)
    if is_camvid(masks, present):
        return camvid_values(), ("classes are CamVid's 11, by the names of its frames",)
    where = masks[0].parent
    advice = f"Name the classes in {NAME_FILES[1]}, one per line, beside the folder of pictures."
    if present <= {0, VOID} and not colours:
        return _binary(("background", FOREGROUND), present, where, advice)
    top = max([1, *(value for value in present if value != VOID)])
    others = [FOREGROUND] if top == 1 else [f"class_{value}" for value in range(1, top + 1)]
    labels = label_set(("background", *others), where)
    seen = f"{listed(sorted(present), 24)} in {count} of {len(masks)} masks"
    said = f"no file of class names: classes are called after the values, {seen}"
    return Values(labels, identity(labels), colours, advice), (said,)


def _binary(names: Sequence[str], present: set[int], where: Path, advice: str) -> Found:
    """Masks of 0 and 255 (or 1): nothing and something."""
    labels = label_set(names, where)
    table = identity(labels)
    table[VOID] = 1
    meaning = f"0 and 255: {names[0]} and {names[1]}" if VOID in present else f"only 0: {names[0]}"
    return Values(labels, table, None, advice), (f"masks hold {meaning}",)


def _sampled(masks: Sequence[Path]) -> Sequence[Path]:
    return masks[:: max(1, -(-len(masks) // MOST_MASKS_READ))]


def _present(masks: Sequence[Path], colours: Colours) -> tuple[set[int], int]:
    """The values in masks, and of how many: a sample, or all where that holds nothing but 0.

    Those that cannot be read are left to `checks.check`.

    Raises:
        DatasetError: none can be read.
    """
    sampled = _sampled(masks)
    counts = _counts(sampled, colours)
    if len(sampled) < len(masks) and not counts[1:].any():
        sampled, counts = masks, _counts(masks, colours)
    return {int(value) for value in np.flatnonzero(counts)}, len(sampled)


def _counts(masks: Sequence[Path], colours: Colours) -> NDArray[np.int64]:
    """(256,) int64: pixels of each value."""
    counts = np.zeros(256, np.int64)
    failure: DatasetError | None = None
    for path in masks:
        try:
            counts += np.bincount(read_index_mask(path, colours).ravel(), minlength=256)
        except DatasetError as error:
            failure = failure or error
    if failure and not counts.any():
        raise failure
    return counts
