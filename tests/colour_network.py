"""A real network, small enough to check by eye: each pixel gets the class of the nearest colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from dataset_folders import COLOURS_BGR, NAMES
from onnx import TensorProto, helper


def make_network(
    path: Path,
    *,
    names: Sequence[str] = NAMES,
    colours: Sequence[tuple[int, int, int]] = COLOURS_BGR,
    size: tuple[int, int] | None = None,
) -> Path:
    """An ONNX file and the TOML file that describes it; it takes one `size` only, or any.

    The nearest colour k has the largest 2 k x - k k: a convolution of one pixel.
    """
    rgb = np.array(colours, np.float32)[:, ::-1] / 255
    weights = helper.make_tensor("w", TensorProto.FLOAT, (len(rgb), 3, 1, 1), 2 * rgb.ravel())
    shift = helper.make_tensor("b", TensorProto.FLOAT, (len(rgb),), -(rgb**2).sum(1))
    sides = list(size or ("h", "w"))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(rgb), *sides])],
        [weights, shift],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    lines = [
        'colour = "RGB"',
        'scale = "1/255"',
        f"labels = {list(names)!r}",
        'activation = "none"',
    ]
    if size is None:
        lines.append("size = [48, 64]")
    path.with_suffix(".toml").write_text("\n".join(lines))
    return path
