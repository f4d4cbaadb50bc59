"""Which input a network gets for a picture: as live, with as few different sizes as that allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rtseg.backends import fit_size
from rtseg.zoo import ModelSpec

Size = tuple[int, int]
"""(height, width) in pixels."""

_WIDE = (9 / 8, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2, 5 / 2, 3, 4)
SHAPES = (*(1 / shape for shape in reversed(_WIDE)), 1.0, *_WIDE)
"""Width over height of the inputs of `auto`: what cameras and screens give, and shapes between."""

MULTIPLE = 16


@dataclass(frozen=True)
class InputPolicy:
    """How the input's size follows from the picture's.

    `auto` is what runs live: the network's own area in the picture's shape, except that the shape
    is the nearest of `SHAPES`, so that a set of any pictures needs at most 19 inputs. Pictures of
    4:3, 3:2 or 16:9 get exactly the input they get live; others are stretched by 6 % at most, by
    9 % between 3:2 and 2:1, and more only beyond. `exact` takes every shape as it is. `long` gives
    the longer side `side` pixels, the other in proportion, both in sixteenths. `fixed` squeezes
    every picture to `size`. A network that takes one size only gets that size, whatever is asked.
    """

    kind: Literal["auto", "exact", "long", "fixed"] = "auto"
    side: int = 0
    size: Size | None = None

    def size_for(self, spec: ModelSpec, height: int, width: int) -> Size:
        """(height, width) of the input for a picture of that height and width."""
        if spec.input.fixed:
            return spec.input.size
        if self.kind == "fixed" and self.size is not None:
            return self.size
        if self.kind == "long":
            scale = self.side / max(height, width)
            return _sixteenths(height * scale), _sixteenths(width * scale)
        if self.kind == "auto":
            width, height = round(_nearest_shape(width / height) * 10_000), 10_000
        return fit_size(spec, width, height)

    def describe(self, spec: ModelSpec) -> str:
        """What a network's input is, in words."""
        height, width = self.size or spec.input.size
        if spec.input.fixed:
            return f"{spec.input.size[0]}x{spec.input.size[1]} (HxW), the only size it takes"
        if self.kind == "fixed":
            return f"{height}x{width} (HxW) for every picture"
        if self.kind == "long":
            return f"the picture's shape, its long side {self.side}, in multiples of {MULTIPLE}"
        what = (
            "the picture's own shape" if self.kind == "exact" else "the usual shape nearest to it"
        )
        area = f"the area of {spec.input.size[0]}x{spec.input.size[1]}"
        live = "as live" if self.kind == "exact" else "as live for cameras"
        return f"{area} in {what}, {live}"


def _sixteenths(side: float) -> int:
    return max(2 * MULTIPLE, round(side / MULTIPLE) * MULTIPLE)


def _nearest_shape(shape: float) -> float:
    return min(SHAPES, key=lambda usual: abs(math.log(shape / usual)))
