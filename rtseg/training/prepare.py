"""Prepare a run: check options and dataset, load the network, create the run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rtseg.datasets import Dataset, Sample, open_dataset
from rtseg.datasets.checks import check, degenerate, values_of
from rtseg.datasets.classes import ClassMap
from rtseg.datasets.split import (
    alike,
    describe_shares,
    describe_split,
    leaks,
    look,
    new_split,
    split_dataset,
)
from rtseg.errors import DatasetError, DownloadError, ModelError, RtsegError, UsageError
from rtseg.evaluation.sets import Suite, open_mix, read_suite, weighed
from rtseg.frame import Image, Mask
from rtseg.labels import VOID, LabelSet, palette
from rtseg.nets import find_model
from rtseg.nets.build import backbone_state, backbone_weights, build, family_of
from rtseg.nets.onnx_file import convolutions
from rtseg.nets.state import TRAINING_ONLY, check_weights, own_names, read_checkpoint
from rtseg.nets.weights import Progress, fetch, weights_path
from rtseg.text import counted, listed, user_path
from rtseg.training.folder import Callback, RunFolder, Split
from rtseg.training.loop import load_state
from rtseg.training.losses import parse_terms, parse_weights
from rtseg.training.options import CLASS_IOU, TrainOptions
from rtseg.training.teachers import ClassHead, soft_labels
from rtseg.zoo import FAMILIES, InputSpec, ModelSpec, WeightsSpec, built_in, family_named

KINDS = ("pretrained", "backbone", "scratch")

_OWN_DATA = "trained on your images, whose terms apply as well"

BATCH_NORM_MOMENTUM = 0.1
"""torch's own. With the 0.01 of torchvision's MobileNet, running statistics remember a hundred
steps, more than a short training has: it would be validated with the statistics it started with."""


@dataclass(frozen=True)
class Start:
    """A network to train, and where its weights come from.

    Attributes:
        network: in training mode, on the CPU; with an auxiliary head if requested.
        spec: of the finished model, without its size, name and figures.
        notes: (heading, text) lines: which weights, what is kept, what is new.
        folded: the backbone's batch normalisation is to be measured (`measure_norms`).
    """

    network: nn.Module
    spec: ModelSpec
    notes: tuple[tuple[str, str], ...]
    folded: bool = False


def start(
    model: str,
    weights: str | None,
    labels: LabelSet,
    *,
    aux: bool,
    seed: int,
    progress: Progress | None = None,
) -> Start:
    """The network `model` for `labels`, starting from `weights`.

    The last layers are new unless the classes have the same names in the same order. New layers
    are random by `seed`.

    Raises:
        ModelError: the model is unknown or cannot be trained, or the weights are of another one.
        DownloadError: published weights are not in the cache and cannot be downloaded.
    """
    base, state, source = _origin(model, weights, progress)
    usual = built_in(base.architecture)
    assert usual is not None, "its family is known"
    spec = replace(
        usual,
        labels=labels,
        input=_input(base.input),
        weights=None,
        miou=None,
        licence=_licence(base, from_weights=state is not None),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_trainable(base.architecture, len(labels), aux=aux)
    if state is None:
        return Start(network, spec, (("weights", source), ("head", "everything is new")))
    same = base.labels.names == labels.names
    asked = f"cannot start {base.architecture} from {source}"
    new, kept = _transplant(network, state, base.architecture, keep_head=same, asked=asked)
    notes = ("weights", f"{source}; {kept}"), ("head", _head(new, labels))
    return Start(network, spec, notes, folded=_is_onnx(weights))


def _licence(base: ModelSpec, *, from_weights: bool) -> str:
    """The licence of the weights that training starts from; that of the data is the user's."""
    first = (base.weights.licence if base.weights else base.licence) if from_weights else ""
    return first if first.endswith(_OWN_DATA) else "; ".join(filter(None, (first, _OWN_DATA)))


def resumed(state: Mapping[str, Any], labels: LabelSet, *, aux: bool) -> Start:
    """The network of an earlier run, whose weights the loop will restore.

    Args:
        state: the saved state of the loop.

    Raises:
        DatasetError: the dataset no longer has the classes of that run.
        UsageError: the state does not describe its network.
    """
    try:
        spec = ModelSpec.from_json(state["spec"])
    except (KeyError, TypeError, RtsegError) as error:
        found = "its last.ckpt does not describe the network"
        raise UsageError("cannot resume the run", found=found) from error
    if spec.labels.names != labels.names:
        raise DatasetError(
            "cannot resume",
            found=f"the run has the classes {', '.join(spec.labels.names)}, the dataset now has "
            + ", ".join(labels.names),
        )
    network = build_trainable(spec.architecture, len(labels), aux=aux)
    return Start(network, spec, (("weights", "those of the run so far"),))


def build_trainable(architecture: str, num_classes: int, *, aux: bool) -> nn.Module:
    """A network in training mode, with random weights.

    Args:
        aux: with an auxiliary head, if its family has one.
    """
    network = build(architecture, num_classes, aux=aux)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = max(layer.momentum or 0.0, BATCH_NORM_MOMENTUM)
    return network.train()


def _origin(
    model: str, weights: str | None, progress: Progress | None
) -> tuple[ModelSpec, Mapping[str, Tensor] | None, str]:
    """The spec to start from, its weights if any, and a description of them."""
    spec = None if family_named(model) is None else built_in(model)
    if spec is None:
        return _from_checkpoint(model, weights)
    kinds = _kinds(spec)
    if weights in KINDS and weights not in kinds:
        raise ModelError(
            f"--weights {weights} for {model}",
            found="none are published",
            do=f"Give {', '.join(kinds)}, or a file",
        )
    if weights == "scratch" or (weights is None and kinds == ["scratch"]):
        return spec, None, "none: training from scratch takes far more images and time"
    if weights in (None, "pretrained") and spec.weights is not None:
        path = _fetch(spec.weights, kinds[1:], progress)
        return spec, read_checkpoint(path)[1], f"{path.name}, pretrained on {spec.dataset}"
    if weights == "backbone" or (weights is None and spec.weights is None):
        found = backbone_weights(model)
        path = _fetch(found, [k for k in kinds if k != "backbone"], progress)
        state = backbone_state(model, read_checkpoint(path)[1])
        return (
            replace(spec, weights=found),
            state,
            f"{path.name}, the backbone pretrained on ImageNet",
        )
    return _from_file(spec, user_path(str(weights)))


def _kinds(spec: ModelSpec) -> list[str]:
    """What `--weights` may be for a network, files aside."""
    backbone = family_of(spec.architecture).backbone_weights
    there = (spec.weights is not None, bool(backbone), True)
    return [kind for kind, is_there in zip(KINDS, there, strict=True) if is_there]


def _from_checkpoint(
    model: str, weights: str | None
) -> tuple[ModelSpec, Mapping[str, Tensor] | None, str]:
    found = find_model(model)
    if found.file is None or found.format != "torch" or not family_named(found.spec.architecture):
        raise ModelError(
            f"cannot train {model}",
            found="it is not a checkpoint of rtseg",
            do=f"Give a checkpoint, or one of {', '.join(FAMILIES)}",
        )
    if weights is not None:
        raise UsageError(
            f"--weights {weights} for {model}",
            found="a checkpoint has its own weights",
            do=f"Name the architecture: --model {found.spec.architecture} --weights {weights}",
        )
    state = own_names(found.spec.architecture, read_checkpoint(found.file)[1])
    return found.spec, state, str(found.file)


def _from_file(spec: ModelSpec, path: Path) -> tuple[ModelSpec, Mapping[str, Tensor], str]:
    if not path.is_file():
        raise ModelError(
            f"cannot open the weights {path}",
            found="no such file",
            do=f"Give {', '.join(_kinds(spec))}, or a file",
        )
    own, state = (None, _convolutions(path)) if _is_onnx(path) else read_checkpoint(path)
    check_weights(path, state)
    if own is not None and own.architecture != spec.architecture:
        raise ModelError(
            f"weights {path} for {spec.name}", found=f"they are for {own.architecture}"
        )
    unknown = replace(spec, weights=None, licence=f"that of {path.name}")
    if not any(key.startswith("backbone.") for key in state):  # of a network for classification
        state = backbone_state(spec.architecture, state)
    return own or unknown, state, str(path)


def _is_onnx(weights: str | Path | None) -> bool:
    return weights is not None and Path(weights).suffix.lower() == ".onnx"


def _convolutions(path: Path) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in convolutions(path).items()}


def _fetch(weights: WeightsSpec, others: Sequence[str], progress: Progress | None) -> Path:
    """Download weights; the error names alternatives, with `others` of `KINDS`."""
    try:
        return fetch(weights, progress)
    except DownloadError as error:
        raise DownloadError(
            error.asked,
            found=error.found,
            do=f"Put the file at {weights_path(weights)}, or start from: --weights FILE, --model "
            "CHECKPOINT (person ships with rtseg), "
            + " or ".join(f"--weights {other}" for other in others),
        ) from error


def _transplant(
    network: nn.Module, state: Mapping[str, Tensor], architecture: str, keep_head: bool, asked: str
) -> tuple[list[str], str]:
    """Load the weights that fit; returns the parameters that stay new, and the share kept.

    Raises:
        ModelError: `state` lacks weights of the backbone: it is of another network.
    """
    own = network.state_dict()
    last = () if keep_head else tuple(f"{layer}." for layer in family_of(architecture).class_layers)
    taken = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape and not key.startswith(last)
    }
    new = [key for key in own if key not in taken and not key.endswith("num_batches_tracked")]
    if lost := [key for key in new if key.startswith("backbone.")]:
        raise ModelError(
            asked, found=f"{len(lost)} weights of the backbone are missing ({lost[0]}, ...)"
        )
    network.load_state_dict(taken, strict=False)
    parameters = [(key, p.numel()) for key, p in network.named_parameters()]
    share = sum(n for key, n in parameters if key in taken) / sum(n for _, n in parameters)
    return new, f"{100 * share:.1f} % of the parameters kept"


def _head(new: list[str], labels: LabelSet) -> str:
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in new))
    if not layers:
        return f"kept: the {len(labels)} classes are the same"
    shown = ", ".join(layers) if len(layers) <= 4 else f"{len(layers)} layers ({layers[0]}, ...)"
    return f"new for {len(labels)} classes: {shown}"


def _input(old: InputSpec) -> InputSpec:
    """Colour order and normalisation of the start; the size is set later."""
    return replace(old, fixed=False, layout="NCHW", dtype="float32")


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, before a device is used.

    Attributes:
        spec: of the finished model, without its mean IoU.
        state: of the resumed run, as `load_state` returns it; None for a new run.
        soft: sample name -> file of its soft labels; empty without teachers.
        taught: for each class of the first teacher that the network learns besides, of the T of
            `Soft`, the class that it is in a mirror image.
        folded: as `Start.folded`.
    """

    options: TrainOptions
    folder: RunFolder
    dataset: Dataset
    classes: ClassMap
    split: Split
    network: nn.Module
    spec: ModelSpec
    state: dict[str, Any] | None
    soft: Mapping[str, Path]
    taught: tuple[int, ...] = ()
    folded: bool = False


def prepare(
    options: TrainOptions, callback: Callback, *, main: bool, resume: bool, overwrite: bool
) -> Prepared:
    """Open, check and split the dataset, load the network, create the folder.

    Args:
        main: whether this is the main process; others check and write nothing.

    Raises:
        RtsegError: as `train`.
    """
    folder = RunFolder(user_path(options.out))
    state = load_state(folder.last) if resume else None
    if main and not resume:
        folder.check_free(overwrite=overwrite)
    data = open_data(options, callback, main=main, earlier=folder if resume else None)
    dataset, classes, split = data.dataset, data.classes, data.split
    _check_monitor(options, data)
    started = _open_start(options, classes, state, callback)
    spec = _spec(started, options, dataset)
    _check_batch_size(options, spec.architecture)
    parse_terms(options.loss)
    if options.class_weights not in ("none", "auto"):
        parse_weights(options.class_weights, spec.labels)
    _report_network(callback, started, spec)
    if main and not resume:
        folder.check_apart(dataset, options, _named_in_mix(options))
        folder.claim()
        folder.write_split(split, data.origin)
    if main:
        folder.write_config(options)
    network, folded = started.network, started.folded
    soft, taught = _taught(options, classes, split, callback)
    if taught:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            ClassHead(network, len(taught))
    return Prepared(
        options, folder, dataset, classes, split, network, spec, state, soft, taught, folded
    )


def _is_mix(options: TrainOptions) -> bool:
    return Path(options.dataset).suffix.lower() == ".toml"


def _mix(options: TrainOptions) -> Suite:
    return read_suite(Path(options.dataset)) if _is_mix(options) else Suite((), ())


def _named_in_mix(options: TrainOptions) -> list[str]:
    """Teachers, and the lists of images to take or to leave out."""
    mix = _mix(options)
    lists = [path for one in mix.sets for path in (one.names, one.without) if path]
    return [*(teacher.model for teacher in mix.networks), *map(str, lists)]


def _opened(options: TrainOptions, callback: Callback) -> Dataset:
    path, allowed = Path(options.dataset), options.allow_outside
    if _is_mix(options):
        if options.format != "auto":
            raise UsageError(
                f"--format {options.format} with {path}",
                found="it is a mix of datasets",
                do="Write it as format = ... of each [[set]] that it is for",
            )
        return open_mix(path, allow_outside=allowed, progress=callback.on_clip)
    return open_dataset(path, format=options.format, allow_outside=allowed)


def _taught(
    options: TrainOptions, classes: ClassMap, split: Split, callback: Callback
) -> tuple[dict[str, Path], tuple[int, ...]]:
    """What the teachers of a mix say of the training images, as `soft_labels` returns it."""
    own, teachers = options.teacher_classes > 0, _mix(options).networks
    if own and not teachers:
        raise UsageError(
            f"--teacher-classes {options.teacher_classes:g}",
            found=f"{options.dataset} has no teachers",
            do="Name one in a mix of datasets, as [[network]]",
        )
    if not teachers or not (options.teacher_weight or own):
        return {}, ()
    names = ", ".join(teacher.name or teacher.model for teacher in teachers)
    classes_too = f", and all its classes, weight {options.teacher_classes:g}" if own else ""
    callback.note("teachers", f"{names}, weight {options.teacher_weight:g}{classes_too}")
    return soft_labels(teachers, classes.labels, split["train"], callback.on_teach, own=own)


@dataclass(frozen=True)
class Data:
    """A dataset as training sees it.

    Attributes:
        origin: a line on where the splits come from.
        contents: None in processes other than the main one.
    """

    dataset: Dataset
    classes: ClassMap
    split: Split
    origin: str
    contents: Contents | None


def open_data(
    options: TrainOptions,
    callback: Callback,
    *,
    main: bool = True,
    earlier: RunFolder | None = None,
) -> Data:
    """Open, check and split the dataset, and report it.

    Args:
        main: whether this is the main process; others check nothing.
        earlier: the folder of a run whose splits are kept.

    Raises:
        RtsegError: as `train`.
    """
    dataset = _opened(options, callback)
    classes = ClassMap.between(dataset.labels, None, options.classes)
    if options.palette is not None:
        colours = palette(options.palette, len(classes.labels), classes.labels.names)
        classes = replace(classes, labels=classes.labels.with_colours(colours))
    if options.shares is not None:
        dataset = replace(dataset, samples=tuple(replace(s, split="") for s in dataset.samples))
    contents = _checked(dataset, callback) if main else None
    split, origin = _split(options, dataset, earlier, contents, classes)
    split = {**split, "train": weighed(dataset.root, split["train"])}
    if contents is not None:
        _check_labelled(dataset, split, contents, classes, callback)
        for warning in (*leaks(split), *alike(split, contents.looks)):
            callback.note("warning", warning)
    _report(callback, dataset, classes, split, origin)
    if options.flip and (note := _swapped(classes.labels)):
        callback.note("note", note)
    if options.paste and classes.labels.background is None:
        why = "as no class is the background, all that is labelled in an image is pasted"
        callback.note("warning", f"--paste {options.paste:g} hides whole images: {why}")
    return Data(dataset, classes, split, origin, contents)


@dataclass
class Contents:
    """What is in the samples, by their names.

    Attributes:
        values: the values in each mask.
        counts: (256,) pixels of each value.
        sizes: (height, width).
        looks: as `look` returns it.
    """

    values: dict[str, set[int]] = field(default_factory=dict)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    looks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


def _checked(dataset: Dataset, callback: Callback) -> Contents:
    """Check every sample, and return what is in them.

    Raises:
        DatasetError: there are problems, which `callback` received.
    """
    contents = Contents()

    def on_sample(sample: Sample, image: Image, mask: Mask) -> None:
        contents.counts[sample.name] = np.bincount(mask.ravel(), minlength=256)
        contents.sizes[sample.name] = mask.shape
        contents.values[sample.name] = values_of(mask)
        contents.looks[sample.name] = look(image)

    problems = check(dataset, progress=callback.on_check, on_sample=on_sample)
    for problem in problems:
        callback.on_problem(str(problem))
    if problems:
        count = counted(len(problems), "problem")
        raise DatasetError(f"cannot train on {dataset.root}", found=f"{count}, listed above")
    return contents


def _check_labelled(
    dataset: Dataset, split: Split, contents: Contents, classes: ClassMap, callback: Callback
) -> None:
    """Raise DatasetError if train or val has no labelled pixel, or train only one class.

    The test split may have no labelled pixel, like Cityscapes', whose labels are secret: a note
    says so. Another says that val or test has one class only.
    """
    for name, samples in split.items():
        present = {value for sample in samples for value in contents.values[sample.name]}
        why = degenerate(present, classes)
        if not samples or not why:
            continue
        labelled = bool(set(classes.from_dataset[list(present)].tolist()) - {VOID})
        if labelled and name != "train":
            callback.note("warning", f"{name} says little: {why}")
            continue
        found = f"in {name}, {why}"
        if not labelled:
            found = f"no {name} image has a labelled pixel of a trained class"
        if name == "test":
            callback.note("note", f"{found}: it will not be measured")
            continue
        if not labelled:
            found += f": all of its {len(samples)} masks are 255 or ignored"
        raise DatasetError(
            f"cannot train on {dataset.root}",
            found=found,
            do="Label some of them, or choose other --classes.",
        )


def _check_monitor(options: TrainOptions, data: Data) -> None:
    """Raise UsageError if the class of `monitor` is unknown, or in no validation image."""
    if not options.monitor.startswith(CLASS_IOU):
        return
    name, names = options.monitor.removeprefix(CLASS_IOU), data.classes.labels.names
    asked = f"--monitor {options.monitor}"
    if name not in names:
        raise UsageError(asked, found=f"the classes are {', '.join(names)}")
    if data.contents is None:
        return
    here = {v for sample in data.split["val"] for v in data.contents.values[sample.name]}
    if names.index(name) not in data.classes.from_dataset[list(here)]:
        raise UsageError(asked, found=f"no validation image has a pixel of {name}")


def _split(
    options: TrainOptions,
    dataset: Dataset,
    earlier: RunFolder | None,
    contents: Contents | None,
    classes: ClassMap,
) -> tuple[Split, str]:
    """The splits, and a line on where they come from; `contents` is None in other processes."""
    if earlier is not None:
        return earlier.read_split(dataset), f"from {earlier.split}"
    labelled = replace(dataset, samples=tuple(s for s in dataset.samples if s.labelled))
    alone = tuple(sample for sample in dataset.samples if not sample.labelled)
    if options.shares is None:
        split = split_dataset(labelled, seed=options.seed)
        origin = describe_split(labelled, seed=options.seed)
    else:
        values = contents.values if contents else {}
        held = {
            sample.name: set(
                classes.from_dataset[
                    list(values.get(sample.name) or values_of(sample.read_mask()))
                ].tolist()
            )
            - {VOID}
            for sample in labelled.samples
        }
        split = new_split(labelled, held, seed=options.seed, shares=options.shares)
        origin = f"{describe_shares(options.shares)} by classes (--split, seed {options.seed})"
    return {**split, "train": (*split["train"], *alone)}, origin


def _open_start(
    options: TrainOptions, classes: ClassMap, state: dict[str, Any] | None, callback: Callback
) -> Start:
    if state is not None:
        return resumed(state, classes.labels, aux=options.aux_weight > 0)
    return start(
        options.model,
        options.weights,
        classes.labels,
        aux=options.aux_weight > 0,
        seed=options.seed,
        progress=callback.on_download,
    )


def _spec(started: Start, options: TrainOptions, dataset: Dataset) -> ModelSpec:
    base, name = started.spec, dataset.root.resolve().stem
    return replace(
        base,
        name=f"{base.architecture}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}",
        input=replace(base.input, size=options.size),
        dataset=f"{name} (validation split)",
        parameters=_millions(started.network),
    )


def _millions(network: nn.Module) -> float:
    """Parameters without the auxiliary head, in millions."""
    numbers = {name: p.numel() for name, p in network.named_parameters()}
    return sum(n for name, n in numbers.items() if not name.startswith(TRAINING_ONLY)) / 1e6


def _check_batch_size(options: TrainOptions, architecture: str) -> None:
    least = family_of(architecture).min_batch
    if options.batch_size < least:
        raise UsageError(
            f"--batch-size {options.batch_size} for {architecture}",
            found="its image pooling normalises over the batch, which needs more than one value",
            do=f"Use {least} or more",
        )


def _report(
    callback: Callback, dataset: Dataset, classes: ClassMap, split: Split, origin: str
) -> None:
    """Report the dataset, its classes and its split."""
    names = classes.labels.join_names(range(len(classes.labels)), most=8)
    images = counted(len(dataset), "image")
    count = f"{images}, {counted(len(classes.labels), 'class', 'classes')}: {names}"
    callback.note("dataset", f"{dataset.root} ({dataset.format}), {count}")
    for note in (*dataset.notes, *classes.assumptions):
        callback.note("note", note)
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in split.items())
    callback.note("split", f"{sizes}; {origin}")


def _swapped(labels: LabelSet) -> str:
    """A line on the classes that change places in mirror images; "" if none does."""
    pairs = [
        f"{labels.names[index]} and {labels.names[other]}"
        for index, other in enumerate(labels.mirrored)
        if index < other
    ]
    return f"in mirrored images these change places: {listed(pairs)}" if pairs else ""


def _report_network(callback: Callback, started: Start, spec: ModelSpec) -> None:
    size = f"{spec.input.size[0]}x{spec.input.size[1]}"
    millions = f"{spec.parameters:.1f} M parameters"
    callback.note("model", f"{spec.architecture}, {millions}, crops of {size} (HxW)")
    for heading, text in started.notes:
        callback.note(heading, text)
