"""Pixels that change their class from one frame to the next for no reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtseg.frame import VOID, Image, Mask
from rtseg.metrics.figures import ratio

STILL_LEVELS = 8
"""Grey levels out of 255 by which a channel may change in a pixel that is said to stand still."""


@dataclass
class Flicker:
    """The share of pixels that change their class from one frame to the next for no reason.

    A reason is what `same_labels` or, without labels, `still_picture` rules out.

    Attributes:
        changed: pixels whose predicted class changed, of those that
        counted: had no reason to.
    """

    changed: int = 0
    counted: int = 0

    def update(self, before: Mask, after: Mask, quiet: NDArray[np.bool_]) -> None:
        """Count two consecutive frames.

        Args:
            before, after: (H, W) uint8 predicted classes.
            quiet: (H, W) bool, where there is no reason to change.
        """
        self.counted += int(quiet.sum())
        self.changed += int(((before != after) & quiet).sum())

    @property
    def share(self) -> float:
        """0 (steady) to 1; NaN when nothing was counted."""
        return float(ratio(self.changed, self.counted))


def same_labels(before: Mask, after: Mask) -> NDArray[np.bool_]:
    """(H, W) bool: where the truth of both frames is known and the same."""
    return (before == after) & (before != VOID)


def still_picture(before: Image, after: Image, levels: int = STILL_LEVELS) -> NDArray[np.bool_]:
    """(H, W) bool: where no channel of two (H, W, 3) uint8 pictures differs by more than `levels`.

    For clips without labels. It takes slow motion and flat surfaces in motion for stillness, so
    its flicker compares networks on one clip, and no clip with another.
    """
    return (np.maximum(before, after) - np.minimum(before, after)).max(2) <= levels
