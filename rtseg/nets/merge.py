"""Heads of SegFormer's kind in an ONNX graph, rewritten exactly to run in a fraction of the time.

Such a head projects features of several strides to the same channels, enlarges all to the finest
size, concatenates them, and mixes them by a convolution of 1x1, which is half of the arithmetic of
a small SegFormer. A convolution of 1x1 works on each point alone, and the weights of an enlargement
sum to one, so the two commute: the mixing weights of each level are multiplied into its projection,
before the enlargement, and the results are added. Batch normalisation and biases go along.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtseg.nets.graph import Shapes, read_by, shapes_at

MOST_LEFT = 0.6
"""Share of the head's products that may remain. SegFormer's keeps 5 to 10 %; 80 % would remain of
DeepLabV3's, of whose five inputs one is enlarged."""

COORDINATES = (b"half_pixel", b"pytorch_half_pixel", b"align_corners", b"asymmetric")
"""Of enlargements whose weights sum to one at every point."""

MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
OPSET = 11
"""The first whose Resize has these inputs."""

PREFIX = "rtseg/merged/"


def may_merge(content: Any) -> bool:
    """Whether the graph may have such a head, seen without its shapes and weights."""
    opsets = [each.version for each in content.opset_import if each.domain in ("", "ai.onnx")]
    return max(opsets, default=1) >= OPSET and any(
        True for _ in _mixings(_Graph(content.graph, {}))
    )


def read_merged(path: Path, size: tuple[int, int]) -> Any:
    """A valid ONNX file with merged heads, for images of `size` (height, width); None without any.

    Returns:
        An `onnx.ModelProto` with its weights.

    Raises:
        OSError: the file cannot be read.
        onnx.checker.ValidationError: nor can one that holds its weights.
    """
    import onnx

    if not may_merge(plain := onnx.load(path, load_external_data=False)):
        return None
    shapes = shapes_at(plain, size)
    content = onnx.load(path)
    return content if merge_heads(content, shapes) else None


def merge_heads(content: Any, shapes: Shapes) -> bool:
    """Rewrite the heads in an `onnx.ModelProto`, in place; returns whether there were any.

    Afterwards it is for inputs of one size, so that its enlargements are by constant factors, which
    ONNX Runtime runs in the layout of the convolutions around them. Only heads in float32 are
    rewritten. Their products are made in double precision, so that logits change by rounding.

    Args:
        content: with its weights.
        shapes: of all tensors, for one image of that size.
    """
    graph = _Graph(content.graph, shapes)
    heads = [_head(graph, concat, mixing) for concat, mixing in _mixings(graph)]
    found = [head for head in heads if head is not None]
    for number, head in enumerate(found):
        _rewrite(graph, head, f"{PREFIX}{number}/")
    if found:
        graph.save()
    return bool(found)


class _Graph:
    """A graph with its links.

    Attributes:
        makers: the operator that makes a tensor, by the tensor's name.
        instead: operators that take the place of others, by `id` of these.
    """

    def __init__(self, graph: Any, shapes: Shapes) -> None:
        self.graph, self.shapes = graph, shapes
        self.nodes = list(graph.node)  # kept, so that each stays one object
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.instead: dict[int, list[Any]] = {}
        self._users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in read_by(node):
                self._users.setdefault(name, []).append(node)
        self._shown = {value.name for value in graph.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and len(node.attribute) == 1:
                self._tensors[node.output[0]] = node.attribute[0].t
            elif node.op_type == "Identity" and node.input[0] in self._tensors:
                self._tensors[node.output[0]] = self._tensors[node.input[0]]

    def user(self, name: str) -> Any:
        """The one operator that uses a tensor; None if several do, or the graph's end."""
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and name not in self._shown else None

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """A constant of float32, in double precision."""
        from onnx import TensorProto, numpy_helper

        if (turned := self._turned(name)) is not None:
            values = self.numbers(turned)
            return None if values is None else values.T
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return numpy_helper.to_array(tensor).astype(np.float64)

    def dims(self, name: str) -> tuple[int, ...] | None:
        """The axes of a constant."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(tensor.dims)

    def _turned(self, name: str) -> str | None:
        """The constant matrix whose transpose a tensor is."""
        node = self.makers.get(name)
        if node is None or node.op_type != "Transpose":
            return None
        return node.input[0] if len(self.dims(node.input[0]) or ()) == 2 else None

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant."""
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def save(self) -> None:
        """Put the replacements into the graph, fix its size, and drop what nobody needs now."""
        kept: list[Any] = []
        used = set(self._shown)
        for old in reversed(self.nodes):
            for node in reversed(self.instead.get(id(old), [old])):
                if used.intersection(node.output):
                    used |= read_by(node)
                    kept.append(_copied(node))
        del self.graph.node[:]
        self.graph.node.extend(reversed(kept))
        lost = {each.name for each in self.graph.initializer} - used
        for entries in (self.graph.initializer, self.graph.input):  # old files list them in both
            left = [_copied(each) for each in entries if each.name not in lost]
            del entries[:]
            entries.extend(left)
        for value in self.graph.input:
            axes = value.type.tensor_type.shape.dim
            for axis, length in list(zip(axes, self.shapes.get(value.name) or (), strict=False))[
                1:
            ]:
                axis.dim_value = length
        del self.graph.value_info[:]


def _copied(message: Any) -> Any:
    new = type(message)()
    new.CopyFrom(message)
    return new


@dataclass
class _Level:
    """Features of one stride, on their way into the mixing.

    Attributes:
        channels: how many of the mixing's input they are.
        resize: the operator that enlarges them; None at the finest stride.
        points: height times width before the enlargement.
        source: the tensor (N, C, H, W) that is projected, or that is enlarged.
        weight: (channels out, channels in) of the projection; None if there is none.
        bias: of the projection.
    """

    channels: int
    resize: Any
    points: int
    source: str
    weight: NDArray[np.float64] | None = None
    bias: Any = 0.0


@dataclass
class _Head:
    """A head: what is mixed, and by which numbers.

    Attributes:
        weight: (channels out, channels in) of the mixing, batch normalisation folded in.
        replaced: the operators from concatenation to mixing, the last of which gives `result`.
    """

    levels: list[_Level]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    replaced: list[Any]
    result: str


def _mixings(graph: _Graph) -> Iterator[tuple[Any, Any]]:
    """Concatenations of enlarged features, each with the 1x1 convolution that alone reads it."""
    for concat in graph.nodes:
        if concat.op_type != "Concat" or _attribute(concat, "axis", None) not in (1, -3):
            continue
        made = [graph.makers.get(name) for name in concat.input]
        conv = graph.user(concat.output[0])
        if (
            sum(node is not None and _is_linear(node) for node in made) > 1
            and conv is not None
            and _is_pointwise(graph, conv)
            and conv.input[0] == concat.output[0]
        ):
            yield concat, conv


def _is_linear(node: Any) -> bool:
    """Whether it is an enlargement whose weights sum to one."""
    return (
        node.op_type == "Resize"
        and _attribute(node, "mode", b"nearest") in (b"linear", b"nearest")
        and _attribute(node, "coordinate_transformation_mode", b"half_pixel") in COORDINATES
        and not _attribute(node, "antialias", 0)
    )


def _is_pointwise(graph: _Graph, node: Any) -> bool:
    """Whether it is a convolution of 1x1 with constant weights."""
    if node.op_type != "Conv" or len(node.input) < 2:
        return False
    dims = graph.dims(node.input[1])
    return (
        dims is not None
        and dims[2:] == (1, 1)
        and _attribute(node, "group", 1) == 1
        and set(_attribute(node, "strides", [1])) == {1}
        and set(_attribute(node, "pads", [0])) == {0}
    )


def _head(graph: _Graph, concat: Any, mixing: Any) -> _Head | None:
    """What is mixed there; None if that cannot be rewritten, or would not pay."""
    weight = graph.numbers(mixing.input[1])
    bias = _bias(graph, mixing)
    whole = graph.shapes.get(concat.output[0])
    levels = [each for name in concat.input if (each := _level(graph, name)) is not None]
    if weight is None or bias is None or whole is None or len(levels) < len(concat.input):
        return None
    weight = weight[:, :, 0, 0]
    channels, points = len(weight), math.prod(whole[2:])
    if sum(level.channels for level in levels) != weight.shape[1]:
        return None
    before, after = points * weight.size, 0
    for level in levels:
        inside = level.channels if level.weight is None else level.weight.shape[1]
        before += 0 if level.weight is None else level.points * level.weight.size
        after += level.points * inside * channels
    if after > MOST_LEFT * before:
        return None
    head = _Head(levels, weight, bias + np.zeros(channels), [concat, mixing], mixing.output[0])
    _fold_normalisation(graph, head)
    return head


def _level(graph: _Graph, name: str) -> _Level | None:
    """The features of that name; None if their shapes are open, or more than sides are resized."""
    resize, whole = graph.makers.get(name), graph.shapes.get(name)
    if resize is not None and _is_linear(resize):
        name = resize.input[0]
    else:
        resize = None
    shape = graph.shapes.get(name)
    if shape is None or whole is None or len(shape) != 4 or len(whole) != 4:
        return None
    if shape[:2] != whole[:2] or shape[0] != 1:
        return None
    if resize is not None and not _has_factors(resize):
        if shape == whole:
            resize = None
        elif _attribute(resize, "mode", b"nearest") == b"nearest" and any(np.mod(whole, shape)):
            return None  # rounded factors would have other nearest points
    level = _Level(shape[1], resize, math.prod(shape[2:]), name)
    _find_projection(graph, level, shape)
    return level


def _find_projection(graph: _Graph, level: _Level, shape: tuple[int, ...]) -> None:
    """Set source, weight and bias of a level whose features a projection makes.

    That is a convolution of 1x1; or a matrix product of the points in rows, if they come from
    features of the same shape and end up where they were.
    """
    name, bias = level.source, np.zeros(level.channels)
    after = []
    while (node := graph.makers.get(name)) is not None and node.op_type in MOVES:
        after.append(node)
        name = node.input[0]
    if node is not None and not after and _is_pointwise(graph, node):
        weight, shift = graph.numbers(node.input[1]), _bias(graph, node)
        if weight is not None and shift is not None:
            level.source, level.weight, level.bias = node.input[0], weight[:, :, 0, 0], shift
        return
    if node is not None and node.op_type == "Add":
        constants = [each for each in node.input if graph.dims(each) == (level.channels,)]
        others = [each for each in node.input if graph.dims(each) is None]
        if len(constants) != 1 or len(others) != 1:
            return
        if (added := graph.numbers(constants[0])) is None:
            return
        bias, node = added, graph.makers.get(others[0])
    if node is None or (found := _product(graph, node)) is None or len(found[0]) != level.channels:
        return
    moves, name = [], node.input[0]
    wanted = (1, found[0].shape[1], *shape[2:])
    while graph.shapes.get(name) != wanted:
        before = graph.makers.get(name)
        if before is None or before.op_type not in MOVES:
            return
        moves.append(before)
        name = before.input[0]
    if _stay_in_place(graph, wanted, shape, moves[::-1], after[::-1]):
        level.source, level.weight, level.bias = name, found[0], found[1] + bias


def _product(graph: _Graph, node: Any) -> tuple[NDArray[np.float64], Any] | None:
    """(channels out, channels in) and bias of a product with a constant matrix; else None."""
    weight = graph.numbers(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
    if weight is None or weight.ndim != 2:
        return None
    if node.op_type == "MatMul":
        return weight.T, 0.0
    bias = _bias(graph, node)
    if bias is None or _attribute(node, "transA", 0) or np.ndim(bias) > 1:
        return None
    weight = weight if _attribute(node, "transB", 0) else weight.T
    return weight * _attribute(node, "alpha", 1.0), bias * _attribute(node, "beta", 1.0)


def _stay_in_place(
    graph: _Graph,
    taken: tuple[int, ...],
    made: tuple[int, ...],
    before: list[Any],
    after: list[Any],
) -> bool:
    """Whether numbers of shape `taken` that are moved, projected along the last axis, and moved
    again, are those of shape `made` at the same points: followed with a number for each.
    """
    points = math.prod(taken[2:])
    rows = _moved(graph, np.arange(math.prod(taken)).reshape(taken), before)
    if rows is None or rows.shape[-1] != taken[1]:
        return False
    first = rows[..., :1]
    if not np.array_equal(rows, first + points * np.arange(taken[1])):
        return False
    ends = _moved(graph, first + points * np.arange(made[1]), after)
    return ends is not None and np.array_equal(ends.ravel(), np.arange(math.prod(made)))


def _moved(graph: _Graph, numbers: NDArray[Any], moves: list[Any]) -> NDArray[Any] | None:
    for node in moves:
        if node.op_type == "Transpose":
            numbers = numbers.transpose(_attribute(node, "perm", None))
            continue
        shape = graph.shapes.get(node.output[0])
        if shape is None or math.prod(shape) != numbers.size:
            return None
        numbers = numbers.reshape(shape)
    return numbers


def _fold_normalisation(graph: _Graph, head: _Head) -> None:
    """Fold the batch normalisation that alone reads the mixing."""
    node = graph.user(head.result)
    if node is None or node.op_type != "BatchNormalization" or _attribute(node, "training_mode", 0):
        return
    numbers = [each for name in node.input[1:5] if (each := graph.numbers(name)) is not None]
    if len(numbers) < 4:
        return
    scale, shift, mean, variance = numbers
    factor = scale / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
    head.weight, head.bias = head.weight * factor[:, None], (head.bias - mean) * factor + shift
    head.replaced.append(node)
    head.result = node.output[0]


def _rewrite(graph: _Graph, head: _Head, prefix: str) -> None:
    """Mix each level before its enlargement, and add the results up, the finest last."""
    from onnx import helper

    bias = head.bias
    ends = np.cumsum([level.channels for level in head.levels])
    parts = []  # (channels out, channels in) of each level
    for level, end in zip(head.levels, ends, strict=True):
        part = head.weight[:, end - level.channels : end]
        bias = bias + part @ (level.bias + np.zeros(level.channels))
        parts.append((level, part if level.weight is None else part @ level.weight))
    nodes: list[Any] = []
    total = ""
    for index, (level, part) in enumerate(sorted(parts, key=lambda each: each[0].points)):
        name = f"{prefix}{index}/"
        inputs = [level.source, graph.add(f"{name}weight", _single(part[:, :, None, None]))]
        if index == 0:
            inputs.append(graph.add(f"{name}bias", _single(bias)))
        nodes.append(helper.make_node("Conv", inputs, [f"{name}mixed"], name=f"{name}mixed"))
        if level.resize is not None:
            nodes.append(_resize(graph, level.resize, f"{name}mixed", f"{name}enlarged"))
        if index > 0:
            added = [total, nodes[-1].output[0]]
            nodes.append(helper.make_node("Add", added, [f"{name}sum"], name=f"{name}sum"))
        total = nodes[-1].output[0]
    nodes[-1].output[0] = head.result
    graph.instead |= {id(node): [] for node in head.replaced}
    graph.instead[id(head.replaced[-1])] = nodes


def _single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _resize(graph: _Graph, old: Any, source: str, result: str) -> Any:
    """The enlargement, of another tensor, by its own factors; sizes become constant factors."""
    node = _copied(old)
    node.input[0], node.output[0], node.name = source, result, result
    if _has_factors(old):  # not always the quotient of the sizes
        return node
    before, after = (graph.shapes[name] or () for name in (old.input[0], old.output[0]))
    factors = (np.array(after) / np.array(before)).astype(np.float32)
    short = before * factors.astype(np.float64) < after  # runtimes round down
    factors[short] = np.nextafter(factors[short], np.float32(np.inf))
    del node.input[:], node.attribute[:]
    others = ("axes", "keep_aspect_ratio_policy")  # go with sizes
    node.attribute.extend(each for each in old.attribute if each.name not in others)
    # the second is the region, which opset 11 wants though nothing is cropped
    node.input.extend([source, old.input[1], graph.add(f"{result}/scales", factors)])
    return node


def _has_factors(resize: Any) -> bool:
    """Whether it enlarges by factors, not to sizes, beside which opset 11 wants empty factors."""
    return len(resize.input) < 4 or resize.input[3] == ""


def _bias(graph: _Graph, node: Any) -> Any:
    """The third input, zero if it is missing; None if it is not a constant."""
    if len(node.input) < 3 or not node.input[2]:
        return 0.0
    return graph.numbers(node.input[2])


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
