"""What a training run does, and the TOML file that repeats it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

from rtseg.backends.options import STRIDE
from rtseg.documents import to_toml
from rtseg.errors import UsageError
from rtseg.options import MAX_SIDE, MIN_SIDE, check, option

MONITORED = ("loss", "miou", "mean_accuracy", "pixel_accuracy")
"""What `monitor` may be, beside the IoU of a class."""

CLASS_IOU = "iou:"
"""Begins a `monitor` of one class."""


@dataclass(frozen=True)
class LoggerKind:
    """A row of `LOGGERS`.

    Attributes:
        open: "module:class", imported when needed.
        package: what it needs, as pip calls it.
    """

    open: str
    package: str


LOGGERS: dict[str, LoggerKind] = {
    "tensorboard": LoggerKind("rtseg.training.loggers:TensorBoard", "tensorboard"),
    "wandb": LoggerKind("rtseg.training.loggers:Wandb", "wandb"),
    "mlflow": LoggerKind("rtseg.training.loggers:MLflow", "mlflow"),
}

LEARNING_RATES: dict[str, float] = {"adam": 1e-4, "adamw": 1e-4, "sgd": 1e-3}


@dataclass(frozen=True)
class TrainOptions:
    """What a training run does.

    Attributes:
        dataset: Folder or file of labelled images, or a TOML file of several with their shares.
        format: Layout of --data: auto, coco, cityscapes, voc, ...
        split: Split anew, such as 80/10/10 (train/val/test), with equal shares of each class;
            default is the dataset's own splits, or 80/10/10 at random.
        classes: Merge or ignore classes, such as person=man,woman or ignore=sky; repeatable.
        palette: Class colours to keep in the checkpoint: voc, cityscapes, ade20k, names,
            random:SEED, or a file; default is the dataset's.
        allow_outside: Read images that names or links in --data lead to, outside its folder.
        model: An architecture that rtseg models lists, fpn_timm:NAME, or a checkpoint.
        weights: Initial weights: pretrained (the default, or a checkpoint's own), backbone
            (ImageNet; the default where no others are published), scratch, or a file.
        size: Size of crops and of the trained model's input, HxW or one number.
        epochs: Passes over the images.
        batch_size: Images at a time and device.
        accumulate: Batches per step of the optimizer, for batches larger than memory.
        optimizer: Optimizer.
        lr: Learning rate; default 0.0001, with sgd 0.001.
        weight_decay: Weight decay.
        momentum: Momentum of sgd.
        backbone_lr: Factor of the backbone's learning rate.
        freeze: Leave the backbone as it is for this many epochs.
        warmup: Steps in which the learning rate rises.
        schedule: Learning rate schedule; poly (power 0.9) and cosine end at 0.
        clip: Largest norm of the gradient.
        loss: A loss and its weight, such as ce or dice=0.5: ce (cross-entropy), dice, jaccard,
            lovasz; repeatable, they are summed.
        edge_weight: Weigh pixels at a border of two classes more by this, in ce; 0 is off.
        edge_reach: How near to a border that is, in pixels of the crop.
        teacher_weight: Weight of what the teachers say, where a mix has any ([[network]]).
        teacher_temperature: Soften what teachers and the model say by this before comparing.
        teacher_classes: Weight of a head, in training only, that learns all classes of the first
            teacher; 0 leaves it out.
        aux_weight: Weight of the auxiliary head's loss; 0 leaves the head out.
        class_weights: Weights in the loss: none, auto (median frequency), or numbers with commas.
        monitor: Validation metric that decides which checkpoint is best: loss, miou,
            mean_accuracy, pixel_accuracy, or the IoU of a class, such as iou:person.
        patience: Stop after this many epochs without improvement; 0 never stops.
        max_steps: Stop after this many steps.
        save_every: Save the state for --resume every this many minutes within an epoch as well; 0
            saves at its end only.
        ema: Keep a moving average of the weights with this decay, such as 0.999, and validate it.
        rotation: Rotate by up to this many degrees; 0 is off.
        brightness: Change brightness by up to this share; 0 is off.
        contrast: Change contrast by up to this share; 0 is off.
        saturation: Change saturation by up to this share; 0 is off.
        gamma: Darken or brighten by a gamma of up to 1 more than this; 0 is off.
        grey: Turn this share of the images grey; 0 is off.
        blur: Blur this share of the images; 0 is off.
        jpeg: Compress this share of the images by JPEG; 0 is off.
        paste: Paste the objects of another image onto this share of the images; 0 is off.
        margins: Show this share of the images as an upright video on a wide screen; 0 is off.
        flip: Mirror this share of the images; 0 is off.
        noise: Add Gaussian noise of up to this standard deviation; white is 1, 0 is off.
        aspect: Stretch one side by up to this share of the other; 0 is off.
        scale: Range of scales of the images before cropping, such as 0.5,2; at 1 the crop just fits
            inside the image.
        out: The run folder.
        export: Also write the best model as best.onnx at the end, compared on validation images.
        logger: Also log to tensorboard, wandb or mlflow, where installed; repeatable.
        device: auto, cpu, cuda[:N], mps.
        devices: Number of devices, each with its own process and batch.
        precision: Mixed precision; auto is bf16 on NVIDIA GPUs and CPUs that have it.
        workers: Processes that load images; default one per core, at most 8.
        seed: Random seed.

    Raises:
        UsageError: no dataset was given, or a value makes no sense.
    """

    dataset: str = ""
    format: str = "auto"
    split: str = ""
    classes: tuple[str, ...] = ()
    palette: str | None = None
    allow_outside: bool = False
    model: str = "deeplabv3_resnet50"
    weights: str | None = None
    size: tuple[int, int] = (512, 512)
    epochs: int = option(10, least=1, most=1_000_000)
    batch_size: int = option(8, least=1, most=65536)
    accumulate: int = option(1, least=1, most=65536)
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", choices=LEARNING_RATES)
    lr: float | None = option(None, least=1e-12, most=1e3)
    weight_decay: float = option(1e-4, least=0, most=1e3)
    momentum: float = option(0.9, least=0, most=0.9999)
    backbone_lr: float = option(1.0, least=0, most=100)
    freeze: int = option(0, least=0, most=1_000_000)
    warmup: int = option(0, least=0, most=10**9)
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    clip: float | None = option(None, least=1e-6, most=1e6)
    loss: tuple[str, ...] = ("ce",)
    edge_weight: float = option(0.0, least=0, most=1000)
    edge_reach: int = option(3, least=1, most=64)
    teacher_weight: float = option(0.5, least=0, most=100)
    teacher_temperature: float = option(1.0, least=0.1, most=100)
    teacher_classes: float = option(0.0, least=0, most=100)
    aux_weight: float = option(0.5, least=0, most=100)
    class_weights: str = "none"
    monitor: str = "loss"
    patience: int = option(5, least=0, most=1_000_000)
    max_steps: int | None = option(None, least=1, most=10**12)
    save_every: float = option(10.0, least=0, most=1e6)
    ema: float | None = option(None, least=0, most=0.999999)
    rotation: float = option(15.0, least=0, most=180)
    brightness: float = option(0.3, least=0, most=1)
    contrast: float = option(0.3, least=0, most=1)
    saturation: float = option(0.0, least=0, most=1)
    gamma: float = option(0.0, least=0, most=4)
    grey: float = option(0.0, least=0, most=1)
    blur: float = option(0.0, least=0, most=1)
    jpeg: float = option(0.0, least=0, most=1)
    paste: float = option(0.0, least=0, most=1)
    margins: float = option(0.0, least=0, most=1)
    flip: float = option(0.5, least=0, most=1)
    noise: float = option(0.05, least=0, most=1)
    aspect: float = option(0.0, least=0, most=1)
    scale: tuple[float, float] = (0.5, 2.0)
    out: str = "run"
    export: Literal["none", "onnx"] = "none"
    logger: tuple[str, ...] = option((), choices=LOGGERS)
    device: str = "auto"
    devices: int = option(1, least=1, most=1024)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    workers: int | None = option(None, least=0, most=1024)
    seed: int = option(0, least=0, most=2**32 - 1)

    def __post_init__(self) -> None:
        check(self)
        if not self.dataset:
            raise UsageError(
                "no dataset given", do="Try rtseg train --data PATH; see rtseg train --help"
            )
        height, width = self.size
        if not MIN_SIDE <= min(height, width) <= max(height, width) <= MAX_SIDE:
            found = f"each side is {MIN_SIDE} to {MAX_SIDE} pixels"
            raise UsageError(f"--size {height}x{width}", found=found)
        if not all(side % STRIDE == 0 for side in self.size) and not all(
            side % STRIDE == 1 for side in self.size
        ):
            found = f"networks run at sides that are multiples of {STRIDE}, or of one pixel more"
            near = "x".join(str(max(MIN_SIDE, round(side / STRIDE) * STRIDE)) for side in self.size)
            raise UsageError(f"--size {height}x{width}", found=found, do=f"Use {near}")
        least, most = self.scale
        if not 0.05 <= least <= most <= 20:
            found = "it is the least and the most, 0.05 to 20"
            raise UsageError(f"--scale {least:g},{most:g}", found=found)
        if self.monitor not in MONITORED and not self.monitor.startswith(CLASS_IOU):
            raise UsageError(
                f"--monitor {self.monitor}",
                found=f"choices are {', '.join(MONITORED)}, and {CLASS_IOU}CLASS",
            )
        if self.split:
            _ = self.shares

    @property
    def shares(self) -> tuple[float, float, float] | None:
        """Shares of train, val and test in `split`, which sum to 1; None to keep the splits."""
        if not self.split:
            return None
        try:
            parts = [float(part) for part in self.split.split("/")]
        except ValueError:
            parts = []
        whole = sum(parts)
        if len(parts) not in (2, 3) or not all(0 <= part < math.inf for part in parts):
            whole = math.nan
        if not (math.isclose(whole, 100) or math.isclose(whole, 1)) or 0 in parts[:2]:
            found = "it is percent of train, val and, if any, test, which sum to 100"
            raise UsageError(f"--split {self.split}", found=found, do="Write 80/10/10")
        train, val, test = (*(part / whole for part in parts), 0.0)[:3]
        return train, val, test

    @property
    def learning_rate(self) -> float:
        """The one given, else the optimizer's usual one."""
        return LEARNING_RATES[self.optimizer] if self.lr is None else self.lr

    def to_toml(self) -> str:
        """A TOML file with every option; `rtseg.options.from_values` gives equal options back."""
        values = asdict(replace(self, lr=self.learning_rate))
        return "# rtseg train --config FILE repeats this run\n" + to_toml(values)
