"""From pictures to segmentations, through any backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.clock import Clock
from rtseg.contracts import Backend, BackendInfo
from rtseg.flow import spread
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation
from rtseg.stats import Stats
from rtseg.zoo import ModelSpec

Pair = tuple[Frame, Segmentation]
"""A segmentation always travels with the frame it came from."""


def resized(image: Image, size: tuple[int, int]) -> Image:
    """The whole picture at `size` (height, width), stretched if its aspect is another.

    Each side is halved by means while it allows that, then bilinear: as free of aliasing as an
    area filter where it matters, in a fraction of its time (0.5 ms against 3 ms from 1280x720 to
    512x288).
    """
    height, width = size
    while (tall := image.shape[0] >= 2 * height) | (wide := image.shape[1] >= 2 * width):
        half = (image.shape[1] >> wide, image.shape[0] >> tall)
        # halving one side alone, bilinear is the same mean in a quarter of the time
        how = cv2.INTER_AREA if wide and tall else cv2.INTER_LINEAR
        image = cv2.resize(image, half, interpolation=how)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class Segmenter:
    """Segments one picture, or a stream of frames, with one network.

    Args:
        backend: the network, loaded and warm; closed with the segmenter.
        labels: names and colours, when others than the network's own are wanted.
        selected: classes to keep, by index; None keeps all.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        labels: LabelSet | None = None,
        selected: frozenset[int] | None = None,
    ) -> None:
        self.backend = backend
        self.labels = labels or backend.spec.labels
        self.selected = selected

    @property
    def spec(self) -> ModelSpec:
        """The network's identity, with the labels in use."""
        return replace(self.backend.spec, labels=self.labels)

    @property
    def info(self) -> BackendInfo:
        """What really runs."""
        return self.backend.info

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.backend.input_size

    def __call__(self, image: Image) -> Segmentation:
        """Segment one picture.

        Args:
            image: (H, W, 3) uint8 BGR.

        Raises:
            ValueError: the image has another shape or dtype.
            BackendError: the network failed.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is (H, W, 3) uint8 BGR, got {image.shape} {image.dtype}")
        return self._segmentation(self.backend(self._batch(image)), image)

    def stream(
        self, frames: Iterable[Frame], stats: Stats | None = None, *, ahead: bool = False
    ) -> Iterator[Pair]:
        """Segment frames in order and pair each with its result.

        Args:
            ahead: whether more frames lie ready, as those of a recording do: a backend that has
                several lanes then works on as many at once. Else one after the other, as they come.
        """
        stats = stats or Stats()
        lanes = self.backend.lanes if ahead else 1
        timed = partial(self._timed, clock=stats.clock)
        results = spread(frames, timed, lanes) if lanes > 1 else map(timed, frames)
        for pair, preprocess, infer in results:
            stats.add("preprocess", preprocess)
            stats.add("infer", infer)
            yield pair

    def _timed(self, frame: Frame, clock: Clock) -> tuple[Pair, float, float]:
        """A frame with its segmentation, and the seconds of both stages."""
        start = clock.now()
        batch = self._batch(frame.image)
        ready = clock.now()
        scores = self.backend(batch)
        end = clock.now()
        return (frame, self._segmentation(scores, frame.image)), ready - start, end - ready

    def close(self) -> None:
        """Free the network's device."""
        self.backend.close()

    def _batch(self, image: Image) -> NDArray[np.uint8]:
        """(1, h, w, 3) uint8 RGB at the network's size: shrunk first, then its colours turned."""
        return cv2.cvtColor(resized(image, self.input_size), cv2.COLOR_BGR2RGB)[np.newaxis]

    def _segmentation(self, scores: NDArray[np.float32], image: Image) -> Segmentation:
        spec = self.backend.spec
        return Segmentation(
            scores[0],
            self.labels,
            (image.shape[0], image.shape[1]),
            kind=spec.output,
            selected=self.selected,
            align_corners=spec.align_corners,
        )

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
