"""The specification of a network, and the tables of families and built-in models."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rtseg.documents import convert, parse_json, shown
from rtseg.errors import ModelError
from rtseg.labels import MAX_NAME, SHAPE_LABELS, VOC, LabelSet, is_name
from rtseg.options import MAX_SIDE, imported

FORMAT = 1
"""Version of the serialised form of a `ModelSpec`."""


MAX_VALUE = 1e30
"""Of what a network sees; float32 ends at 3e38."""


@dataclass(frozen=True)
class InputSpec:
    """The input of a network.

    A pixel value v of the (RGB or BGR) image becomes `(v * scale - mean) / std`.

    Attributes:
        size: (height, width) that the network was trained or exported for.
        fixed: whether it accepts no other size.

    Raises:
        ValueError: a side is not from 1 to `MAX_SIDE`, or the numbers are not finite, or divide by
            zero.
    """

    size: tuple[int, int]
    fixed: bool = False
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["uint8", "float32"] = "float32"
    colour: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not 1 <= min(self.size) <= max(self.size) <= MAX_SIDE:
            raise ValueError(f"size is {_x(self.size)}; each side is 1 to {MAX_SIDE} pixels")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise ValueError("scale, mean and std must be finite")
        if not min(self.scale, *self.std) > 0:
            raise ValueError("scale and std must be greater than 0")
        if max(255 * self.scale, *map(abs, self.mean)) / min(self.std) > MAX_VALUE:
            raise ValueError(f"by scale, mean and std, values are beyond {MAX_VALUE:g}")


def _x(size: tuple[int, int]) -> str:
    return "x".join(map(shown, size))


@dataclass(frozen=True)
class WeightsSpec:
    """Published weights.

    Attributes:
        sha256: hexadecimal digest of the file, or the prefix that its publisher states.
        megabytes: size of the download.
    """

    url: str
    sha256: str
    licence: str
    megabytes: float


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """All that rtseg needs to run a network, except its weights.

    The zoo, checkpoints and the metadata of ONNX files contain the same value, so a file that rtseg
    wrote needs no further flags.

    Attributes:
        name: shown to users.
        architecture: a key of `FAMILIES`, or "FAMILY:NAME" of one of `OPEN_FAMILIES`; "onnx" for a
            foreign file; or "stub".
        labels: its classes.
        input: its preprocessing.
        output: class scores, or probabilities that sum to 1.
        weights: published weights, if any.
        miou: published mean IoU in percent, on `dataset`.
        parameters: in millions.
        output_name: the output of a foreign ONNX file to read; "" is its first.
        output_layout: layout of that output.
        align_corners: whether the corner scores lie on the corner pixels, see `decode`.

    Raises:
        ValueError: a name is empty, too long, or cannot be printed, or a figure makes no sense.
    """

    name: str
    architecture: str
    labels: LabelSet = VOC
    input: InputSpec = field(default_factory=lambda: InputSpec((520, 520)))
    output: Literal["logits", "probabilities"] = "logits"
    weights: WeightsSpec | None = None
    miou: float | None = None
    dataset: str = ""
    parameters: float | None = None
    licence: str = ""
    output_name: str = ""
    output_layout: Literal["NCHW", "NHWC"] = "NCHW"
    align_corners: bool = False

    def __post_init__(self) -> None:
        for what, name in (("name", self.name), ("architecture", self.architecture)):
            if not is_name(name):
                raise ValueError(f"{what} {shown(name)} is not 1 to {MAX_NAME} plain characters")
        if not all(figure is None or 0 <= figure < 1e6 for figure in (self.miou, self.parameters)):
            raise ValueError("miou and parameters must be 0 or more")

    def __repr__(self) -> str:
        own = "" if self.architecture in (self.name, "onnx") else f"{self.architecture}, "
        size = _x(self.input.size) + (" only" if self.input.fixed else "")
        return f"<ModelSpec {self.name}: {own}{len(self.labels)} classes, input {size}>"

    def to_json(self) -> str:
        """The spec as one line of JSON, for `from_json`."""
        return json.dumps({"rtseg": FORMAT, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "a model spec") -> ModelSpec:
        """Read the JSON of `to_json`, which `where` has.

        Raises:
            ModelError: the text is not a spec, or of a later version.
        """
        values: dict[str, Any] = parse_json(text, dict, where, ModelError)
        version = values.pop("rtseg", None)
        if type(version) is not int or version > FORMAT:
            later = isinstance(version, int)
            found = "it was written by a later version of rtseg" if later else "it is not a spec"
            do = "Upgrade rtseg" if later else "Export the model again"
            raise ModelError(f"cannot read {where}", found=found, do=do)
        return convert(values, cls, where, ModelError)


@dataclass(frozen=True)
class Model:
    """A network ready to be loaded: its specification and its file.

    Attributes:
        file: the ONNX file, OpenVINO's graph, checkpoint or state dict, if there is one.
        format: of the file; "random" means seeded random weights, "none" that it has no weights.
        notes: messages for the user, such as assumptions about a foreign file.
        delay_seconds: how long the stub sleeps per batch, to imitate a slow network.
    """

    spec: ModelSpec
    file: Path | None
    format: Literal["onnx", "openvino", "torch", "random", "none"]
    notes: tuple[str, ...] = ()
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Family:
    """Networks that are built, run and trained in the same way.

    Attributes:
        build: "module:name", called as `name(architecture, num_classes, aux=False)`; returns an
            untrained network with the modules `backbone`, from (N, 3, H, W) images to a dict of
            feature maps, and `classifier`, from these to logits. With `aux` it also has an
            auxiliary head for training, if the family has one.
        class_layers: the layers with one channel per class, first those of the classifier.
        licence: of the networks and of the code that builds them.
        models: its networks with published weights.
        output: the feature map that the classifier takes; "" means all of them.
        head: "module:name" of a wrapper of the classifier outside training; "" if there is none.
        backbone_weights: "module:name", called as `name(architecture)`; returns the `WeightsSpec`
            of a backbone pretrained for classification. "" if there is none.
        backbone_state: "module:name", called as `name(architecture, state)`; returns the weights of
            that file under their names inside the network.
        state: the same for the weights of the whole network, as others publish them.
        min_batch: smallest batch that training can use.
        spec: "module:name", called as `name(architecture)`, of a family that is open: it has a
            network for every name after its own, as in "fpn_timm:resnet18"; returns the
            `ModelSpec`, without weights.
    """

    build: str
    class_layers: tuple[str, ...]
    licence: str
    models: tuple[ModelSpec, ...]
    output: str = "out"
    head: str = ""
    backbone_weights: str = ""
    backbone_state: str = ""
    state: str = ""
    min_batch: int = 1
    spec: str = ""


_BSD = "BSD-3-Clause"


def _torchvision(
    architecture: str, file: str, megabytes: float, parameters: float, miou: float
) -> ModelSpec:
    """A network of torchvision with its published weights."""
    return ModelSpec(
        name=architecture,
        architecture=architecture,
        labels=VOC,
        input=InputSpec((520, 520)),
        weights=WeightsSpec(
            url=f"https://download.pytorch.org/models/{file}.pth",
            sha256=file.rpartition("-")[2],
            licence=f"{_BSD}; trained on the part of COCO that has Pascal VOC's classes",
            megabytes=megabytes,
        ),
        miou=miou,
        dataset="COCO-val2017-VOC-labels",
        parameters=parameters,
        licence=_BSD,
    )


def _lite(architecture: str, parameters: float) -> ModelSpec:
    """A small backbone with a decoder: pretrained on ImageNet, no published weights."""
    return ModelSpec(
        name=architecture,
        architecture=architecture,
        labels=VOC,
        input=InputSpec((512, 512), mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        parameters=parameters,
        licence="Apache-2.0",
    )


class SegFormer(NamedTuple):
    """The numbers that tell one SegFormer from another.

    Attributes:
        depths: blocks of each stage.
        channels: of each stage.
        decoder: channels of the head.
        parameters: in millions, for 21 classes.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    decoder: int
    parameters: float


_WIDE = (64, 128, 320, 512)
SEGFORMERS = {
    "segformer_b0": SegFormer((2, 2, 2, 2), (32, 64, 160, 256), 256, 3.719541),
    "segformer_b1": SegFormer((2, 2, 2, 2), _WIDE, 256, 13.682645),
    "segformer_b2": SegFormer((3, 4, 6, 3), _WIDE, 768, 27.362773),
    "segformer_b3": SegFormer((3, 4, 18, 3), _WIDE, 768, 47.238613),
    "segformer_b4": SegFormer((3, 8, 27, 3), _WIDE, 768, 64.009173),
    "segformer_b5": SegFormer((3, 6, 40, 3), _WIDE, 768, 84.609493),
}


_TABLE = (
    Family(
        build="rtseg.nets.build:build_torchvision",
        class_layers=("classifier.low_classifier", "classifier.high_classifier"),
        licence=_BSD,
        models=(
            _torchvision(
                "lraspp_mobilenet_v3_large",
                "lraspp_mobilenet_v3_large-d234d4ea",
                megabytes=12.49,
                parameters=3.221538,
                miou=57.9,
            ),
        ),
        output="",
        head="rtseg.nets.build:LowClassHead",
        backbone_weights="rtseg.nets.build:imagenet_weights",
        backbone_state="rtseg.nets.build:imagenet_state",
    ),
    Family(
        build="rtseg.nets.build:build_torchvision",
        class_layers=("classifier.4", "aux_classifier.4"),
        licence=_BSD,
        models=(
            _torchvision(
                "deeplabv3_mobilenet_v3_large",
                "deeplabv3_mobilenet_v3_large-fc3c493d",
                megabytes=42.301,
                parameters=11.029328,
                miou=60.3,
            ),
            _torchvision(
                "deeplabv3_resnet50",
                "deeplabv3_resnet50_coco-cd0a2569",
                megabytes=160.515,
                parameters=42.004074,
                miou=66.4,
            ),
            _torchvision(
                "deeplabv3_resnet101",
                "deeplabv3_resnet101_coco-586e9e4e",
                megabytes=233.217,
                parameters=60.996202,
                miou=67.4,
            ),
        ),
        backbone_weights="rtseg.nets.build:imagenet_weights",
        backbone_state="rtseg.nets.build:imagenet_state",
        min_batch=2,  # its image pooling normalises over the batch
    ),
    Family(
        build="rtseg.nets.build:build_torchvision",
        class_layers=("classifier.4", "aux_classifier.4"),
        licence=_BSD,
        models=(
            _torchvision(
                "fcn_resnet50",
                "fcn_resnet50_coco-1167a1af",
                megabytes=135.009,
                parameters=35.322218,
                miou=60.5,
            ),
            _torchvision(
                "fcn_resnet101",
                "fcn_resnet101_coco-7ecb50ca",
                megabytes=207.711,
                parameters=54.314346,
                miou=63.7,
            ),
        ),
        backbone_weights="rtseg.nets.build:imagenet_weights",
        backbone_state="rtseg.nets.build:imagenet_state",
    ),
    Family(
        build="rtseg.nets.lite:build_lite",
        class_layers=("classifier.classifier",),
        licence="Apache-2.0",
        models=(
            _lite("fpn_mobilenet_v2", parameters=1.951061),
            _lite("fpn_efficientnet_lite0", parameters=3.100117),
            _lite("fpn_efficientnet_lite2", parameters=4.508565),
        ),
        output="",
        backbone_weights="rtseg.nets.lite:imagenet_weights",
        backbone_state="rtseg.nets.lite:imagenet_state",
    ),
    Family(
        build="rtseg.nets.segformer:build_segformer",
        class_layers=("classifier.classifier",),
        licence="Apache-2.0",
        models=tuple(
            ModelSpec(
                name=name,
                architecture=name,
                labels=VOC,
                input=InputSpec((512, 512)),
                parameters=kind.parameters,
                licence="Apache-2.0",
            )
            for name, kind in SEGFORMERS.items()
        ),
        output="",
        head="rtseg.nets.segformer:MergedHead",
        backbone_state="rtseg.nets.segformer:hub_state",
        state="rtseg.nets.segformer:hub_state",
    ),
)

FAMILIES: dict[str, Family] = {
    spec.architecture: family for family in _TABLE for spec in family.models
}
"""The family of each architecture that rtseg builds."""

OPEN_FAMILIES: dict[str, Family] = {
    "fpn_timm": Family(
        build="rtseg.nets.timm:build_timm",
        class_layers=("classifier.classifier",),
        licence="Apache-2.0",
        models=(),
        output="",
        backbone_weights="rtseg.nets.timm:timm_weights",
        backbone_state="rtseg.nets.timm:timm_state",
        spec="rtseg.nets.timm:timm_spec",
    ),
}
"""Families whose networks are named "FAMILY:NAME"."""


def family_named(architecture: str) -> Family | None:
    """The family of an architecture; None if rtseg does not build it."""
    name, colon, _ = architecture.partition(":")
    return OPEN_FAMILIES.get(name) if colon else FAMILIES.get(architecture)


MODELS: dict[str, ModelSpec] = {
    **{spec.name: spec for family in _TABLE for spec in family.models},
    "stub": ModelSpec(
        name="stub",
        architecture="stub",
        labels=SHAPE_LABELS,
        input=InputSpec((512, 512), layout="NHWC", dtype="uint8"),
        licence="Apache-2.0",
    ),
}
"""The built-in models by name; `rtseg.nets.find` adds those that ship with rtseg."""


def built_in(name: str) -> ModelSpec | None:
    """The spec of a built-in model, or of a network of an open family; None if there is none.

    Raises:
        RtsegError: the open family has no such network, or its package is not installed.
    """
    family = family_named(name)
    if family is None or not family.spec:
        return MODELS.get(name)
    spec: ModelSpec = imported(family.spec)(name)
    return spec
