"""From images to segmentations, through any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.contracts import Backend, BackendInfo
from rtseg.draw import resized
from rtseg.errors import RtsegError
from rtseg.frame import Frame, Image
from rtseg.labels import LabelSet
from rtseg.matte.refine import Refined, warm_up
from rtseg.segmentation import HeldScores, Segmentation
from rtseg.stats import Clock, Stats
from rtseg.threads import parallel_map
from rtseg.zoo import ModelSpec

Pair = tuple[Frame, Segmentation]
"""A segmentation always travels with the frame it came from."""


class Begun(NamedTuple):
    """Frames that a device is working on.

    Attributes:
        wait: waits for the device; returns the seconds that it took.
        seconds: that handing them over took.
    """

    pairs: list[Pair]
    wait: Callable[[], float]
    seconds: float

    def results(self) -> Iterator[tuple[Pair, float, float]]:
        """Each pair with its share of both times."""
        count, taken = len(self.pairs), self.wait()
        for pair in self.pairs:
            yield pair, self.seconds / count, taken / count


class Segmenter:
    """Segments single images or streams of frames with one network.

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
        """(height, width) of the network's input."""
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
        (scores,) = self._scores([image])
        segmentation = self._segmentation(scores, (image.shape[0], image.shape[1]))
        return Refined(segmentation, image) if self.refine else segmentation

    def stream(
        self, frames: Iterable[Frame], stats: Stats | None = None, *, ahead: bool = False
    ) -> Iterator[Pair]:
        """Segment frames in order and pair each with its result, which `finished` completes.

        Args:
            ahead: whether more frames are ready, as in a recording: a backend with several lanes
                then works on as many at once, and one that keeps frames on its device is given the
                next ones before it has finished. Otherwise one after another, as they come.
        """
        stats = stats or Stats()
        lanes = self.backend.lanes if ahead else 1
        timed = partial(self._timed, clock=stats.clock)
        if ahead and self.backend.segment is not None:
            results = self._begun_early(frames, stats.clock)
        else:
            results = parallel_map(frames, timed, lanes) if lanes > 1 else map(timed, frames)
        for pair, preprocess, infer in results:
            stats.add("preprocess", preprocess)
            stats.add("infer", infer)
            yield pair

    def finished(self, pair: Pair) -> Pair:
        """The pair as it is shown, once nothing more is done to its scores."""
        frame, segmentation = pair
        return (frame, Refined(segmentation, frame.picture)) if self.refine else pair

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        """Segment frames, of any sizes, in one call of the backend.

        Returns:
            Each frame with its segmentation, in order, and the seconds of preparing and of
            running all of them.

        Raises:
            BackendError: the network failed.
        """
        start = clock.now()
        if self.backend.segment is not None:
            begun = self._begin(frames, clock)
            return begun.pairs, begun.seconds, begun.wait()
        batch = self._batch([frame.image for frame in frames])
        ready = clock.now()
        scores = self.backend(batch)
        end = clock.now()
        pairs = [
            (frame, self._segmentation(planes, frame.size))
            for frame, planes in zip(frames, scores, strict=True)
        ]
        return pairs, ready - start, end - ready

    def _begin(self, frames: Sequence[Frame], clock: Clock) -> Begun:
        """Give frames to a device that keeps them."""
        assert self.backend.segment is not None
        start = clock.now()
        held = self.backend.segment([frame.picture for frame in frames])
        pairs = [
            (frame, self._segmentation(scores, frame.size))
            for frame, scores in zip(frames, held, strict=True)
        ]
        return Begun(pairs, held[-1].wait, clock.now() - start)

    def _begun_early(
        self, frames: Iterable[Frame], clock: Clock
    ) -> Iterator[tuple[Pair, float, float]]:
        """Pairs, and the seconds of handing over and of the device; one batch is always in progress
        while another is awaited."""
        coming = iter(frames)
        under_way: Begun | None = None
        while True:
            group, failure = _taken(coming, self.backend.frames_at_once)
            begun: Begun | None = None
            try:
                begun = self._begin(group, clock) if group else None
            except RtsegError as error:
                failure = error
            if under_way is not None:
                yield from under_way.results()
            if failure is not None:  # after all that came before it
                if begun is not None:
                    yield from begun.results()
                raise failure
            if begun is None:
                return
            under_way = begun

    def _timed(self, frame: Frame, clock: Clock) -> tuple[Pair, float, float]:
        """A frame with its segmentation, and the seconds of both stages."""
        (pair,), preprocess, infer = self.together((frame,), clock)
        return pair, preprocess, infer

    def close(self) -> None:
        """Free the network's device."""
        self.backend.close()

    def _scores(self, images: Sequence[Image]) -> Sequence[NDArray[np.float32] | HeldScores]:
        segment = self.backend.segment
        return list(self.backend(self._batch(images))) if segment is None else segment(images)

    def _batch(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        """(N, h, w, 3) uint8 RGB at the network's size: shrunk first, then converted from BGR."""
        size = self.input_size
        small = [cv2.cvtColor(resized(image, size), cv2.COLOR_BGR2RGB) for image in images]
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

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class SegmenterProxy(Segmenter):
    """Stands for another segmenter; subclasses decide which, or when its network runs."""

    def __init__(self, target: Segmenter) -> None:
        self.target = target

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # read-only
        """The network that runs."""
        return self.target.backend

    @property
    def labels(self) -> LabelSet:  # type: ignore[override]  # read-only
        """Names and colours of its classes."""
        return self.target.labels

    @property
    def selected(self) -> frozenset[int] | None:  # type: ignore[override]  # read-only
        """The classes that are kept."""
        return self.target.selected

    @property
    def refine(self) -> bool:
        """Whether mask edges are refined from image colours."""
        return self.target.refine

    @refine.setter
    def refine(self, value: bool) -> None:
        self.target.refine = value

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image."""
        return self.target(image)

    def together(self, frames: Sequence[Frame], clock: Clock) -> tuple[list[Pair], float, float]:
        """Segment frames in one call of the backend."""
        return self.target.together(frames, clock)


def _taken(coming: Iterator[Frame], most: int) -> tuple[list[Frame], Exception | None]:
    """The next frames, and the error that came instead of one, if any."""
    frames: list[Frame] = []
    try:
        frames.extend(islice(coming, most))
    except Exception as error:
        return frames, error
    return frames, None
