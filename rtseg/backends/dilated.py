"""Convolutions whose taps lie far apart, rewritten for OpenVINO on processors with AMX.

A tap of a dilated convolution is a 1x1 convolution of the image, moved by the dilation. All taps
together are one 1x1 convolution with as many times the outputs, whose parts are moved and summed;
taps that see nothing but the padding drop out. In bfloat16 with AMX that is what the processor does
best, while the dilated form of DeepLab's ASPP (3x3, dilations 12, 24 and 36, 2048 channels), at
512x512 nine tenths of the time of the whole DeepLabV3-ResNet50, is far from what AMX can do: 128 to
313 ms for each of the three, where the taps take 41.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST_DILATION = 4
"""At 2 the dilated form takes two thirds of the taps' time."""

LEAST_CHANNELS = 1024
"""Of the input, unless taps drop out: with 960, of which none does, the taps gain nothing."""


def with_separate_taps(network: Any) -> int:
    """Rewrite, in place, the convolutions of an `openvino.Model` that gain by it.

    Those keep the image's size, and have a fixed one. Sums are in the order of the taps, so that
    the last bits may differ.

    Returns:
        How many there were.
    """
    found = [op for op in network.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return sum(_rewritten(convolution) for convolution in found)


def _rewritten(convolution: Any) -> bool:
    """Whether the convolution was worth it, and has been replaced."""
    from openvino import opset13 as ops

    dilations = [int(step) for step in convolution.get_dilations()]
    image, kernel = (convolution.input_value(index) for index in range(2))
    shape = image.get_partial_shape()
    fixed = shape.is_static and kernel.get_node().get_type_name() == "Constant"
    if not fixed or len(dilations) != 2 or min(dilations) < LEAST_DILATION:
        return False
    channels, size = int(shape[1].get_length()), [int(side.get_length()) for side in shape][2:]
    weights = kernel.get_node().get_data()
    if weights.dtype not in (np.float32, np.float16):
        return False
    sides = weights.shape[2:]
    reach = [step * (side // 2) for step, side in zip(dilations, sides, strict=True)]
    same = all(side % 2 for side in sides) and set(convolution.get_strides()) == {1}
    same = same and list(convolution.get_pads_begin()) == list(convolution.get_pads_end()) == reach
    if not same:
        return False
    moves = {  # of the image, in rows and columns
        (i, j): (i * dilations[0] - reach[0], j * dilations[1] - reach[1])
        for i in range(sides[0])
        for j in range(sides[1])
    }
    seen = {tap: to for tap, to in moves.items() if abs(to[0]) < size[0] and abs(to[1]) < size[1]}
    if len(seen) == len(moves) and channels < LEAST_CHANNELS:
        return False
    stacked = np.concatenate([weights[:, :, i, j] for i, j in seen])[:, :, np.newaxis, np.newaxis]
    products = ops.convolution(image, np.ascontiguousarray(stacked), [1, 1], [0, 0], [0, 0], [1, 1])
    parts = ops.split(products, np.int64(1), len(seen)).outputs()
    total: Any = None
    for part, (down, right) in zip(parts, seen.values(), strict=True):
        if down or right:
            cut, added = np.array([0, 0, -down, -right]), np.array([0, 0, down, right])
            part = ops.pad(part, cut, added, "constant", weights.dtype.type(0)).output(0)
        total = part if total is None else ops.add(total, part).output(0)
    convolution.output(0).replace(total)
    return True
