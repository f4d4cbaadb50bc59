"""From pictures to segmentations, through any backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Backend, BackendInfo
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.segmentation import Segmentation
from rtseg.stats import Stats
from rtseg.zoo import ModelSpec

Pair = tuple[Frame, Segmentation]
"""A segmentation always travels with the frame it came from."""


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

    def stream(self, frames: Iterable[Frame], stats: Stats | None = None) -> Iterator[Pair]:
        """Segment frames one after the other, as they come, and pair each with its result."""
        stats = stats or Stats()
        for frame in frames:
            with stats.stage("preprocess"):
                batch = self._batch(frame.image)
            with stats.stage("infer"):
                scores = self.backend(batch)
            yield frame, self._segmentation(scores, frame.image)

    def close(self) -> None:
        """Free the network's device."""
        self.backend.close()

    def _batch(self, image: Image) -> NDArray[np.uint8]:
        """(1, h, w, 3) uint8 RGB at the network's size: shrunk first, then its colours turned."""
        height, width = self.input_size
        shrinking = image.shape[0] > height and image.shape[1] > width
        method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        small = image
        if image.shape[:2] != (height, width):
            small = cv2.resize(image, (width, height), interpolation=method)
        return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)[np.newaxis]

    def _segmentation(self, scores: NDArray[np.float32], image: Image) -> Segmentation:
        size = (image.shape[0], image.shape[1])
        return Segmentation(
            scores[0], self.labels, size, kind=self.backend.spec.output, selected=self.selected
        )

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
