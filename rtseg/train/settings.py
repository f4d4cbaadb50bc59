"""The settings of a training run, and the TOML file that repeats it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rtseg.backends.options import MAX_SIDE, MIN_SIDE
from rtseg.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["poly", "cosine", "constant"]
Monitor = Literal["loss", "miou"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

LEARNING_RATES: dict[str, float] = {"adam": 1e-4, "adamw": 1e-4, "sgd": 1e-3}

CHOICES = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "monitor": get_args(Monitor),
    "precision": get_args(Precision),
}
BOUNDS: dict[str, tuple[float, float]] = {
    "epochs": (1, 1_000_000),
    "batch_size": (1, 65536),
    "lr": (1e-12, 1e3),
    "weight_decay": (0, 1e3),
    "momentum": (0, 0.9999),
    "aux_weight": (0, 100),
    "patience": (0, 1_000_000),
    "devices": (1, 1024),
    "workers": (0, 1024),
    "seed": (0, 2**32 - 1),
    "max_steps": (1, 10**12),
    "ema": (0, 0.999999),
    "rotation": (0, 180),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "flip": (0, 1),
    "noise": (0, 1),
}
"""Minimum and maximum of every number."""


@dataclass(frozen=True)
class Settings:
    """Every setting of a run; the defaults are those of `rtseg train`.

    Attributes:
        dataset: folder or file of labelled pictures.
        format: how it is laid out; a row of `rtseg.datasets.DATASETS`, or "auto".
        classes: what `ClassMap.between` takes; () keeps the dataset's own.
        model: one of torchvision's six, or a checkpoint of ours.
        weights: "pretrained" (segmentation), "backbone" (ImageNet), "scratch", or a file; None is
            "pretrained", or a checkpoint's own.
        batch_size: pictures per step and device.
        lr: learning rate; None is 1e-4, with sgd 1e-3.
        momentum: of sgd.
        schedule: "poly" (power 0.9) and "cosine" end at 0.
        size: (height, width) of the crops, and of the finished network's input.
        aux_weight: weight of the auxiliary head's loss; 0 builds none. LR-ASPP has none.
        class_weights: "none", "auto" (median frequency) or one number per class, with commas.
        patience: epochs without improvement before it stops; 0 never stops early.
        monitor: what the best checkpoint is best in, on the validation split.
        devices: how many, each with a process of its own.
        workers: processes that read pictures; None is one per processor core, 8 at most.
        max_steps: end after so many, whatever the epochs.
        ema: decay of a moving average of the weights, which is then what is validated and kept.
        rotation: turned by up to so many degrees, either way.
        brightness, contrast: changed by up to this share, either way.
        flip: share of the pictures that are mirrored.
        noise: largest standard deviation of Gaussian noise; white is 1.
        scale: range of the size at which a picture is cropped; at 1 it just fits into the crop.
        out: the run folder.
    """

    dataset: str
    format: str = "auto"
    classes: tuple[str, ...] = ()
    model: str = "deeplabv3_resnet50"
    weights: str | None = None
    epochs: int = 10
    batch_size: int = 8
    optimizer: Optimizer = "adam"
    lr: float | None = None
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Schedule = "poly"
    size: tuple[int, int] = (513, 513)
    aux_weight: float = 0.5
    class_weights: str = "none"
    patience: int = 5
    monitor: Monitor = "loss"
    precision: Precision = "auto"
    device: str = "auto"
    devices: int = 1
    workers: int | None = None
    seed: int = 0
    max_steps: int | None = None
    ema: float | None = None
    rotation: float = 15.0
    brightness: float = 0.3
    contrast: float = 0.3
    flip: float = 0.5
    noise: float = 0.05
    scale: tuple[float, float] = (0.5, 2.0)
    out: str = "run"

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(
                    f"{flag(name)} {value:g}", found=f"it is from {least:g} to {most:g}"
                )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                found = "there are " + ", ".join(choices)
                raise UsageError(f"{flag(name)} {getattr(self, name)}", found=found)
        _check_pairs(self.size, self.scale)

    @property
    def learning_rate(self) -> float:
        """The one given, else the optimizer's usual one."""
        return LEARNING_RATES[self.optimizer] if self.lr is None else self.lr

    def to_toml(self) -> str:
        """A TOML file with every setting; `from_toml` gives equal settings back."""
        values = asdict(replace(self, lr=self.learning_rate))
        lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
        return "\n".join(["# rtseg train --config FILE repeats this run", *lines, ""])

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings of plain values, as a TOML file holds them.

        Raises:
            UsageError: a name is unknown, a value of the wrong kind or out of its range, or the
                dataset is missing.
        """
        known = {field.name: field for field in fields(cls)}
        if unknown := [name for name in values if name not in known]:
            raise UsageError(
                f"unknown setting {unknown[0]!r}", found="there are " + ", ".join(known)
            )
        if not values.get("dataset"):
            raise UsageError(
                "no dataset given", do="Try rtseg train --data PATH; see rtseg train --help"
            )
        return cls(**{name: _typed(name, known[name].type, v) for name, v in values.items()})


def read_toml(path: Path) -> dict[str, Any]:
    """The values that `Settings.to_toml` wrote.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}", found=error.strerror or str(error)) from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise UsageError(f"{path} is not TOML", found=str(error)) from error


def flag(name: str) -> str:
    """The flag of a setting: `batch_size` is set by `--batch-size`."""
    return "--data" if name == "dataset" else "--" + name.replace("_", "-")


def _check_pairs(size: tuple[int, int], scale: tuple[float, float]) -> None:
    if not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        raise UsageError(
            f"--size {size[0]}x{size[1]}", found=f"each side is {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    if not 0.05 <= scale[0] <= scale[1] <= 20:
        raise UsageError(
            f"--scale {scale[0]:g},{scale[1]:g}", found="it is the least and the most, 0.05 to 20"
        )


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's strings and numbers are TOML's, but for a character that TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _typed(name: str, kind: Any, value: Any) -> Any:
    """The value as the field's annotation wants it, or a UsageError."""
    shape = str(kind).removesuffix(" | None")
    of_list = {"tuple[str, ...]": str, "tuple[int, int]": int, "tuple[float, float]": float}
    try:
        if value is None and str(kind).endswith("None"):
            return None
        if shape in of_list:
            items = tuple(_plain(of_list[shape], item) for item in value)
            if shape.endswith("...]") or len(items) == 2:
                return items
            raise ValueError
        return _plain({"int": int, "float": float}.get(shape, str), value)
    except (TypeError, ValueError):
        raise UsageError(f"{flag(name)} {value!r} cannot be read") from None


def _plain(kind: type, value: Any) -> Any:
    """A whole number may stand for a real one; nothing else stands for another."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError
    return kind(value)
