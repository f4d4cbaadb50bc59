"""What a run is about to do: everything that can be refused, refused before a device is touched."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from rtseg.datasets import Dataset, Sample, open_dataset
from rtseg.datasets.checks import check
from rtseg.datasets.classmap import ClassMap
from rtseg.datasets.split import split_dataset, split_words
from rtseg.errors import DatasetError, UsageError
from rtseg.frame import VOID, Mask
from rtseg.train.course import load_course
from rtseg.train.folder import RunFolder, Split
from rtseg.train.loss import given_weights
from rtseg.train.settings import Settings
from rtseg.train.start import Start, resumed, start
from rtseg.train.watch import Watch
from rtseg.words import counted
from rtseg.zoo import ModelSpec


@dataclass(frozen=True)
class Prepared:
    """All that is known before a device is touched.

    Attributes:
        spec: of the finished network, but for its mean IoU.
        state: of the run that is gone on with, as `load_course` gives it; None for a new one.
    """

    settings: Settings
    folder: RunFolder
    dataset: Dataset
    classes: ClassMap
    split: Split
    network: nn.Module
    spec: ModelSpec
    state: dict[str, Any] | None


def prepare(
    settings: Settings, watch: Watch, *, lead: bool, resume: bool, overwrite: bool
) -> Prepared:
    """Open, check and split the dataset, load the network, begin the folder.

    Args:
        lead: whether this is the process that a person started; others check and write nothing.

    Raises:
        RtsegError: as `train`.
    """
    folder = RunFolder(Path(settings.out).expanduser())
    state = load_course(folder.last) if resume else None
    if lead and not resume:
        folder.check_free(overwrite=overwrite)
    dataset = open_dataset(settings.dataset, format=settings.format)
    classes = ClassMap.between(dataset.labels, None, settings.classes)
    labelled = _checked(dataset, classes, watch) if lead else None
    split, words = _split(settings, dataset, folder if resume else None)
    if labelled is not None:
        _refuse_unlabelled(dataset, split, labelled, watch)
    started = _started(settings, classes, state, watch)
    spec = _spec(started, settings, dataset)
    _refuse_single(settings, spec.architecture)
    if settings.class_weights not in ("none", "auto"):
        given_weights(settings.class_weights, spec.labels)
    _tell(watch, dataset, classes, split, words)
    _tell_network(watch, started, spec)
    if lead and not resume:
        folder.claim()
        folder.write_split(split, words)
    if lead:
        folder.write_asked(settings)
    return Prepared(settings, folder, dataset, classes, split, started.network, spec, state)


def _checked(dataset: Dataset, classes: ClassMap, watch: Watch) -> set[str]:
    """Read all of it; the names of the samples that have a pixel of a trained class.

    Raises:
        DatasetError: something is wrong with it, and `watch` was told what.
    """
    labelled: set[str] = set()

    def seen(sample: Sample, mask: Mask) -> None:
        if (classes.from_dataset[mask] != VOID).any():
            labelled.add(sample.name)

    problems = check(dataset, progress=watch.checked, seen=seen)
    for problem in problems:
        watch.wrong(str(problem))
    if problems:
        count = counted(len(problems), "problem")
        raise DatasetError(f"cannot train on {dataset.root}", found=f"{count}, named above")
    return labelled


def _refuse_unlabelled(dataset: Dataset, split: Split, labelled: set[str], watch: Watch) -> None:
    """Raise DatasetError where the masks hold nothing to learn from, or nothing to choose by.

    Those of test may, as Cityscapes' do, whose labels are kept secret; it is told.
    """
    for name, samples in split.items():
        if not samples or any(sample.name in labelled for sample in samples):
            continue
        words = f"no picture of {name} has a labelled pixel of a trained class"
        if name == "test":
            watch.note("note", f"{words}: it will not be measured")
            continue
        raise DatasetError(
            f"cannot train on {dataset.root}",
            found=f"{words}: all of its {len(samples)} masks are 255 or ignored",
            do="Label some of them, or name other --classes.",
        )


def _split(settings: Settings, dataset: Dataset, earlier: RunFolder | None) -> tuple[Split, str]:
    if earlier is not None:
        return earlier.read_split(dataset), f"as {earlier.split} says"
    split = split_dataset(dataset, seed=settings.seed)
    return split, split_words(dataset, seed=settings.seed)


def _started(
    settings: Settings, classes: ClassMap, state: dict[str, Any] | None, watch: Watch
) -> Start:
    if state is not None:
        return resumed(state, classes.labels, aux=settings.aux_weight > 0)
    return start(
        settings.model,
        settings.weights,
        classes.labels,
        aux=settings.aux_weight > 0,
        seed=settings.seed,
        progress=watch.fetched,
    )


def _spec(started: Start, settings: Settings, dataset: Dataset) -> ModelSpec:
    base, name = started.spec, dataset.root.resolve().stem
    return replace(
        base,
        name=f"{base.architecture}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}",
        input=replace(base.input, size=settings.size),
        dataset=f"{name} (validation split)",
        parameters=_millions(started.network),
    )


def _millions(network: nn.Module) -> float:
    """Parameters of what runs live, in millions."""
    numbers = {name: p.numel() for name, p in network.named_parameters()}
    return sum(n for name, n in numbers.items() if not name.startswith("aux_")) / 1e6


def _refuse_single(settings: Settings, architecture: str) -> None:
    if settings.batch_size == 1 and architecture.startswith("deeplabv3"):
        raise UsageError(
            f"--batch-size 1 for {architecture}",
            found="its image pooling normalises over the batch, and one value has no spread",
            do="Give 2 or more",
        )


def _tell(watch: Watch, dataset: Dataset, classes: ClassMap, split: Split, words: str) -> None:
    """What is about to be trained on."""
    names = classes.labels.listed(range(len(classes.labels)), most=8)
    pictures = counted(len(dataset), "picture")
    count = f"{pictures}, {counted(len(classes.labels), 'class', 'classes')}: {names}"
    watch.note("dataset", f"{dataset.root} ({dataset.format}), {count}")
    for note in (*dataset.notes, *classes.said):
        watch.note("note", note)
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in split.items())
    watch.note("split", f"{sizes}; {words}")


def _tell_network(watch: Watch, started: Start, spec: ModelSpec) -> None:
    size = f"{spec.input.size[0]}x{spec.input.size[1]}"
    millions = f"{spec.parameters:.1f} M parameters"
    watch.note("network", f"{spec.architecture}, {millions}, crops of {size} (HxW)")
    for heading, text in started.notes:
        watch.note(heading, text)
