"""The size of a network's input, and batches of that size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rtseg.errors import BackendError, UsageError
from rtseg.zoo import ModelSpec

MULTIPLE = 16
"""The coarsest stride inside our networks: a multiple of it is divided without rounding."""

SMALLEST, LARGEST = 32, 8192
LONGEST = 4.0
"""The longest shape, as one side over the other."""


def input_size_of(spec: ModelSpec, asked: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of the input: what was asked for, else what the network was made for.

    Raises:
        UsageError: the network takes one other size only, or the size is absurd.
    """
    if asked is None or asked == spec.input.size:
        return spec.input.size
    height, width = asked
    if spec.input.fixed:
        own = f"{spec.input.size[0]}x{spec.input.size[1]}"
        raise UsageError(
            f"input size {height}x{width} for {spec.name}", found=f"it takes {own} and no other"
        )
    if not SMALLEST <= min(asked) <= max(asked) <= LARGEST:
        raise UsageError(
            f"input size {height}x{width}", found=f"each side is {SMALLEST} to {LARGEST} pixels"
        )
    return asked


def fit_size(spec: ModelSpec, frame_width: int, frame_height: int) -> tuple[int, int]:
    """(height, width) for frames of a size: their shape, at the network's own area or a bit less.

    Squeezing a wide frame into a square wastes accuracy on thin things; the frame's own shape
    costs no more. Both sides are multiples of 16, at least 32; among those that hold no more
    pixels than the network was made for, the one whose shape and area come nearest. Frames more
    than four times as long as wide are squeezed to that. A network of one fixed size keeps it.
    """
    if spec.input.fixed:
        return spec.input.size
    area = spec.input.size[0] * spec.input.size[1]
    shape = min(max(frame_width / frame_height, 1 / LONGEST), LONGEST)
    step = MULTIPLE
    # beyond this side the other one would be under its minimum
    sides = range(SMALLEST, area // SMALLEST + 1, step)

    def loss(size: tuple[int, int]) -> float:
        height, width = size
        distortion = abs(math.log(width / height / shape))
        return distortion + 0.25 * math.log(area / (height * width))

    sizes = [(h, w) for h in sides for w in _near(h * shape, area // h)]
    return min(sizes, key=loss, default=spec.input.size)


def check_batch(batch: NDArray[np.uint8], input_size: tuple[int, int]) -> None:
    """Raise BackendError for a batch that is not (N, h, w, 3), (h, w) being `input_size`."""
    if batch.ndim != 4 or batch.shape[1:] != (*input_size, 3):
        height, width = input_size
        raise BackendError(
            f"a batch of shape {batch.shape}", found=f"the network takes (N, {height}, {width}, 3)"
        )


def noise(input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """(1, h, w, 3) uint8 to warm up with; not black, which would not overflow half precision."""
    return np.random.default_rng(0).integers(0, 256, (1, *input_size, 3), np.uint8)


def _near(width: float, most: int) -> list[int]:
    """Multiples of 16 on both sides of `width`, from 32 to `most`."""
    most -= most % MULTIPLE
    down = int(width) // MULTIPLE * MULTIPLE
    clamped = {max(SMALLEST, min(side, most)) for side in (down, down + MULTIPLE)}
    return [side for side in sorted(clamped) if side <= most]
