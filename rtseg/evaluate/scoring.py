"""One network measured on one set: read ahead, segment, count."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rtseg.contracts import BackendInfo
from rtseg.datasets import Sample
from rtseg.datasets.classmap import ClassMap
from rtseg.datasets.files import picture_size
from rtseg.errors import DatasetError
from rtseg.evaluate.networks import Network
from rtseg.evaluate.sets import LabelledSet, pick
from rtseg.evaluate.sizes import Size
from rtseg.evaluate.worst import Worst
from rtseg.flow import Flow
from rtseg.frame import Image, Mask
from rtseg.labels import LabelSet
from rtseg.metrics import BoundaryScore, ConfusionMatrix, Flicker, same_labels

AHEAD = 4
"""Pictures read before their turn."""

POLL_SECONDS = 0.05


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
    on_picture: Callable[[Score], None] = lambda score: None,
    stop: Callable[[], bool] = lambda: False,
) -> Score:
    """Measure a network on a set, with masks at the labels' own size.

    Args:
        boundary: take the boundary F-score too, which costs more than all else together.
        worst: keep so many of the worst pictures, by the mean IoU of a picture's classes, or by
            the IoU of `worst_class`.
        on_picture: called at the start, when the pictures are chosen, and after each of them.
        stop: asked all the time; ends it early, and what was measured is returned.

    Raises:
        RtsegError: no class or picture is left, a file cannot be read, or the network failed.
    """
    classes = class_map(network, chosen)
    samples = pick(chosen, classes, stop)
    result = _begun(network, chosen, classes, len(samples))
    result.boundary = BoundaryScore(len(classes.labels)) if boundary else None
    result.worst = Worst(worst, classes.labels, worst_class) if worst else None
    on_picture(result)
    since = time.perf_counter()
    ordered = by_input(samples, network)
    places = {sample.name: place for place, sample in enumerate(chosen.dataset.samples)}
    with Flow(_read(ordered, places, classes), capacity=AHEAD, name="read") as flow:
        counter = _Counter(result, classes)
        for read in flow.poll(POLL_SECONDS):
            if stop():
                break
            if read is not None:
                counter.count(read, network)
                on_picture(result)
    result.seconds = time.perf_counter() - since
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
    return sorted(samples, key=lambda sample: network.input_size(*picture_size(sample.image_path)))


class _Counter:
    """Adds pictures to a score, one after the other."""

    def __init__(self, result: Score, classes: ClassMap) -> None:
        self._result, self._classes = result, classes
        self._last: tuple[Read, Mask] | None = None

    def count(self, read: Read, network: Network) -> None:
        segmentation = network(read.image)
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
        self._compare(read, predicted)
        result.inputs[network.input_size(*read.image.shape[:2])] += 1
        result.info = network.info
        result.pictures += 1

    def _compare(self, read: Read, predicted: Mask) -> None:
        """Count flicker against the frame before, if that was the last picture."""
        last, self._last = self._last, (read, predicted)
        if last is None or not read.sample.sequence:
            return
        before, mask = last
        follows = read.place == before.place + 1 and mask.shape == predicted.shape
        if follows and before.sample.sequence == read.sample.sequence:
            quiet = same_labels(before.truth, read.truth)
            self._result.flicker.update(mask, predicted, quiet)


def _begun(network: Network, chosen: LabelledSet, classes: ClassMap, count: int) -> Score:
    return Score(
        chosen.name,
        network.name,
        classes.labels,
        tuple(classes.describe()),
        network.policy.describe(network.model.spec),
        count,
        len(chosen.samples),
        ConfusionMatrix(len(classes.labels)),
    )


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
