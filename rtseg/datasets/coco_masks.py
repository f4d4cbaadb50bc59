"""COCO's outlines as index masks: polygons and run lengths, through pycocotools."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as runs

from rtseg.datasets.contract import Table
from rtseg.datasets.files import fit_to_picture, picture_size
from rtseg.errors import DatasetError
from rtseg.frame import VOID, Mask

Runs = dict[str, Any]
"""pycocotools' compressed run lengths: {"size": [h, w], "counts": bytes}."""


@dataclass(frozen=True)
class Outline:
    """One annotation: where something lies.

    Attributes:
        number: the annotation's id.
        class_index: of the dataset's labels; VOID for a crowd, of which nothing is scored.
        segmentation: as in the JSON: polygons, or run lengths, compressed or not.
    """

    number: Any
    class_index: int
    segmentation: Any


@dataclass(frozen=True)
class Outlines:
    """All that lies in one picture.

    Attributes:
        path: the JSON file.
        size: (height, width) that it gives; None where it gives none.
    """

    path: Path
    image_path: Path
    size: tuple[int, int] | None
    outlines: tuple[Outline, ...]

    def __call__(self) -> Mask:
        """(H, W) uint8: larger objects first, smaller over them; crowds (255) under all.

        Of objects of one size the later in the file lies on top.

        Raises:
            DatasetError: an outline cannot be read, or the picture has another size.
        """
        return self.through(np.arange(256, dtype=np.uint8))

    def through(self, table: Table) -> Mask:
        """The same in the classes of `table`; what becomes background is not painted at all."""
        height, width = self.size or picture_size(self.image_path)
        columns = np.full((width, height), table[0], np.uint8)  # as run lengths go
        shown = [outline for outline in self.outlines if table[outline.class_index] != table[0]]
        drawn = [(outline, self._runs(outline, height, width)) for outline in shown]
        drawn.sort(key=lambda pair: (pair[0].class_index != VOID, -int(runs.area(pair[1]))))
        for outline, lengths in drawn:
            np.copyto(columns, table[outline.class_index], where=_decoded(lengths))
        return fit_to_picture(
            np.ascontiguousarray(columns.T), f"the outlines of {self.path}", self.image_path
        )

    def _runs(self, outline: Outline, height: int, width: int) -> Runs:
        try:
            return run_lengths(outline.segmentation, height, width)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DatasetError(
                f"cannot use annotation {outline.number} of {self.path}", found=str(error)
            ) from error


def has_outline(segmentation: Any) -> bool:
    """Whether an annotation says more than a box: run lengths, or a polygon of 3 points."""
    if isinstance(segmentation, dict):
        return bool(segmentation.get("counts"))
    return isinstance(segmentation, list) and any(_is_polygon(part) for part in segmentation)


def run_lengths(segmentation: Any, height: int, width: int) -> Runs:
    """Polygons or run lengths of either kind as compressed run lengths of the whole picture.

    Raises:
        ValueError, TypeError, KeyError: it is none of them, or of another size.
    """
    if isinstance(segmentation, list):
        # Fewer points have no area; pycocotools would take two for a box.
        polygons = [part for part in segmentation if _is_polygon(part)]
        _refuse_far(polygons, height, width)
        merged: Runs = runs.merge(runs.frPyObjects(polygons, height, width))
        return merged
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"its run lengths are for {size} (HxW), its picture is {height}x{width}")
    lengths = counts if isinstance(counts, list) else _unpacked(counts)
    # pycocotools would leave the pixels that no run covers as memory happens to hold them
    if sum(lengths) != height * width or min(lengths) < 0:
        raise ValueError(f"its runs cover {sum(lengths)} pixels of {height * width}")
    packed: Runs = runs.frPyObjects({"size": size, "counts": lengths}, height, width)
    return packed


def _unpacked(text: str) -> list[int]:
    """Run lengths from COCO's characters: 5 bits in each, from the third run on differences.

    After rleFrString in maskApi.c of pycocotools.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue  # more of this number follows
        value -= (1 << shift) if bits & 0x10 else 0
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def _decoded(lengths: Runs) -> NDArray[np.bool_]:
    """(W, H) bool, transposed."""
    with warnings.catch_warnings():
        # pycocotools' own arrays are older than the copy keyword of numpy 2
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        decoded: NDArray[np.uint8] = runs.decode(lengths)
    return decoded.T.view(np.bool_)


def _refuse_far(polygons: list[Any], height: int, width: int) -> None:
    """Raise ValueError for points from which pycocotools would walk to the picture for ever."""
    far = 2 * max(height, width)
    for polygon in polygons:
        if not np.all(np.abs(np.asarray(polygon, float)) <= far):  # nor is nan
            raise ValueError(f"its points lie far outside of the picture ({height}x{width})")


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0
