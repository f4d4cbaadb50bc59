"""Where each source lies in the grid: cells of equal size, as large as the picture allows."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]
"""(height, width) in pixels."""

GAP = 4
"""Pixels between cells; even, as every measure here, since H.264 halves colours."""

SMALLEST = 32


class Layout(NamedTuple):
    """A grid in pixels.

    Attributes:
        size: (height, width) of the whole picture.
        cell: (height, width) of each cell.
        corners: (top, left) of the cells, one for each source.
    """

    size: Size
    cell: Size
    corners: tuple[tuple[int, int], ...]


def lay_out(sizes: Sequence[Size], bound: Size) -> Layout:
    """The grid for pictures of these sizes that shows them largest within `bound`.

    A cell has the mean shape of the pictures (geometric), and is no larger than the largest of
    them. Cells that are missing from the last row leave half their room on each side of it.

    Args:
        sizes: (height, width) of each source's picture, in square pixels.
        bound: (height, width) that the grid may have.
    """
    count = len(sizes)
    shape = float(np.exp(np.mean([np.log(width / height) for height, width in sizes])))
    largest = max(height * width for height, width in sizes)
    options = [(ceil(count / columns), columns) for columns in range(count, 0, -1)]
    # of those that are as large, the one with the fewest cells missing, then the widest
    rows, columns = max(options, key=lambda g: (_height(g, shape, bound), -g[0] * g[1], g[1]))
    height = min(_height((rows, columns), shape, bound), (largest / shape) ** 0.5)
    cell = _even(height), _even(height * shape)
    size = _span(rows, cell[0]), _span(columns, cell[1])
    places = (divmod(index, columns) for index in range(count))
    corners = (
        (row * (cell[0] + GAP), column * (cell[1] + GAP) + _indent(row, count, columns, cell[1]))
        for row, column in places
    )
    return Layout(size, cell, tuple(corners))


def fitted(size: Size, cell: Size, pixel_ratio: float = 1.0) -> Size:
    """(height, width) of a picture of `size` that fills a cell without being distorted.

    Args:
        pixel_ratio: width of a pixel of the picture over its height.
    """
    height, width = size[0], size[1] * pixel_ratio
    scale = min(cell[0] / height, cell[1] / width)
    return (
        min(cell[0], max(1, round(height * scale))),
        min(cell[1], max(1, round(width * scale))),
    )


def _height(grid: Size, shape: float, bound: Size) -> float:
    """How high the cells of a grid of (rows, columns) can be."""
    rows, columns = grid
    height = (bound[0] - GAP * (rows - 1)) / rows
    width = (bound[1] - GAP * (columns - 1)) / columns
    return round(min(height, width / shape), 6)


def _indent(row: int, count: int, columns: int, width: int) -> int:
    """Where the cells of a row begin: further in where it is not full."""
    missing = max(0, (row + 1) * columns - count)
    return missing * (width + GAP) // 2


def _span(count: int, side: int) -> int:
    return count * side + GAP * (count - 1)


def _even(side: float) -> int:
    return max(SMALLEST, int(side) // 2 * 2)
