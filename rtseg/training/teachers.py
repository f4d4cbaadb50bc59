"""What other networks say of training images: soft labels, computed once and kept in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rtseg.cache import cache_path, make_room, mark_used, sha256, short_digest
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
from rtseg.nets.ir import digest_of

Soft = NDArray[np.uint8]
"""(1 + K, h, w), or (1 + K + T, h, w): 255 where the teachers are not to be trusted, else 0; then,
for each of K classes, 255 times its probability; then the same for all T classes of the first
teacher."""

KIND = "teachers"
KEPT = r"[0-9a-f]{16}-[0-9a-f]{32}\.npz"
LONG_SIDE = 256
"""Of soft labels, in pixels; teachers know no finer."""
MADE = 2
"""Counted up when the same teachers would give other soft labels."""
NEAR = 0.03
"""How near to what is labelled teachers are not believed, as a share of the longer side."""


def soft_labels(
    teachers: Sequence[NetworkSpec],
    labels: LabelSet,
    samples: Sequence[Sample],
    progress: Callable[[int, int], None],
    *,
    own: bool = False,
) -> tuple[dict[str, Path], tuple[int, ...]]:
    """Sample name -> file of its `Soft`, computed unless it is in the cache.

    And T numbers: the class that each class of the first teacher is in a mirror image.

    The teachers' probabilities are averaged by their weights. Where their most probable classes
    differ, none is trusted.

    Args:
        labels: the K classes that are trained.
        progress: called as progress(images done, all of them).
        own: with all T classes of the first teacher; T is 0 otherwise.

    Raises:
        UsageError: a teacher has no class in common with `labels`.
        RtsegError: a teacher cannot be opened, an image cannot be read, or the cache be written.
    """
    found: dict[str, Path] = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(_Teacher(spec, labels)) for spec in teachers]
        key = short_digest([t.key for t in opened] + ["own"] * own)
        more = opened[0].mirrored if own else ()
        for done, sample in enumerate(samples):
            progress(done, len(samples))
            path = cache_path(KIND, f"{key}-{_digest(sample)}.npz")
            if _read(path, len(labels) + len(more)) is None:
                _write(path, _asked(opened, sample.read_image(), len(labels), own=own))
            found[sample.name] = path
            mark_used([path])
        progress(len(samples), len(samples))
    mark_used(found.values())  # all of it may have taken longer than files are young
    make_room(cache_path(KIND, "_").parent, KEPT, most_files=math.inf)  # one per image
    return found, more


def read_soft(path: Path, classes: int) -> Soft:
    """The soft labels of a file, of its image's shape but as small as they were kept.

    Args:
        classes: K + T of the file.

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
    return soft


def doubted(mask: Mask, soft: Soft, background: int) -> Mask:
    """The (H, W) mask without the background where the teachers agree on an object.

    Near what is labelled, teachers of a coarse stride are not believed.

    Args:
        soft: (1 + K, h, w), without the first teacher's own classes.
    """
    size = mask.shape[1], mask.shape[0]
    soft = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in soft])
    objects = ((mask != background) & (mask != VOID)).astype(np.uint8)
    reach = 2 * round(NEAR * max(mask.shape)) + 1
    near = cv2.dilate(objects, np.ones((reach, reach), np.uint8))
    seen = (soft[1:].argmax(0) != background) & (soft[0] < 128)
    unknown = seen & (mask == background) & (near == 0)
    return np.where(unknown, VOID, mask).astype(np.uint8)


class ClassHead(nn.Module):
    """Learns all classes of a teacher from a backbone's deepest features, in training only.

    What tells a dog from a sofa is worth keeping where only people are looked for: a backbone that
    learns two classes from few images forgets it, and takes both for people.

    Args:
        network: with a `backbone`; its outputs get "taught", (N, T, h, w) logits at the features'
            own stride, while it is in training mode.
        classes: T.
    """

    NAME = "teacher_classifier"
    """In the network's state."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        backbone = network.get_submodule("backbone")
        with torch.no_grad():
            seen = self._deepest(backbone.eval()(torch.zeros(1, 3, 64, 64)))
        backbone.train(network.training)
        self.layer = nn.Conv2d(seen.shape[1], classes, 1)
        self._seen: Tensor | None = None
        network.add_module(self.NAME, self)
        # bound methods, so that a deep copy of the network has hooks of its own
        backbone.register_forward_hook(self._keep)
        network.register_forward_hook(self._add)

    def _keep(self, _module: nn.Module, _inputs: object, features: Any) -> None:
        if self.training:
            self._seen = self._deepest(features)

    def _add(self, _module: nn.Module, _inputs: object, outputs: dict[str, Tensor]) -> None:
        if self._seen is not None:
            outputs["taught"], self._seen = self.layer(self._seen), None

    @staticmethod
    def _deepest(features: Any) -> Tensor:
        several = features.values() if isinstance(features, Mapping) else features
        found: Tensor = max(several, key=lambda each: each.shape[1])
        return found


class _Teacher:
    """A network, and which of its classes is which of those that are trained."""

    def __init__(self, spec: NetworkSpec, labels: LabelSet) -> None:
        model = find_model(spec.model, input_flags=spec.settings or None)
        classes = ClassMap.between(labels, model.spec.labels, spec.classes)
        assert classes.from_network is not None, "a network has two sides"
        ours = classes.from_dataset.copy()
        if (
            labels.background is not None
        ):  # what is not told apart from it is nowhere, not half of it
            lacking = ours == ours[labels.background]
            lacking[labels.background] = False
            ours[lacking] = VOID
        self.tables: tuple[Table, Table] = ours, classes.from_network
        self._scored, self.mirrored = len(classes.labels), model.spec.labels.mirrored
        self.weight = spec.weight
        policy = InputPolicy.parse(spec.imgsz) if spec.imgsz else None
        self._network = Network(spec.name or spec.model, model, policy, refine=spec.refine)
        self.key = (
            digest_of(model.file) if model.file else "",
            model.spec.to_json(),  # with what a TOML file beside it sets
            sorted(map(str, spec.settings.items())),
            astuple(labels),
            spec.imgsz,
            spec.classes,
            spec.weight,
            spec.refine,
            LONG_SIDE,
            MADE,
        )

    def __call__(
        self, image: Image, classes: int, *, own: bool
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """(K, h, w) probabilities; 0 of a class that the teacher does not have.

        And, if `own`, those of each of its own classes, (h, w).
        """
        segmentation = self._network(image)
        ours, theirs = self.tables
        height, width = image.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        scored = np.zeros((self._scored + 1, size[1], size[0]), np.float32)  # the last is nothing
        several = []
        for index in range(len(self.mirrored)):
            if theirs[index] != VOID or own:
                probability = segmentation.probability(index)
                small = cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
                several.append(small.astype(np.float32))
            if theirs[index] != VOID:
                scored[theirs[index]] += small
        planes = np.stack([scored[min(int(ours[i]), self._scored)] for i in range(classes)])
        return planes / planes.sum(0, keepdims=True).clip(min=1e-6), several if own else []

    def __enter__(self) -> _Teacher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._network.close()


def _asked(teachers: Sequence[_Teacher], image: Image, classes: int, *, own: bool) -> Soft:
    first, several = teachers[0](image, classes, own=own)
    answers = [first, *(teacher(image, classes, own=False)[0] for teacher in teachers[1:])]
    weights = np.array([teacher.weight for teacher in teachers], np.float32)
    mean = np.tensordot(weights / weights.sum(), np.stack(answers), 1)
    favourites = np.stack([answer.argmax(0) for answer in answers])
    distrust = (favourites != favourites[:1]).any(0)
    probabilities = np.stack([*mean, *several])
    return np.concatenate([255 * distrust[None], np.rint(255 * probabilities)]).astype(np.uint8)


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
