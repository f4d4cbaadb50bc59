"""How near one network comes to another, on the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtseg.contracts import Backend
from rtseg.export.frames import Watch
from rtseg.frame import Image
from rtseg.segmenter import Segmenter


@dataclass(frozen=True)
class Parity:
    """What the comparison of two networks found.

    Attributes:
        frames: how many were compared.
        largest: difference of two scores, over all; infinite where one is not finite.
        mean: share of pixels with the same class, at frame size, mean over the frames.
        worst: the same, of the frame where it is least.
        worst_frame: which one that is, from 0.
    """

    frames: int
    largest: float
    mean: float
    worst: float
    worst_frame: int


class Reference:
    """What a network says of some frames; others are held against it.

    Args:
        backend: the network; it may be closed afterwards.
        images: (H, W, 3) uint8 BGR, each of any size.
    """

    def __init__(self, backend: Backend, images: Sequence[Image], watch: Watch) -> None:
        self._images = images
        self._expected = []
        segmenter = Segmenter(backend)
        for done, image in enumerate(images):
            watch(f"running {backend.info.name} {backend.info.precision}", done, len(images))
            self._expected.append(segmenter(image))

    @property
    def variety(self) -> float:
        """Share of pixels that are not of the commonest class; of nothing else, all agree."""
        counts = sum(np.bincount(one.mask.reshape(-1), minlength=256) for one in self._expected)
        return float(1 - np.max(counts) / np.sum(counts))

    def compare(self, backend: Backend, watch: Watch) -> Parity:
        """Run another network on the same frames.

        Raises:
            BackendError: it failed, or gives scores of another shape.
        """
        segmenter = Segmenter(backend)
        largest, agreements = 0.0, []
        for done, (image, expected) in enumerate(zip(self._images, self._expected, strict=True)):
            watch(
                f"comparing {backend.info.name} {backend.info.precision}", done, len(self._images)
            )
            found = segmenter(image)
            difference = float(np.abs(found.scores - expected.scores).max())
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
            agreements.append(float((found.mask == expected.mask).mean()))
        worst = int(np.argmin(agreements))
        mean = float(np.mean(agreements))
        return Parity(len(agreements), largest, mean, agreements[worst], worst)
