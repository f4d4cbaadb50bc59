"""The class teacher of person_data.py in torch, for what it sees on the way to its classes.

DeepLabV3 with MobileNetV2 is, block by block, much like LR-ASPP's MobileNetV3: the outputs of its
stages are of almost the same sizes, linear, and few. A student whose stages repeat them learns what
the teacher learnt from far more pictures than there are here. None of its numbers become the
student's.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = ((2, 24), (3, 32), (4, 64), (3, 96), (3, 160), (1, 320))
"""How many blocks each stage has after the first, and the channels of its output."""

CHANNELS = (16, *(channels for _, channels in BLOCKS))
"""Of the seven stages; they have strides 2, 4, 8, and 16 from then on."""

FURTHEST = 8.0
"""Features are cut off so many spreads from their mean."""


class Teacher(nn.Module):
    """deeplabv3_mobilenet_v2_voc.onnx at any input size; it is not trained."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        numbers = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        self._layers = nn.ModuleList(_convolution(node, numbers) for node in convolutions)
        self._scale = float(next(v for k, v in numbers.items() if "input_dequant_scale" in k))
        self._zero = float(next(v for k, v in numbers.items() if "zero_point__206" in k))
        self.eval().requires_grad_(False)

    def stages(self, images: Tensor, count: int = len(CHANNELS)) -> list[Tensor]:
        """Return the outputs of the first `count` stages, (N,C,H/s,W/s) float32, of (N,H,W,3) uint8
        RGB.
        """
        return self._stages(images, iter(self._layers), count)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the outputs of all stages, and logits (N,21,H/16,W/16) float32."""
        layers = iter(self._layers)
        found = self._stages(images, layers, len(CHANNELS))
        near = functional.relu(next(layers)(found[-1]))
        far = functional.relu(next(layers)(found[-1].mean((2, 3), keepdim=True)))
        both = torch.cat([far.expand_as(near), near], dim=1)
        hidden = functional.relu(next(layers)(both))
        return found, next(layers)(hidden)

    def _stages(self, images: Tensor, layers: Iterator[nn.Module], count: int) -> list[Tensor]:
        pixels = images.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        values = functional.relu6(next(layers)((pixels - self._zero) * self._scale))
        values = functional.relu6(next(layers)(values))
        values = next(layers)(values)
        found = [values]
        for blocks, _ in BLOCKS[: count - 1]:
            for block in range(blocks):
                inside = functional.relu6(next(layers)(values))
                inside = functional.relu6(next(layers)(inside))
                inside = next(layers)(inside)
                values = inside if block == 0 else values + inside
            found.append(values)
        return found


def _convolution(node: onnx.NodeProto, numbers: dict[str, np.ndarray]) -> nn.Conv2d:
    """One layer, padded so that its centre stays where it is at any size."""
    told = {each.name: each for each in node.attribute}
    weight, bias = (torch.from_numpy(numbers[name].copy()).float() for name in node.input[1:3])
    groups = told["group"].i if "group" in told else 1
    stride, dilation, kernel = told["strides"].ints[0], told["dilations"].ints[0], weight.shape[2]
    layer = nn.Conv2d(
        weight.shape[1] * groups, weight.shape[0], kernel, stride,
        (kernel - 1) // 2 * dilation, dilation, groups,
    )  # fmt: skip
    layer.weight.data, layer.bias.data = weight, bias  # type: ignore[union-attr]
    return layer


class Spread(nn.Module):
    """Mean and standard deviation of each channel of the teacher's stages."""

    def __init__(self) -> None:
        super().__init__()
        for stage, channels in enumerate(CHANNELS):
            self.register_buffer(f"mean{stage}", torch.zeros(channels, 1, 1))
            self.register_buffer(f"deviation{stage}", torch.ones(channels, 1, 1))

    def measure(self, batches: list[list[Tensor]]) -> None:
        """Take them from the outputs of all stages for some batches."""
        for stage, outputs in enumerate(zip(*batches, strict=True)):
            values = torch.cat(outputs)
            mean, deviation = values.mean((0, 2, 3)), values.std((0, 2, 3)).clamp(min=1e-3)
            getattr(self, f"mean{stage}").copy_(mean[:, None, None])
            getattr(self, f"deviation{stage}").copy_(deviation[:, None, None])

    def forward(self, stage: int, values: Tensor) -> Tensor:
        """Return a stage's output with mean 0 and spread 1 in every channel."""
        mean, deviation = getattr(self, f"mean{stage}"), getattr(self, f"deviation{stage}")
        return ((values - mean) / deviation).clamp(-FURTHEST, FURTHEST)
