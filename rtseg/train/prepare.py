"""What a run is about to do: everything that can be refused, refused before a device is touched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rtseg.datasets import Dataset, Sample, open_dataset
from rtseg.datasets.checks import check
from rtseg.datasets.classes import ClassMap
from rtseg.datasets.split import describe_split, split_dataset
from rtseg.errors import DatasetError, DownloadError, ModelError, UsageError, counted
from rtseg.frame import VOID, Mask
from rtseg.labels import LabelSet
from rtseg.nets import find_model
from rtseg.nets.build import LAST_LAYER, segmentation
from rtseg.nets.state import read_checkpoint
from rtseg.nets.weights import Progress, fetch, weights_path
from rtseg.train.folder import RunFolder, Split, Watch
from rtseg.train.learner import given_weights
from rtseg.train.loop import load_course
from rtseg.train.settings import Settings
from rtseg.zoo import MODELS, InputSpec, ModelSpec, WeightsSpec

KINDS = ("pretrained", "backbone", "scratch")

BACKBONES = {"mobilenet_v3_large": "MobileNet_V3_Large", "resnet50": "ResNet50"} | {
    "resnet101": "ResNet101"
}
"""End of an architecture's name -> torchvision's table of its backbone's ImageNet weights."""

_PREFIXES = {"features.": "", "fc.": None, "classifier.": None}
"""What stands before a backbone's keys in ImageNet weights; None for their own classifier."""

BATCH_NORM_MOMENTUM = 0.1
"""torch's own. With the 0.01 of torchvision's MobileNet, running statistics remember a hundred
steps: more than a short training has, whose network would then be measured with those it began
with."""


@dataclass(frozen=True)
class Start:
    """A network to train and where its numbers came from.

    Attributes:
        network: in training mode, on the CPU; with an auxiliary head if one was wanted.
        spec: of the finished network, without its size, name and figures.
        notes: (heading, text) lines for a person: which weights, what is kept, what is new.
    """

    network: nn.Module
    spec: ModelSpec
    notes: tuple[tuple[str, str], ...]


def start(
    model: str,
    weights: str | None,
    labels: LabelSet,
    *,
    aux: bool,
    seed: int,
    progress: Progress | None = None,
) -> Start:
    """The network called `model` for `labels`, its weights taken from where `weights` says.

    The last layers are new unless the classes have the same names in the same order. What is new
    is random by `seed`.

    Raises:
        ModelError: no such network, or one that cannot be trained, or another network's weights.
        DownloadError: published weights are neither here nor can they be fetched.
    """
    base, state, words = _origin(model, weights, progress)
    spec = replace(
        MODELS[base.architecture], labels=labels, input=_input(base.input), weights=None, miou=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_trainable(base.architecture, len(labels), aux=aux)
    if state is None:
        return Start(network, spec, (("weights", words), ("head", "everything is new")))
    same = base.labels.names == labels.names
    asked = f"cannot start {base.architecture} from {words}"
    new, kept = _transplant(network, state, base.architecture, keep_head=same, asked=asked)
    return Start(network, spec, (("weights", f"{words}; {kept}"), ("head", _head(new, labels))))


def resumed(state: Mapping[str, Any], labels: LabelSet, *, aux: bool) -> Start:
    """The network of an earlier run, for which the loop has the numbers.

    Args:
        state: what the loop saved.

    Raises:
        DatasetError: the dataset no longer has the classes of that run.
    """
    spec = ModelSpec.from_json(state["spec"])
    if spec.labels.names != labels.names:
        raise DatasetError(
            "cannot resume",
            found=f"the run has the classes {', '.join(spec.labels.names)}, the dataset now has "
            + ", ".join(labels.names),
        )
    network = build_trainable(spec.architecture, len(labels), aux=aux)
    return Start(network, spec, (("weights", "those that the run has reached"),))


def build_trainable(architecture: str, num_classes: int, *, aux: bool) -> nn.Module:
    """torchvision's network in training mode, random, with its auxiliary head if it has one."""
    builder: Any = getattr(segmentation(), architecture)
    options = {} if architecture.startswith("lraspp") else {"aux_loss": aux}
    network: nn.Module = builder(
        weights=None, weights_backbone=None, num_classes=num_classes, **options
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = max(layer.momentum or 0.0, BATCH_NORM_MOMENTUM)
    return network.train()


def backbone_weights(architecture: str) -> WeightsSpec:
    """The ImageNet weights that torchvision's authors start this network from."""
    segmentation()  # so that torchvision can be imported, whatever its build
    import torchvision.models as tables

    end = next(end for end in BACKBONES if architecture.endswith(end))
    entry = getattr(tables, f"{BACKBONES[end]}_Weights").IMAGENET1K_V1
    digest = Path(entry.url).stem.rpartition("-")[2]
    return WeightsSpec(entry.url, digest, "BSD-3-Clause", entry.meta["_file_size"])


def _origin(
    model: str, weights: str | None, progress: Progress | None
) -> tuple[ModelSpec, Mapping[str, Tensor] | None, str]:
    """The identity of what is started from, its weights if any, and words for them."""
    if model not in LAST_LAYER:
        return _from_checkpoint(model, weights)
    spec = MODELS[model]
    if weights == "scratch":
        return spec, None, "none: from scratch, which takes far more pictures and time"
    if weights in (None, "pretrained") and spec.weights is not None:
        path = _fetched(spec.weights, "backbone", progress)
        return spec, read_checkpoint(path)[1], f"{path.name}, pretrained on {spec.dataset}"
    if weights == "backbone":
        path = _fetched(backbone_weights(model), "pretrained", progress)
        state = _as_backbone(read_checkpoint(path)[1])
        return spec, state, f"{path.name}, the backbone pretrained on ImageNet"
    return _from_file(spec, Path(str(weights)).expanduser())


def _from_checkpoint(
    model: str, weights: str | None
) -> tuple[ModelSpec, Mapping[str, Tensor] | None, str]:
    found = find_model(model)
    if found.file is None or found.format != "torch" or found.spec.architecture not in LAST_LAYER:
        raise ModelError(
            f"cannot train {model}",
            found="it is no checkpoint of rtseg's",
            do=f"Name a checkpoint, or one of {', '.join(LAST_LAYER)}",
        )
    if weights is not None:
        raise UsageError(
            f"--weights {weights} for {model}",
            found="a checkpoint has its own weights",
            do=f"Name the network: --model {found.spec.architecture} --weights {weights}",
        )
    return found.spec, read_checkpoint(found.file)[1], str(found.file)


def _from_file(spec: ModelSpec, path: Path) -> tuple[ModelSpec, Mapping[str, Tensor], str]:
    if not path.is_file():
        raise ModelError(
            f"cannot open the weights {path}",
            found="there is no such file",
            do=f"Give {', '.join(KINDS)}, or a file",
        )
    own, state = read_checkpoint(path)
    if own is not None and own.architecture != spec.architecture:
        raise ModelError(f"weights {path} for {spec.name}", found=f"they are of {own.architecture}")
    return own or spec, state, str(path)


def _fetched(weights: WeightsSpec, other: str, progress: Progress | None) -> Path:
    """The file on this machine; what to try instead is named where it cannot be had."""
    try:
        return fetch(weights, progress)
    except DownloadError as error:
        raise DownloadError(
            error.asked,
            found=error.found,
            do=f"Put the file at {weights_path(weights)}, or start elsewhere: --weights {other}, "
            "--weights FILE, --model CHECKPOINT (person ships with rtseg), or --weights scratch",
        ) from error


def _as_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights under the names that they have inside a segmentation network."""
    renamed = {}
    for key, value in state.items():
        prefix = next((p for p in _PREFIXES if key.startswith(p)), "")
        if (new := _PREFIXES.get(prefix, "")) is not None:
            renamed[f"backbone.{new}{key.removeprefix(prefix)}"] = value
    return renamed


def _transplant(
    network: nn.Module, state: Mapping[str, Tensor], architecture: str, keep_head: bool, asked: str
) -> tuple[list[str], str]:
    """Load what fits; returns the layers that stay new, and words for what was kept.

    Raises:
        ModelError: the backbone is not in `state`: the weights are another network's.
    """
    own = network.state_dict()
    last = () if keep_head else tuple(f"{layer}." for layer in last_layers(architecture))
    taken = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape and not key.startswith(last)
    }
    new = [key for key in own if key not in taken and not key.endswith("num_batches_tracked")]
    if lost := [key for key in new if key.startswith("backbone.")]:
        raise ModelError(
            asked, found=f"{len(lost)} weights of the backbone are not in it ({lost[0]}, ...)"
        )
    network.load_state_dict(taken, strict=False)
    learnt = [(key, p.numel()) for key, p in network.named_parameters()]
    share = sum(n for key, n in learnt if key in taken) / sum(n for _, n in learnt)
    return new, f"{100 * share:.1f} % of its numbers kept"


def last_layers(architecture: str) -> tuple[str, ...]:
    """The layers that have one channel per class."""
    if architecture.startswith("lraspp"):
        return "classifier.low_classifier", "classifier.high_classifier"
    return "classifier.4", "aux_classifier.4"


def _head(new: list[str], labels: LabelSet) -> str:
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in new))
    if not layers:
        return f"kept: the {len(labels)} classes are the same"
    shown = ", ".join(layers) if len(layers) <= 4 else f"{len(layers)} layers ({layers[0]}, ...)"
    return f"new for {len(labels)} classes: {shown}"


def _input(old: InputSpec) -> InputSpec:
    """Colour order and normalisation as they were; the size is the new network's own."""
    return replace(old, fixed=False, layout="NCHW", dtype="float32")


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

    problems = check(dataset, progress=watch.checked, on_sample=seen)
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
    return split, describe_split(dataset, seed=settings.seed)


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
    for note in (*dataset.notes, *classes.assumptions):
        watch.note("note", note)
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in split.items())
    watch.note("split", f"{sizes}; {words}")


def _tell_network(watch: Watch, started: Start, spec: ModelSpec) -> None:
    size = f"{spec.input.size[0]}x{spec.input.size[1]}"
    millions = f"{spec.parameters:.1f} M parameters"
    watch.note("network", f"{spec.architecture}, {millions}, crops of {size} (HxW)")
    for heading, text in started.notes:
        watch.note(heading, text)
