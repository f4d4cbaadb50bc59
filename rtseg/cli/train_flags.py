"""The flags of `rtseg train`, in the groups in which `--help` shows them.

None is what was not given; `rtseg.train.Settings` has the defaults, and the texts here name them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from cyclopts import Group, Parameter

from rtseg.cli import values
from rtseg.cli.values import Real, Text, Whole, flag

DATASET = Group("Labelled pictures", sort_key=1)
NETWORK = Group("Network", sort_key=2)
TRAINING = Group("Training", sort_key=3)
PICTURES = Group("Augmentation", sort_key=4)
RUN = Group("Run", sort_key=5)

CHANGEABLE = {"epochs", "max_steps", "patience", "workers", "device", "out"}
"""Settings that a run may be resumed with."""

NO_SETTINGS = {"config", "resume", "overwrite", "quiet"}
"""Flags of which a run's config.toml says nothing."""


@Parameter(name="*", group=DATASET)
@dataclass(frozen=True)
class DatasetFlags:
    """What it learns from."""

    dataset: Annotated[
        Text, flag("Folder or file of labelled pictures.", "--data", "--dataset")
    ] = None
    format: Annotated[Text, flag("Their layout: auto (default), coco, cityscapes, voc, ...")] = None
    classes: Annotated[
        tuple[str, ...],
        flag("Merge or leave out classes, as person=man,woman or ignore=sky; repeatable."),
    ] = ()


@Parameter(name="*", group=NETWORK)
@dataclass(frozen=True)
class StartFlags:
    """What it starts from."""

    model: Annotated[
        Text,
        flag(
            "One of torchvision's six (default deeplabv3_resnet50), or a checkpoint.",
            "--model",
            "-m",
        ),
    ] = None
    weights: Annotated[
        Text,
        flag("pretrained (default), backbone (ImageNet), scratch, or a file of weights."),
    ] = None
    size: Annotated[Text, flag("Size of crops, HxW or one number (default 513).")] = None


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class TrainingFlags:
    """How it learns."""

    epochs: Annotated[Whole, flag("Times it goes through the pictures (default 10).")] = None
    batch_size: Annotated[Whole, flag("Pictures per step and device (default 8).")] = None
    lr: Annotated[Real, flag("Learning rate (default 0.0001; with sgd 0.001).")] = None
    optimizer: Annotated[
        Optional[Literal["adam", "adamw", "sgd"]], flag("Default adam.")  # noqa: UP045
    ] = None
    weight_decay: Annotated[Real, flag("Default 0.0001.")] = None
    momentum: Annotated[Real, flag("Of sgd (default 0.9).")] = None
    schedule: Annotated[
        Optional[Literal["poly", "cosine", "constant"]],  # noqa: UP045
        flag("How the learning rate falls (default poly, power 0.9)."),
    ] = None
    aux_weight: Annotated[
        Real, flag("Weight of the auxiliary head's loss (default 0.5); 0 leaves it out.")
    ] = None
    class_weights: Annotated[
        Text, flag("none (default), auto (median frequency), or numbers with commas between.")
    ] = None
    monitor: Annotated[
        Optional[Literal["loss", "miou"]],  # noqa: UP045
        flag("What the best checkpoint is best in, on validation pictures (default loss)."),
    ] = None
    patience: Annotated[
        Whole, flag("Stop after so many epochs without a better one (default 5); 0 never does.")
    ] = None
    max_steps: Annotated[Whole, flag("Stop after so many steps.")] = None
    ema: Annotated[
        Real, flag("Keep a moving average of the weights with this decay, as 0.999.")
    ] = None


@Parameter(name="*", group=PICTURES)
@dataclass(frozen=True)
class PictureFlags:
    """How pictures are varied; 0 turns one off."""

    rotation: Annotated[Real, flag("Turn by up to so many degrees (default 15).")] = None
    brightness: Annotated[Real, flag("Change by up to this share (default 0.3).")] = None
    contrast: Annotated[Real, flag("Change by up to this share (default 0.3).")] = None
    flip: Annotated[Real, flag("Mirror this share of them (default 0.5).")] = None
    noise: Annotated[Real, flag("Add Gaussian noise up to this; white is 1 (default 0.05).")] = None
    scale: Annotated[
        Text, flag("Range of sizes at which they are cropped; 1 just fits (default 0.5,2).")
    ] = None


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class TrainRunFlags:
    """Where it runs, and what it leaves."""

    out: Annotated[Text, flag("The run folder (default run).", "--out", "-o")] = None
    device: Annotated[Text, flag("auto (default), cpu, cuda[:N], mps.", "--device", "-d")] = None
    devices: Annotated[
        Whole, flag("How many, each with a process and a batch of its own (default 1).")
    ] = None
    precision: Annotated[
        Optional[Literal["auto", "fp32", "bf16", "fp16"]],  # noqa: UP045
        flag("Mixed precision; auto (default) is bf16 on NVIDIA GPUs and processors that have it."),
    ] = None
    workers: Annotated[
        Whole, flag("Processes that read pictures (default: one per core, 8 at most).")
    ] = None
    seed: Annotated[Whole, flag("Decides everything random (default 0).")] = None
    config: Annotated[
        Text, flag("TOML file of settings, as a run's config.toml; the command line wins.")
    ] = None
    resume: Annotated[bool, flag("Go on with the run in the folder.")] = False
    overwrite: Annotated[bool, flag("Replace the run in the folder.", "--overwrite", "-y")] = False
    quiet: Annotated[bool, flag("Say nothing but errors.", "--quiet", "-q")] = False


@dataclass(frozen=True)
class TrainFlags:
    """Everything `rtseg train` was asked."""

    dataset: DatasetFlags
    start: StartFlags
    training: TrainingFlags
    pictures: PictureFlags
    run: TrainRunFlags

    def given(self) -> dict[str, Any]:
        """What was given, by the names of `Settings`.

        Raises:
            UsageError: a size or range cannot be read.
        """
        found = {
            name: value
            for group in asdict(self).values()
            for name, value in group.items()
            if name not in NO_SETTINGS and value not in (None, ())
        }
        if "size" in found:
            found["size"] = values.input_size("--size", found["size"])
        if "scale" in found:
            found["scale"] = values.pair("--scale", found["scale"])
        if "dataset" in found:  # so that a run can be resumed from another folder
            found["dataset"] = str(Path(found["dataset"]).expanduser().absolute())
        return found
