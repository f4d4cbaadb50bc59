"""Depthwise convolutions whose gradients are fast in bfloat16 on a CPU.

oneDNN has fast bfloat16 gradients of 3x3 kernels at stride 1 only; for others it falls back on a
reference loop, which takes longer than the rest of an EfficientNet-Lite together.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 3
"""Side of the kernels whose gradients oneDNN computes fast."""


def with_fast_gradients(network: nn.Module) -> nn.Module:
    """Give the depthwise convolutions of `network` fast gradients; the values stay the same.

    On CPUs under bfloat16 autocast; elsewhere and in other precisions torch's own are used.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and _is_slow(layer):
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    return network


def _is_slow(layer: nn.Conv2d) -> bool:
    height, width = layer.kernel_size
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    same = layer.padding == (height // 2, width // 2) and layer.padding_mode == "zeros"
    usual = layer.bias is None and layer.dilation == (1, 1) and layer.stride[0] == layer.stride[1]
    slow = height > TILE or layer.stride[0] > 1
    return (
        depthwise
        and same
        and usual
        and slow
        and height == width
        and height % 2 == 1
        and height >= TILE
    )


def _forward(layer: nn.Conv2d, images: Tensor) -> Tensor:
    fast = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if fast and torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.is_grad_enabled():
        stride = int(layer.stride[0])
        result: Tensor = _Depthwise.apply(images.bfloat16(), layer.weight.bfloat16(), stride)
        return result
    return nn.Conv2d.forward(layer, images)


class _Depthwise(torch.autograd.Function):
    """The depthwise convolution (N, C, H, W) * (C, 1, k, k), padded by k // 2."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        channels, _, side, _ = weight.shape
        return functional.conv2d(images, weight, None, stride, side // 2, groups=channels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        for_images, for_weight, _ = ctx.needs_input_grad
        return (
            image_gradient(images, weight, gradient, ctx.stride) if for_images else None,
            weight_gradient(images, weight, gradient, ctx.stride) if for_weight else None,
            None,
        )


def image_gradient(images: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """The gradient of the images: a convolution of `gradient`, zeros between, by the turned kernel.

    Args:
        images: (N, C, H, W).
        weight: (C, 1, k, k) of images' dtype.
        gradient: (N, C, ceil(H / stride), ceil(W / stride)).
    """
    if stride > 1:
        spread = torch.zeros_like(images)
        spread[..., ::stride, ::stride] = gradient
        gradient = spread
    channels, _, side, _ = weight.shape
    return functional.conv2d(gradient, weight.flip(2, 3), None, 1, side // 2, groups=channels)


def weight_gradient(images: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """The gradient of the weight, put together from tiles of 3x3 that overlap if they must.

    Arguments are as for `image_gradient`.
    """
    channels, _, side, _ = weight.shape
    if side == TILE:
        return _own_weight_gradient(images, weight, gradient, stride, TILE // 2)
    padded = functional.pad(images, (side // 2,) * 4)
    height, width = (stride * (length - 1) + TILE for length in gradient.shape[-2:])
    tile = weight.new_empty(channels, 1, TILE, TILE)
    result = torch.empty_like(weight)
    begins = [*range(0, side - TILE, TILE), side - TILE]
    for top in begins:
        for left in begins:
            shifted = padded[..., top : top + height, left : left + width]
            shifted = shifted.contiguous(memory_format=torch.channels_last)
            part = _own_weight_gradient(shifted, tile, gradient, stride, 0)
            result[..., top : top + TILE, left : left + TILE] = part
    return result


def _own_weight_gradient(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: int, padding: int
) -> Tensor:
    """torch's own."""
    result: Tensor = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
        weight.shape[0], [False, True, False],
    )[1]  # fmt: skip
    return result
