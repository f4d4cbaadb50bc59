"""One network measured on one set: read ahead, segment, count."""

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

from rtseg.contracts import BackendInfo
from rtseg.datasets import Sample
from rtseg.datasets.classes import ClassMap
from rtseg.draw import BlendTable, bgr_colours, blend, blend_table, foreground, panel
from rtseg.errors import DatasetError
from rtseg.evaluate.networks import Network, Size
from rtseg.evaluate.sets import LabelledSet, pick
from rtseg.files import write_file
from rtseg.frame import VOID, Image, Mask
from rtseg.images import image_size
from rtseg.labels import LabelSet
from rtseg.metrics import BoundaryScore, ConfusionMatrix, Flicker, boundary, same_labels
from rtseg.segmentation import Segmentation
from rtseg.temporal.smooth import Smoother
from rtseg.threads import Flow

ALPHA = 0.5
GAP = 4  # pixels between the two
UNKNOWN_GREY = 160


@dataclass(frozen=True)
class Kept:
    """One bad picture: how bad (IoU), and all that is needed to show it."""

    iou: float
    name: str
    image: Image
    truth: Mask
    predicted: Mask


class Worst:
    """Keeps the worst pictures of a set.

    Args:
        count: how many.
        labels: of the masks.
        by: the class whose IoU decides; None is the mean over the classes that a picture has.
    """

    def __init__(self, count: int, labels: LabelSet, by: str | None = None) -> None:
        self.kept: list[Kept] = []
        self._count, self._labels = count, labels
        self._class = None if by is None else labels.index(by)

    def add(
        self, name: str, matrix: ConfusionMatrix, image: Image, truth: Mask, predicted: Mask
    ) -> None:
        """Keep a picture if it is one of the worst; one in which nothing can be measured is not.

        Args:
            matrix: of this picture alone.
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
        """Write each as `IoU_name.jpg`, truth on the left and prediction on the right.

        Raises:
            SinkError: the folder or a file cannot be written.
        """
        import cv2

        table = _table(self._labels)
        paths = []
        for kept in self.kept:
            path = folder / f"{kept.iou:.3f}_{_as_file(kept.name)}.jpg"
            _, content = cv2.imencode(".jpg", side_by_side(kept, table))
            write_file(path, content.tobytes())
            paths.append(path)
        return paths


def side_by_side(kept: Kept, table: BlendTable) -> Image:
    """(H, 2W + 4, 3) uint8 BGR: the picture with its true classes, and with those predicted."""
    height, width = kept.truth.shape
    canvas = np.full((height, 2 * width + GAP, 3), 255, np.uint8)
    for left, mask, title in (
        (0, kept.truth, "truth"),
        (width + GAP, kept.predicted, f"IoU {kept.iou:.3f}"),
    ):
        half = blend(kept.image, mask, table)
        half[boundary(mask)] = 255  # a class may have the colour of what it lies on
        panel(half, [title])
        canvas[:, left : left + width] = half
    return canvas


def _table(labels: LabelSet) -> BlendTable:
    """Classes in their colours, the background as it is, what is unknown in grey."""
    colours = bgr_colours(labels)
    colours[VOID] = UNKNOWN_GREY
    shown = foreground(labels) | (np.arange(256) == VOID)
    return blend_table(colours, np.where(shown, ALPHA, 0.0))


def _as_file(name: str) -> str:
    """A picture's name without what a file's name may not hold."""
    return re.sub(r"[^\w.-]+", "_", name)[:120]


AHEAD = 4
"""Pictures read before their turn."""

POLL_SECONDS = 0.05

SEQUENCE_RATE = 30.0
"""Frames a second, of sequences of pictures, which do not say."""


class Read(NamedTuple):
    """A picture in memory; `place` is its index in the dataset, `truth` has the common classes."""

    sample: Sample
    place: int
    image: Image
    truth: Mask


@dataclass
class Score:
    """What was measured of one network on one set.

    Attributes:
        labels: the classes that set and network have in common; rows and columns of `matrix`.
        mapping: how names of either became those, for people.
        chosen: pictures to measure, of `of` in the set's split; `pictures` were.
        inputs: (height, width) of the network's input, and for how many pictures.
        boundary, worst: where they were asked for.
        flicker: over consecutive frames of sequences; counts nothing where there are none.
        smooth: strength at which scores were smoothed over time, within each sequence.
        steadied: the same pictures smoothed, where that was asked for and there are sequences.
        seconds: from the first picture to the last.
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
    steadied: Score | None = None
    pictures: int = 0
    inputs: Counter[Size] = field(default_factory=Counter)
    info: BackendInfo | None = None
    seconds: float = math.nan

    @property
    def complete(self) -> bool:
        """Whether every picture chosen was measured."""
        return 0 < self.chosen == self.pictures


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
    """Measure a network on a set, with masks at the labels' own size.

    Args:
        boundary: take the boundary F-score too, which costs more than all else together.
        worst: keep so many of the worst pictures, by the mean IoU of a picture's classes, or by
            the IoU of `worst_class`.
        smooth: measure sequences once more, with scores smoothed over time at this strength; the
            network sees each frame once.
        on_picture: called at the start, when the pictures are chosen, and after each of them.
        stop: asked all the time; ends it early, and what was measured is returned.

    Raises:
        RtsegError: no class or picture is left, a file cannot be read, or the network failed.
    """
    classes = class_map(network, chosen)
    samples = pick(chosen, classes, stop)
    results = [_begun(network, chosen, classes, len(samples))]
    if smooth and any(sample.sequence for sample in samples):
        results.append(_begun(network, chosen, classes, len(samples), smooth))
        results[0].steadied = results[1]
    for one in results:
        one.boundary = BoundaryScore(len(classes.labels)) if boundary else None
        one.worst = Worst(worst, classes.labels, worst_class) if worst else None
    result = results[0]
    on_picture(result)
    since = time.perf_counter()
    ordered = by_input(samples, network)
    places = {sample.name: place for place, sample in enumerate(chosen.dataset.samples)}
    with Flow(_read(ordered, places, classes), capacity=AHEAD, name="read") as flow:
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
    """The classes that a network and a set have in common.

    Raises:
        RtsegError: there are none, or the entries name one that is not there.
    """
    labels = network.model.spec.labels
    return ClassMap.between(chosen.dataset.labels, labels, chosen.spec.classes)


def by_input(samples: Iterable[Sample], network: Network) -> list[Sample]:
    """Sorted by the input that each needs, so that each is opened once; else in their order.

    The sizes are those in the files' heads; one that lies costs time and nothing else.
    """
    return sorted(
        samples, key=lambda sample: network.input_size(*image_size(sample.image_path, DatasetError))
    )


class _Counter:
    """Adds pictures to a score, one after the other."""

    def __init__(self, result: Score, classes: ClassMap, network: Network) -> None:
        self._result, self._classes, self._network = result, classes, network
        self._smoother = Smoother(result.smooth)
        self._last: tuple[Read, Mask] | None = None

    def count(self, read: Read, segmentation: Segmentation) -> None:
        follows = self._last is not None and _follow(self._last[0], read)
        segmentation = self._steadied(segmentation, read, follows=follows)
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
            quiet = same_labels(self._last[0].truth, read.truth)
            result.flicker.update(self._last[1], predicted, quiet)
        self._last = read, predicted
        result.inputs[self._network.input_size(*read.image.shape[:2])] += 1
        result.info = self._network.info
        result.pictures += 1

    def _steadied(self, segmentation: Segmentation, read: Read, *, follows: bool) -> Segmentation:
        if not self._result.smooth:
            return segmentation
        if not follows:
            self._smoother = Smoother(self._result.smooth)
        pts = read.place / SEQUENCE_RATE
        return segmentation.with_scores(self._smoother(segmentation.scores, read.image, pts))


def _follow(before: Read, after: Read) -> bool:
    """Whether two pictures are consecutive frames of one sequence, of one size."""
    return bool(
        after.sample.sequence
        and after.sample.sequence == before.sample.sequence
        and after.place == before.place + 1
        and after.truth.shape == before.truth.shape
    )


def _begun(
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
    """What the results call a network whose scores are smoothed over time, or are not."""
    return f"{name}, smooth {smooth:g}" if smooth else name


def _read(samples: Sequence[Sample], places: dict[str, int], classes: ClassMap) -> Iterator[Read]:
    """Pictures and their truth, in order.

    Raises:
        DatasetError: one cannot be read, or they are of two sizes.
    """
    for sample in samples:
        image, truth = sample.read_image(), sample.read_as(classes.from_dataset)
        if image.shape[:2] != truth.shape:
            height, width = image.shape[:2]
            raise DatasetError(
                f"the mask of {sample.image_path} is {truth.shape[1]}x{truth.shape[0]}",
                found=f"the picture is {width}x{height}",
            )
        yield Read(sample, places[sample.name], image, truth)
