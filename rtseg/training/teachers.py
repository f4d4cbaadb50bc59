"""What other networks say of training images: soft labels, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rtseg.cache import cache_path, make_room, sha256
from rtseg.datasets import Sample
from rtseg.datasets.classes import ClassMap
from rtseg.datasets.contract import Table
from rtseg.errors import DatasetError
from rtseg.evaluation.networks import InputPolicy, Network
from rtseg.evaluation.sets import NetworkSpec
from rtseg.files import atomic, cannot_write
from rtseg.frame import Image, Mask
from rtseg.labels import VOID, LabelSet
from rtseg.nets import find_model

Soft = NDArray[np.uint8]
"""(K + 1, h, w): 255 where the teachers are not to be trusted, else 0; then, for each of K classes,
255 times its probability."""

KIND = "teachers"
KEPT = r"[0-9a-f]{16}-[0-9a-f]{32}\.npz"
LONG_SIDE = 256
"""Of soft labels, in pixels; teachers know no finer."""
NEAR = 0.03
"""How near to what is labelled teachers are not believed, as a share of the longer side."""


def soft_labels(
    teachers: Sequence[NetworkSpec],
    labels: LabelSet,
    samples: Sequence[Sample],
    progress: Callable[[int, int], None],
) -> dict[str, Path]:
    """Sample name -> file of its `Soft`, computed unless it is in the cache.

    The teachers' probabilities are averaged by their weights. Where their most probable classes
    differ, none is trusted.

    Args:
        labels: the K classes that are trained.
        progress: called as progress(images done, all of them).

    Raises:
        UsageError: a teacher has no class in common with `labels`.
        RtsegError: a teacher cannot be opened, an image cannot be read, or the cache be written.
    """
    found: dict[str, Path] = {}
    make_room(cache_path(KIND, "_").parent, KEPT, most_files=math.inf)  # one per image
    with ExitStack() as stack:
        opened = [stack.enter_context(_Teacher(spec, labels)) for spec in teachers]
        key = hashlib.sha256(repr([t.key for t in opened]).encode()).hexdigest()[:16]
        for done, sample in enumerate(samples):
            progress(done, len(samples))
            path = cache_path(KIND, f"{key}-{_digest(sample)}.npz")
            if _read(path, len(labels)) is None:
                _write(path, _asked(opened, sample.read_image(), len(labels)))
            found[sample.name] = path
        progress(len(samples), len(samples))
    return found


def read_soft(path: Path, classes: int, size: tuple[int, int]) -> Soft:
    """The soft labels of a file, at an image's size (height, width).

    Raises:
        DatasetError: the file is missing or damaged.
    """
    soft = _read(path, classes)
    if soft is None:
        raise DatasetError(
            f"cannot read the soft labels {path}",
            found="the file is missing or damaged",
            do="Start again: rtseg train makes it anew",
        )
    planes = cv2.resize(soft.transpose(1, 2, 0), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def doubted(mask: Mask, soft: Soft, background: int) -> Mask:
    """The (H, W) mask without the background where the teachers agree on an object.

    Near what is labelled, teachers of a coarse stride are not believed.
    """
    objects = ((mask != background) & (mask != VOID)).astype(np.uint8)
    reach = 2 * round(NEAR * max(mask.shape)) + 1
    near = cv2.dilate(objects, np.ones((reach, reach), np.uint8))
    seen = (soft[1:].argmax(0) != background) & (soft[0] < 128)
    unknown = seen & (mask == background) & (near == 0)
    return np.where(unknown, VOID, mask).astype(np.uint8)


class _Teacher:
    """A network, and which of its classes is which of those that are trained."""

    def __init__(self, spec: NetworkSpec, labels: LabelSet) -> None:
        model = find_model(spec.model, input_flags=spec.settings or None)
        classes = ClassMap.between(labels, model.spec.labels, spec.classes)
        assert classes.from_network is not None, "a network has two sides"
        self.tables: tuple[Table, Table] = classes.from_dataset, classes.from_network
        self._scored = len(classes.labels)
        self.weight = spec.weight
        policy = InputPolicy.parse(spec.imgsz) if spec.imgsz else None
        self._network = Network(spec.name or spec.model, model, policy, refine=spec.refine)
        file = sha256(model.file) if model.file else model.spec.to_json()
        self.key = (
            file,
            sorted(map(str, spec.settings.items())),
            astuple(labels),
            spec.imgsz,
            spec.classes,
            spec.weight,
            spec.refine,
            LONG_SIDE,
        )

    def __call__(self, image: Image, classes: int) -> NDArray[np.float32]:
        """(K, h, w) probabilities; a class that the teacher does not have is its background's."""
        segmentation = self._network(image)
        ours, theirs = self.tables
        height, width = image.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        scored = np.zeros((self._scored + 1, size[1], size[0]), np.float32)  # the last is nothing
        for index in range(len(segmentation.labels)):
            if theirs[index] != VOID:
                probability = segmentation.probability(index)
                scored[theirs[index]] += cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
        planes = np.stack([scored[min(int(ours[i]), self._scored)] for i in range(classes)])
        return planes / planes.sum(0, keepdims=True).clip(min=1e-6)

    def __enter__(self) -> _Teacher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._network.close()


def _asked(teachers: Sequence[_Teacher], image: Image, classes: int) -> Soft:
    answers = [teacher(image, classes) for teacher in teachers]
    weights = np.array([teacher.weight for teacher in teachers], np.float32)
    mean = np.tensordot(weights / weights.sum(), np.stack(answers), 1)
    favourites = np.stack([answer.argmax(0) for answer in answers])
    distrust = (favourites != favourites[:1]).any(0)
    return np.concatenate([255 * distrust[None], np.rint(255 * mean)]).astype(np.uint8)


def _digest(sample: Sample) -> str:
    try:
        return sha256(sample.image_path)[:32]
    except OSError as error:
        raise DatasetError(f"cannot read {sample.image_path}", found=str(error)) from error


def _read(path: Path, classes: int) -> Soft | None:
    """The content of a file, or None if it is missing, damaged, or of other classes."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            soft = content["soft"]
    except Exception:  # numpy and zipfile raise many types for a damaged file
        return None
    fits = soft.dtype == np.uint8 and soft.ndim == 3 and len(soft) == classes + 1
    return soft if fits else None


def _write(path: Path, soft: Soft) -> None:
    try:
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, soft=soft)
    except OSError as error:
        raise cannot_write(path, error) from error
