"""A network that is open at as many input sizes as the pictures ask for."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from rtseg.backends import open_backend
from rtseg.backends.base import fit_size
from rtseg.contracts import BackendInfo
from rtseg.frame import Image
from rtseg.segmentation import Segmentation
from rtseg.segmenter import Segmenter
from rtseg.zoo import Model, ModelSpec

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


KEPT_OPEN = 4
"""Input sizes open at once; pictures come sorted by size, so that few are opened twice."""


class Network:
    """Segments pictures of any size through the `Segmenter` that runs live.

    A backend has one input size for its life, and ONNX files of ours are exported per size (about
    a second each, kept in the cache): hence the policy, which asks for few sizes.

    Args:
        name: what the results call it.
        model: the network; a `Model` is only named, and opened when the first picture comes.
        policy: from a picture's size to the input's.
        backend: name of a backend, or "auto".
        refine: whether the edges of masks follow the picture's; the name then says so.
        options: of `BackendOptions`: device, precision, threads, strict.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        policy: InputPolicy | None = None,
        *,
        backend: str = "auto",
        refine: bool = False,
        **options: Any,
    ) -> None:
        self.name, self.model, self._refine = f"{name}, refined" if refine else name, model, refine
        self.policy = policy or InputPolicy()
        self.info: BackendInfo | None = None
        self._backend, self._options = backend, options
        self._open: OrderedDict[Size, Segmenter] = OrderedDict()

    def __call__(self, image: Image) -> Segmentation:
        """Segment one (H, W, 3) uint8 BGR picture.

        Raises:
            RtsegError: the network cannot be opened at this size, or failed.
        """
        return self.segmenter(self.input_size(image.shape[0], image.shape[1]))(image)

    def input_size(self, height: int, width: int) -> Size:
        """(height, width) of the input for a picture of that height and width."""
        return self.policy.size_for(self.model.spec, height, width)

    def segmenter(self, size: Size) -> Segmenter:
        """The segmenter whose input has that size, opened if it is not.

        Raises:
            RtsegError: as `open_backend`.
        """
        if size not in self._open:
            while len(self._open) >= KEPT_OPEN:
                self._open.popitem(last=False)[1].close()
            opened = open_backend(self._backend, self.model, input_size=size, **self._options)
            self.info = self.info or opened.info
            self._open[size] = Segmenter(opened, refine=self._refine)
        self._open.move_to_end(size)
        return self._open[size]

    def close(self) -> None:
        """Free the device; a later picture opens it again."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def in_words(inputs: Counter[Size]) -> str:
    """Input sizes and how many pictures had them: "320x432 (67), 304x464 (26) and 8 more"."""
    most = [f"{height}x{width} ({count})" for (height, width), count in inputs.most_common(3)]
    more = f" and {len(inputs) - len(most)} more" if len(inputs) > len(most) else ""
    return ", ".join(most) + more
