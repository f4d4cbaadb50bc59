"""Measure one model on one set of labelled images, or on one clip without labels."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtseg.contracts import BackendInfo, SourceInfo
from rtseg.datasets import Sample
from rtseg.datasets.classes import ClassMap
from rtseg.decode import BlendTable
from rtseg.draw import bgr_colours, blend, blend_table, foreground, panel
from rtseg.errors import DatasetError, UsageError
from rtseg.evaluation.networks import Network
from rtseg.evaluation.sets import LabelledSet, check_classes, pick
from rtseg.files import write_file
from rtseg.frame import Frame, Image, Mask, Segmentation
from rtseg.images import image_size
from rtseg.labels import VOID, LabelSet
from rtseg.metrics import (
    BoundaryScore,
    ConfusionMatrix,
    Flicker,
    boundary,
    static_in_images,
    static_in_labels,
)
from rtseg.options import Size
from rtseg.segmenter import Pair
from rtseg.sources import SourceOptions, open_source
from rtseg.temporal.smooth import Smoother
from rtseg.text import counted
from rtseg.threads import Flow

READ_AHEAD = 4
"""Images or frames that are read ahead."""

POLL_SECONDS = 0.05

SEQUENCE_RATE = 30.0
"""Frames per second assumed for sequences of images, which have no rate of their own."""

ALPHA = 0.5
GAP = 4
"""Pixels between the two halves of a `Worst` image."""

UNKNOWN_GREY = 160


@dataclass(repr=False)
class Score:
    """The measurement of one model on one set.

    Attributes:
        labels: the classes that set and model have in common; rows and columns of `matrix`.
        mapping: which classes of either became these, one line per class.
        chosen: number of images to measure, of `of` in the set's split; `pictures` were measured.
        inputs: (height, width) of the model's input -> number of images.
        boundary, worst: None unless requested.
        flicker: over consecutive frames of sequences.
        smooth: strength of the temporal smoothing within each sequence.
        smoothed: the same images with smoothing, if requested and there are sequences.
        seconds: from the first image to the last.
    """

    set_name: str
    network: str
    labels: LabelSet
    mapping: tuple[str, ...]
    policy: str
    chosen: int
    of: int
    matrix: ConfusionMatrix
    boundary: BoundaryScore | None = None
    worst: Worst | None = None
    flicker: Flicker = field(default_factory=Flicker)
    smooth: float = 0.0
    smoothed: Score | None = None
    pictures: int = 0
    inputs: Counter[Size] = field(default_factory=Counter)
    info: BackendInfo | None = None
    seconds: float = math.nan

    @property
    def complete(self) -> bool:
        """Whether every chosen image was measured."""
        return 0 < self.chosen == self.pictures

    @property
    def ious(self) -> dict[str, float]:
        """IoU of each class, 0 to 1; NaN for a class in neither truth nor prediction."""
        return dict(zip(self.labels.names, map(float, self.matrix.class_iou), strict=True))

    def __repr__(self) -> str:
        return (
            f"<Score of {self.network} on {self.set_name}: mIoU {self.matrix.mean_iou:.3f}, "
            f"{counted(self.pictures, 'image')}>"
        )


def score(
    network: Network,
    chosen: LabelledSet,
    *,
    boundary: bool = False,
    worst: int = 0,
    worst_class: str | None = None,
    smooth: float = 0.0,
    on_picture: Callable[[Score], None] = lambda score: None,
    stop: Callable[[], bool] = lambda: False,
) -> Score:
    """Measure a model on a set, at the size of the labels.

    Args:
        boundary: measure the boundary F-score too, which takes longer than everything else.
        worst: keep this many of the worst images, by the mean IoU of an image's classes or by
            the IoU of `worst_class`.
        smooth: measure sequences a second time, with scores smoothed over time at this strength;
            the model runs once per frame.
        on_picture: called once the images are chosen, and after each of them.
        stop: polled; if it returns True, what was measured so far is returned.

    Raises:
        RtsegError: no class or image is left, a file cannot be read, or the model failed.
    """
    classes = class_map(network, chosen)
    samples = pick(chosen, classes, stop)
    results = [_new_score(network, chosen, classes, len(samples))]
    if smooth and any(sample.sequence for sample in samples):
        results.append(_new_score(network, chosen, classes, len(samples), smooth))
        results[0].smoothed = results[1]
    for one in results:
        one.boundary = BoundaryScore(len(classes.labels)) if boundary else None
        one.worst = Worst(worst, classes.labels, worst_class) if worst else None
    result = results[0]
    on_picture(result)
    since = time.perf_counter()
    ordered = by_input(samples, network)
    places = {sample.name: place for place, sample in enumerate(chosen.dataset.samples)}
    with Flow(_read(ordered, places, classes), capacity=READ_AHEAD, name="read") as flow:
        counters = [_Counter(one, classes, network) for one in results]
        for read in flow.poll(POLL_SECONDS):
            if stop():
                break
            if read is not None:
                segmentation = network(read.image)
                for counter in counters:
                    counter.count(read, segmentation)
                on_picture(result)
    for one in results:
        one.seconds = time.perf_counter() - since
    return result


def class_map(network: Network, chosen: LabelledSet) -> ClassMap:
    """The classes that a model and a set have in common.

    Raises:
        RtsegError: there are none, the entries name an unknown one, or the truth has only one.
    """
    labels = network.model.spec.labels
    classes = ClassMap.between(chosen.dataset.labels, labels, chosen.spec.classes)
    check_classes(chosen, classes)
    return classes


def by_input(samples: Iterable[Sample], network: Network) -> list[Sample]:
    """The samples sorted by input size, so that each size is opened once; else in their order.

    Sizes come from the files' headers; a wrong one only costs time.
    """
    return sorted(
        samples, key=lambda sample: network.input_size(*image_size(sample.image_path, DatasetError))
    )


class Read(NamedTuple):
    """An image in memory; `place` is its index in the dataset, `truth` has the common classes."""

    sample: Sample
    place: int
    image: Image
    truth: Mask


class _Counter:
    """Adds images to a score, one after the other."""

    def __init__(self, result: Score, classes: ClassMap, network: Network) -> None:
        self._result, self._classes, self._network = result, classes, network
        self._smoother = Smoother(result.smooth)
        self._last: tuple[Read, Mask] | None = None

    def count(self, read: Read, segmentation: Segmentation) -> None:
        follows = self._last is not None and _follow(self._last[0], read)
        segmentation = self._smoothed(segmentation, read, follows=follows)
        assert self._classes.from_network is not None
        predicted = self._classes.from_network[segmentation.mask]
        result = self._result
        one = ConfusionMatrix(result.matrix.num_classes)
        one.update(read.truth, predicted)
        result.matrix += one
        if result.boundary is not None:
            result.boundary.update(read.truth, predicted)
        if result.worst is not None:
            result.worst.add(read.sample.name, one, read.image, read.truth, predicted)
        if self._last is not None and follows:
            static = static_in_labels(self._last[0].truth, read.truth)
            result.flicker.update(self._last[1], predicted, static)
        self._last = read, predicted
        result.inputs[self._network.input_size(*read.image.shape[:2])] += 1
        result.info = self._network.info
        result.pictures += 1

    def _smoothed(self, segmentation: Segmentation, read: Read, *, follows: bool) -> Segmentation:
        if not self._result.smooth:
            return segmentation
        if not follows:
            self._smoother = Smoother(self._result.smooth)
        pts = read.place / SEQUENCE_RATE
        return segmentation.with_scores(self._smoother(segmentation.scores, read.image, pts))


def _follow(before: Read, after: Read) -> bool:
    """Whether two images are consecutive frames of one sequence, with equal sizes."""
    return bool(
        after.sample.sequence
        and after.sample.sequence == before.sample.sequence
        and after.place == before.place + 1
        and after.truth.shape == before.truth.shape
    )


def _new_score(
    network: Network, chosen: LabelledSet, classes: ClassMap, count: int, smooth: float = 0.0
) -> Score:
    return Score(
        chosen.name,
        smoothed_name(network.name, smooth),
        classes.labels,
        tuple(classes.describe()),
        network.policy.describe(network.model.spec),
        count,
        len(chosen.samples),
        ConfusionMatrix(len(classes.labels)),
        smooth=smooth,
    )


def smoothed_name(name: str, smooth: float) -> str:
    """The name of a model in results, with the strength of smoothing, if any."""
    return f"{name}, smooth {smooth:g}" if smooth else name


def _read(samples: Sequence[Sample], places: dict[str, int], classes: ClassMap) -> Iterator[Read]:
    """Images and their truth, in order.

    Raises:
        DatasetError: one cannot be read, or image and mask differ in size.
    """
    for sample in samples:
        image, truth = sample.read_image(), sample.read_as(classes.from_dataset)
        if image.shape[:2] != truth.shape:
            height, width = image.shape[:2]
            raise DatasetError(
                f"the mask of {sample.image_path} is {truth.shape[1]}x{truth.shape[0]}",
                found=f"the image is {width}x{height}",
            )
        yield Read(sample, places[sample.name], image, truth)


@dataclass(repr=False)
class ClipScore:
    """The measurement of one model on one clip.

    Attributes:
        clip: the source's name.
        network: the model's name, with the strength of smoothing, if any.
        of: number of frames to measure, if the clip tells it.
        flicker: over pixels whose image does not change.
        complete: whether the clip was measured to its end, or to the frames requested.
        smoothed: the same frames with smoothing, if requested.
        seconds: from the first frame to the last.
    """

    clip: str
    network: str
    smooth: float = 0.0
    frames: int = 0
    of: int | None = None
    flicker: Flicker = field(default_factory=Flicker)
    complete: bool = False
    smoothed: ClipScore | None = None
    input_size: Size | None = None
    info: BackendInfo | None = None
    seconds: float = math.nan

    def __repr__(self) -> str:
        return (
            f"<ClipScore of {self.network} on {self.clip}: flicker {100 * self.flicker.share:.3f} "
            f"%, {counted(self.frames, 'frame')}>"
        )


class FlickerCounter:
    """Counts the flicker of consecutive frames where the image itself does not change.

    Compares models on one clip, but not one clip with another; see `static_in_images`.
    """

    def __init__(self) -> None:
        self.flicker = Flicker()
        self._last: Pair | None = None

    def add(self, pair: Pair) -> None:
        """Count a frame; if it does not follow the last one or has another size, start anew."""
        last, self._last = self._last, pair
        frame, segmentation = pair
        if last is not None and last[0].index + 1 == frame.index and last[0].size == frame.size:
            static = static_in_images(last[0].image, frame.image)
            self.flicker.update(last[1].mask, segmentation.mask, static)


def score_clip(
    network: Network,
    target: str,
    *,
    smooth: float = 0.0,
    max_frames: int | None = None,
    on_frame: Callable[[ClipScore], None] = lambda score: None,
    stop: Callable[[], bool] = lambda: False,
) -> ClipScore:
    """Measure a model's flicker on a clip without labels.

    Args:
        target: a video, a folder or a pattern, as `open_source` takes it.
        smooth: measure it a second time with scores smoothed at this strength; the model runs
            once per frame.
        max_frames: measure only the first frames; None takes all.
        on_frame: called at the start and after each frame.
        stop: polled; if it returns True, what was measured so far is returned.

    Raises:
        UsageError: the source is live.
        RtsegError: it cannot be opened or read, or the model failed.
    """
    with open_source(target, SourceOptions(max_frames=max_frames)) as source:
        if source.info.live:
            raise UsageError(
                f"cannot measure the flicker of {source.info.name}",
                found="it is live, so that results could not be compared",
                do="Use a recording",
            )
        run = _ClipRun(network, source.info, smooth)
        on_frame(run.result)
        with Flow(source, capacity=READ_AHEAD, name="read", interrupt=source.interrupt) as flow:
            for frame in flow.poll(POLL_SECONDS):
                if stop():
                    return run.finish(complete=False)
                if frame is not None:
                    run.add(frame)
                    on_frame(run.result)
    return run.finish(complete=True)


class _ClipRun:
    """The scores of one clip: plain, and smoothed if requested."""

    def __init__(self, network: Network, clip: SourceInfo, smooth: float) -> None:
        self._network, self._smoother = network, Smoother(smooth)
        self._since = time.perf_counter()
        self.result = ClipScore(clip.name, network.name, of=clip.frame_count)
        self._scores = [(self.result, FlickerCounter())]
        if smooth:
            name = smoothed_name(network.name, smooth)
            self.result.smoothed = ClipScore(clip.name, name, smooth, of=clip.frame_count)
            self._scores.append((self.result.smoothed, FlickerCounter()))

    def add(self, frame: Frame) -> None:
        segmentation = self._network(frame.image)
        for score, counter in self._scores:
            if score.smooth:
                smoothed = self._smoother(segmentation.scores, frame.image, frame.pts)
                segmentation = segmentation.with_scores(smoothed)
            counter.add((frame, segmentation))
            score.frames += 1
            score.input_size = self._network.input_size(*frame.size)

    def finish(self, *, complete: bool) -> ClipScore:
        for score, counter in self._scores:
            score.flicker, score.info = counter.flicker, self._network.info
            score.complete = complete and score.frames > 0
            score.seconds = time.perf_counter() - self._since
        return self.result


@dataclass(frozen=True)
class Kept:
    """An image with a low IoU."""

    iou: float
    name: str
    image: Image
    truth: Mask
    predicted: Mask


class Worst:
    """Keeps the images with the lowest IoU.

    Args:
        count: how many.
        labels: of the masks.
        by: the class whose IoU decides; None is the mean over the classes of an image.
    """

    def __init__(self, count: int, labels: LabelSet, by: str | None = None) -> None:
        self.kept: list[Kept] = []
        self._count, self._labels = count, labels
        self._class = None if by is None else labels.index(by)

    def add(
        self, name: str, matrix: ConfusionMatrix, image: Image, truth: Mask, predicted: Mask
    ) -> None:
        """Keep an image if it is one of the worst; images without an IoU are skipped.

        Args:
            matrix: of this image alone.
            image: (H, W, 3) uint8 BGR.
            truth, predicted: (H, W) uint8.
        """
        iou = matrix.mean_iou if self._class is None else float(matrix.class_iou[self._class])
        if not math.isnan(iou):
            kept = sorted(
                [*self.kept, Kept(iou, name, image, truth, predicted)], key=lambda k: k.iou
            )
            self.kept = kept[: self._count]

    def write(self, folder: Path) -> list[Path]:
        """Write each as `IoU_name.jpg`, the truth on the left and the prediction on the right.

        Those that would get one name are numbered.

        Raises:
            SinkError: the folder or a file cannot be written.
        """
        import cv2

        table = _blend_table(self._labels)
        paths: list[Path] = []
        for kept in self.kept:
            stem = f"{kept.iou:.3f}_{_file_name(kept.name)}"
            path, taken = folder / f"{stem}.jpg", {str(each).casefold() for each in paths}
            number = 1
            while str(path).casefold() in taken:  # of another image, with other characters
                number += 1
                path = folder / f"{stem}_{number}.jpg"
            _, content = cv2.imencode(".jpg", side_by_side(kept, table))
            write_file(path, content.tobytes())
            paths.append(path)
        return paths


def side_by_side(kept: Kept, table: BlendTable) -> Image:
    """(H, 2W + 4, 3) uint8 BGR: the image with its true classes and with the predicted ones."""
    height, width = kept.truth.shape
    canvas = np.full((height, 2 * width + GAP, 3), 255, np.uint8)
    for left, mask, title in (
        (0, kept.truth, "truth"),
        (width + GAP, kept.predicted, f"IoU {kept.iou:.3f}"),
    ):
        half = blend(kept.image, mask, table)
        half[boundary(mask)] = 255  # visible even where a class has the colour of the image
        panel(half, [title])
        canvas[:, left : left + width] = half
    return canvas


def _blend_table(labels: LabelSet) -> BlendTable:
    """Classes in their colours, the background unchanged, unlabelled pixels in grey."""
    colours = bgr_colours(labels)
    colours[VOID] = UNKNOWN_GREY
    shown = foreground(labels) | (np.arange(256) == VOID)
    return blend_table(colours, np.where(shown, ALPHA, 0.0))


def _file_name(name: str) -> str:
    """An image's name without characters that file names may not have."""
    return re.sub(r"[^\w.-]+", "_", name)[:120]
