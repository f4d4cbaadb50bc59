"""From images to segmentations, through any backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rtseg.backends.base import Closed
from rtseg.contracts import Backend, BackendInfo
from rtseg.errors import Closing
from rtseg.frame import Frame, HeldScores, Image, Picture, Segmentation
from rtseg.labels import LabelSet
from rtseg.matte.refine import Refined, warm_up
from rtseg.planes import small_rgb
from rtseg.stats import Clock
from rtseg.zoo import ModelSpec

Pair = tuple[Frame, Segmentation]
"""A segmentation always travels with the frame it came from."""

TimedPair = tuple[Pair, float, float]
"""A pair, and the seconds of preparing its frame and of running the network on it."""


class Segmenter(Closing):
    """Segments images and frames with one network.

    Args:
        backend: the network, loaded and warm; closed with the segmenter.
        labels: names and colours to use instead of the network's own.
        selected: classes to keep, by index; None keeps all.
        refine: whether mask edges are refined from image colours, see `rtseg.matte.refine`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        labels: LabelSet | None = None,
        selected: frozenset[int] | None = None,
        refine: bool = False,
    ) -> None:
        self.backend = backend
        self.labels = labels or backend.spec.labels
        self.selected = selected
        self.refine = refine
        if refine:
            warm_up()

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
        """(height, width) of the network's input; for the newest frame, if it follows frames."""
        return self.backend.input_size

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image.

        Args:
            image: (H, W, 3) uint8 BGR.

        Raises:
            ValueError: the image has another shape or dtype.
            BackendError: the network failed.
        """
        if not isinstance(image, np.ndarray):  # OpenCV gives None for a file that it cannot read
            raise ValueError(f"an image is (H, W, 3) uint8 BGR, got {type(image).__name__}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"an image is (H, W, 3) uint8 BGR, got {image.shape} {image.dtype}")
        segment = self.backend.segment
        (scores,) = self.backend(self._batch([image])) if segment is None else segment([image])
        segmentation = self._segmentation(scores, (image.shape[0], image.shape[1]))
        segmentation.picture = image
        return Refined(segmentation, image) if self.refine else segmentation

    def finished(self, pair: Pair) -> Pair:
        """The pair as it is shown, once nothing more is done to its scores."""
        frame, segmentation = pair
        return (frame, Refined(segmentation, frame.picture)) if self.refine else pair

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        """Segment frames in one call of the backend, which has one `size_for` all of them.

        Returns:
            Each frame with its segmentation, in order, and the seconds of preparing and of
            running all of them.

        Raises:
            BackendError: the network failed.
        """
        start = clock.now()
        if self.backend.segment is not None:
            pairs, seconds, wait = self.begin(frames, clock)
            return pairs, seconds, wait()
        batch = self._batch([frame.picture for frame in frames])
        ready = clock.now()
        scores = self.backend(batch)
        end = clock.now()
        pairs = [
            (frame, self._segmentation(planes, frame.size))
            for frame, planes in zip(frames, scores, strict=True)
        ]
        return pairs, ready - start, end - ready

    def begin(
        self, frames: Sequence[Frame], clock: Clock
    ) -> tuple[list[Pair], float, Callable[[], float]]:
        """Give frames to a backend that can `segment` whole frames, without waiting for it.

        Returns:
            As `together`, but instead of the last: what waits, and returns the seconds that it
            took.

        Raises:
            BackendError: the network failed.
        """
        assert self.backend.segment is not None
        start = clock.now()
        held = self.backend.segment([frame.picture for frame in frames])
        pairs = [
            (frame, self._segmentation(scores, frame.size))
            for frame, scores in zip(frames, held, strict=True)
        ]
        return pairs, clock.now() - start, held[-1].wait

    def close(self) -> None:
        """Free the network's device; later calls raise BackendError."""
        self.backend.close()
        self.backend = Closed(self.backend)

    def _batch(self, pictures: Sequence[Picture]) -> NDArray[np.uint8]:
        """(N, h, w, 3) uint8 RGB at the network's size: shrunk first, then converted."""
        size = self.backend.size_for((pictures[0].shape[0], pictures[0].shape[1]))
        small = [small_rgb(picture, size) for picture in pictures]
        return small[0][np.newaxis] if len(small) == 1 else np.stack(small)

    def _segmentation(
        self, scores: NDArray[np.float32] | HeldScores, size: tuple[int, int]
    ) -> Segmentation:
        spec = self.backend.spec
        return Segmentation(
            scores,
            self.labels,
            size,
            kind=spec.output,
            selected=self.selected,
            align_corners=spec.align_corners,
        )

    def __repr__(self) -> str:
        return f"<Segmenter of {self.spec!r} by {self.info.name} on {self.info.device}>"
