"""The network that is trained to find people, with what it has in training only."""

from types import MethodType
from typing import Any, NamedTuple

import torch
from person_kernels import ACTIVATIONS, biased, depthwise, spatial_mean
from person_teacher import CHANNELS
from torch import Tensor, nn
from torch.nn import functional

from rtseg.nets.build import build

CLASSES, HIGH_CHANNELS = 21, 960
STAGES = ((0, 2), (2, 4), (4, 7), (7, 11), (11, 13), (13, 16), (16, 17))
"""Layers of MobileNetV3-Large from and to which each stage goes; the teacher has the same seven."""

STAGE_CHANNELS = (16, 24, 40, 80, 112, 160, HIGH_CHANNELS)
LOW = 4
"""The layer whose output the fine branch of LR-ASPP takes; that of the last goes to the other."""

MOMENTUM = 0.03
"""Of the running statistics: small batches."""

# torchvision's LRASPP: an nn.Module whose `backbone` and `classifier` are called one by one.
Segmenter = Any


def lraspp() -> Segmenter:
    """Return torchvision's LR-ASPP MobileNetV3-Large for two classes, without weights."""
    return build("lraspp_mobilenet_v3_large", 2)


class Seen(NamedTuple):
    """What LR-ASPP's fine branch takes, and the outputs of all seven stages."""

    low: Tensor
    stages: list[Tensor]


class Student(nn.Module):
    """The segmenter, a head that repeats the teacher's 21 classes, and one for its last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Segmenter = lraspp()
        self.classes = nn.Conv2d(HIGH_CHANNELS, CLASSES, 1)
        self.last = nn.Conv2d(HIGH_CHANNELS, CHANNELS[-1], 1)
        for layer in self.net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = MOMENTUM
            elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
                layer.forward = MethodType(_depthwise, layer)  # type: ignore[method-assign]
            elif isinstance(layer, nn.AdaptiveAvgPool2d):
                layer.forward = spatial_mean  # type: ignore[method-assign]

    def stage(self, number: int, values: Tensor) -> Tensor:
        """Return what one stage makes of the output of the stage before it, or of the input."""
        for layer in range(*STAGES[number]):
            values = self.net.backbone[str(layer)](values)
        return values

    def seen(self, images: Tensor) -> Seen:
        """Return what all layers make of the network's (N,3,S,S) float32 input."""
        values, outputs = images, []
        for layer in range(STAGES[-1][1]):
            values = self.net.backbone[str(layer)](values)
            outputs.append(values)
        return Seen(outputs[LOW], [outputs[end - 1] for _, end in STAGES])

    def heads(self, seen: Seen, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """Return logits (N,2,S/8,S/8) and class logits (N,21,S/16,S/16).

        Where the class head is `alone`, what it learns does not reach the rest.
        """
        high = seen.stages[-1]
        logits = self.net.classifier({"low": seen.low, "high": high})
        return logits, self.classes(high.detach() if alone else high)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return both logits of the network's (N,3,S,S) float32 input."""
        return self.heads(self.seen(images))

    def repeated(self, number: int, output: Tensor) -> Tensor:
        """Return the part of a stage's output that is to be the teacher's."""
        return self.last(output) if number == len(STAGES) - 1 else output[:, : CHANNELS[number]]


def fold(student: Student) -> None:
    """Let every convolution take its batch normalisation into its weights, the statistics frozen.

    The numbers are those of `eval`, gradients reach weights, scales and shifts alike, and a shift
    is one pass with the activation after it. For a network whose statistics have settled.
    """
    for block in student.net.modules():
        if (
            isinstance(block, nn.Sequential)
            and len(block) > 1
            and isinstance(block[0], nn.Conv2d)
            and isinstance(block[1], nn.BatchNorm2d)
        ):
            block.forward = MethodType(_folded, block)  # type: ignore[method-assign]


def _folded(block: nn.Sequential, values: Tensor) -> Tensor:
    layer, norm, *rest = block
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = layer.weight * scale[:, None, None, None]
    if layer.groups > 1:
        values = depthwise(values, weight, layer.stride[0], layer.dilation[0])
    else:
        values = functional.conv2d(values, weight, None, layer.stride, layer.padding)
    activation = ACTIVATIONS[type(rest[0])] if rest else "none"
    return biased(values, norm.bias - norm.running_mean * scale, activation)


def widened(values: Tensor, number: int) -> Tensor:
    """Return the teacher's output of a stage with as many channels as the student's has."""
    more = STAGE_CHANNELS[number] - values.shape[1]
    padded = functional.pad(values, (0, 0, 0, 0, 0, more))
    return padded.contiguous(memory_format=torch.channels_last)


def _depthwise(layer: nn.Conv2d, values: Tensor) -> Tensor:
    return depthwise(values, layer.weight, layer.stride[0], layer.dilation[0])
