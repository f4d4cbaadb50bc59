"""What the values in masks mean, where no standard says so: by a file of names, or by looking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rtseg.datasets.camvid import camvid_values, is_camvid
from rtseg.datasets.files import read_index_mask
from rtseg.datasets.names import NAME_FILES, Names, find_names, label_set
from rtseg.datasets.pairs import Values, identity, listed
from rtseg.errors import DatasetError
from rtseg.frame import VOID

MOST_MASKS_READ = 500
"""Without a file of names so many masks, evenly spaced, are read to see which values there are."""

FOREGROUND = "foreground"
"""What the one class of masks is called that only tell something from nothing."""


def values_of(folders: Iterable[Path], masks: Sequence[Path]) -> tuple[Values, tuple[str, ...]]:
    """The classes of index masks, and what to tell a person of how they were found.

    Names come from the first file of `NAME_FILES` in `folders`. Without one, values 0 and 1 (or 0
    and 255) are background and foreground, and others background, class_1, class_2, ...

    Raises:
        DatasetError: the names cannot be read, or no mask can.
    """
    names = find_names(folders)
    return _unnamed(masks) if names is None else _named(names, masks)


def _named(names: Names, masks: Sequence[Path]) -> tuple[Values, tuple[str, ...]]:
    advice = f"Add its name to {names.path}; --classes ignore=NAME leaves a class out."
    if len(names.names) > 2 or names.colours or _present(masks[:20]) != {0, VOID}:
        return Values(names.labels, identity(names.labels), names.colours, advice), ()
    both = names.names if len(names.names) == 2 else ("background", *names.names)
    values = _binary(both, names.path, advice)
    return values, (f"masks hold 0 and 255: {both[0]} and {both[1]}",)


def _unnamed(masks: Sequence[Path]) -> tuple[Values, tuple[str, ...]]:
    step = max(1, -(-len(masks) // MOST_MASKS_READ))
    present = _present(masks[::step])
    if is_camvid(masks, present):
        return camvid_values(), ("classes are CamVid's 11, by the names of its frames",)
    where = masks[0].parent
    advice = f"Name the classes in {NAME_FILES[1]}, one per line, beside the folder of pictures."
    if present <= {0, VOID}:
        return _binary(("background", FOREGROUND), where, advice), (
            "masks hold 0 and 255: background and foreground",
        )
    top = max(1, *(value for value in present if value != VOID))
    others = [FOREGROUND] if top == 1 else [f"class_{value}" for value in range(1, top + 1)]
    labels = label_set(("background", *others), where)
    seen = f"{listed(sorted(present), 24)} in {len(masks[::step])} of {len(masks)} masks"
    said = f"no file of class names: classes are called after the values, {seen}"
    return Values(labels, identity(labels), None, advice), (said,)


def _binary(names: Sequence[str], where: Path, advice: str) -> Values:
    """Masks of 0 and 255 (or 1): nothing and something."""
    labels = label_set(names, where)
    table = identity(labels)
    table[VOID] = 1
    return Values(labels, table, None, advice)


def _present(masks: Sequence[Path]) -> set[int]:
    """All values in these masks; those that cannot be read are left to `checks.check`.

    Raises:
        DatasetError: none can be read.
    """
    counts = np.zeros(256, np.int64)
    failure: DatasetError | None = None
    for path in masks:
        try:
            counts += np.bincount(read_index_mask(path).ravel(), minlength=256)
        except DatasetError as error:
            failure = failure or error
    if failure and not counts.any():
        raise failure
    return {int(value) for value in np.flatnonzero(counts)}
