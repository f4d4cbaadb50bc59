"""ONNX graphs: whether they can run at all, and whether their shapes bound what a run costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rtseg.errors import ModelError
from rtseg.limits import MODEL_GB

MAX_NODES = 1_000_000
"""Of a graph with its local functions written out; the largest real networks have some 10 000."""

PLAIN_ELEMENTS, PLAIN_TOTAL = 2**26, 2**31
"""Of one tensor, and of all together, in a network that is run without a trial."""

PLAIN_WORK = 1e12
"""Multiplications or elements in a run of such a network: less than a minute on one core."""

RANK = 64
"""Axes that a tensor may have, far above those of real ones."""

SHAPE_ELEMENTS = RANK
"""Constants of more elements are not shapes, and do not matter to shape inference."""

OLD_OPSETS = range(11, 14)
MOVED = {"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}
"""Attributes of theirs that became inputs in opset 13."""

QUOTIENTS = 4
"""How many quotients of sides may follow from one another."""

LONGEST_SHAPE = 2**16
FOLLOWED = frozenset("Add Cast Gather Identity Mul Slice Squeeze Sub Unsqueeze".split())
"""Operators whose values onnx follows, besides Concat, Shape and Constant."""

CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""And which of their inputs is the weight."""

PRODUCTS = frozenset("Gemm MatMul MatMulInteger QLinearMatMul".split())
POOLS = frozenset(("AveragePool", "MaxPool"))
CHEAP = frozenset(
    "Abs Add And ArgMax ArgMin BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape "
    "DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand "
    "Flatten Floor Gather Gelu GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual "
    "GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Less LessOrEqual Log LogSoftmax Max Min Mish Mul Neg Not Or PRelu Pad Pow "
    "QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize "
    "Selu Shape Sigmoid Sign Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh "
    "Tile Transpose Unsqueeze Upsample Where".split()
)
"""Operators whose work is a few steps per element that they read or write."""

RANK_KEEPERS = frozenset(("", name) for name in (*CONVOLUTIONS, *PRODUCTS, *POOLS, *CHEAP))
"""Operators whose results have at most as many axes as what they read."""

Shapes = Mapping[str, tuple[int, ...] | None]
"""The axes of tensors by name; None where one of them is open."""


def check_graph(content: Any, path: Path) -> None:
    """Raise ModelError if operators or functions need one another in a circle.

    Runtimes hang on some of these, and while they write out functions that call functions.

    Args:
        content: an `onnx.ModelProto`.
    """
    asked = f"cannot use {path}"
    functions = {(each.domain, each.name): each.node for each in content.functions}
    calls = {name: list(map(_kind, _nested(nodes))) for name, nodes in functions.items()}
    sizes: dict[Any, int] = {}
    for name in _ordered({name: [c for c in calls[name] if c in calls] for name in calls}):
        if name is None:
            raise ModelError(asked, found="a function in it calls itself")
        sizes[name] = sum(sizes.get(callee, 1) for callee in calls[name])
    count = sum(sizes.get(_kind(node), 1) for node in _nested(content.graph.node))
    if count > MAX_NODES:
        raise ModelError(asked, found=f"its functions amount to {count:.0e} operators")
    for nodes in _levels(content.graph.node, *functions.values()):
        makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
        needs = {
            index: [makers[name] for name in read_by(node) if name in makers]
            for index, node in enumerate(nodes)
        }
        if None in _ordered(needs):
            raise ModelError(asked, found="its operators need one another's results in a circle")


def is_plain(content: Any, path: Path, size: tuple[int, int]) -> bool:
    """Whether the file's operators and shapes show that a run takes little memory and time.

    Args:
        content: an `onnx.ModelProto`, whose large constants are removed.
        size: (height, width) of the network's input.

    Raises:
        ModelError: they show the opposite.
    """
    graph = content.graph
    kinds = {_kind(node) for node in graph.node}
    shapes = shapes_at(content, size)
    total = work = 0.0
    for node in graph.node:
        for name in filter(None, node.output):
            elements = math.prod(shapes.get(name) or ())
            total += elements
            if elements > MODEL_GB.value() * 1e9:
                raise ModelError(
                    f"cannot use {path}",
                    found=f"its operator {node.op_type} makes {elements:.1e} numbers of an image "
                    f"of {size[0]}x{size[1]}, more than {MODEL_GB.value():.0f} GB",
                    do=MODEL_GB.advice,
                )
        cost = _cost(node, shapes)
        work = work + cost if cost is not None else math.inf
    most = max((math.prod(shape) for shape in shapes.values() if shape), default=0)
    return (
        kinds <= RANK_KEEPERS | {("", "ConvTranspose")}
        and not graph.sparse_initializer
        and most <= PLAIN_ELEMENTS
        and total <= PLAIN_TOTAL
        and work <= PLAIN_WORK
    )


def shapes_at(content: Any, size: tuple[int, int]) -> Shapes:
    """The shapes of all tensors for one image of `size` (height, width); what the file claims of
    them, except of its input and constants, does not count.

    Args:
        content: an `onnx.ModelProto`, whose large constants are removed.
    """
    import onnx

    graph = content.graph
    _renew(content)
    shapes: dict[str, tuple[int, ...] | None] = {t.name: tuple(t.dims) for t in graph.initializer}
    _fix_input(graph, shapes, size)
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    large = [t for t in graph.initializer if math.prod(t.dims) > SHAPE_ELEMENTS]
    small = [t for t in graph.initializer if math.prod(t.dims) <= SHAPE_ELEMENTS]
    inputs = {value.name for value in graph.input}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in large
        if t.name not in inputs
    )
    del graph.initializer[:]
    graph.initializer.extend(small)
    try:
        values = _values_are_short(graph)
        found = _inferred(content, values)
        for _ in range(QUOTIENTS if values else 0):
            if not _fix_quotients(graph, found | shapes):
                break
            found = _inferred(content, values)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError):
        return shapes
    return found | shapes


def _renew(content: Any) -> None:
    """Write operators of opset 11 to 13 as those of 14, which onnx follows through Reshape."""
    import onnx

    versions = [each for each in content.opset_import if each.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0].version not in OLD_OPSETS:
        return
    versions[0].version = OLD_OPSETS.stop
    for number, node in enumerate(content.graph.node):
        moved = [each for each in node.attribute if each.name == MOVED.get(node.op_type)]
        if moved and len(node.input) == 1:
            lengths = list(moved[0].ints)
            name = f"rtseg/moved/{number}"
            tensor = onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(lengths)], lengths)
            content.graph.initializer.append(tensor)
            node.input.append(name)
            node.attribute.remove(moved[0])


def _inferred(content: Any, values: bool) -> dict[str, tuple[int, ...] | None]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(content, data_prop=values).graph
    return {v.name: _dims(v) for v in (*graph.value_info, *graph.input, *graph.output)}


def _fix_quotients(graph: Any, shapes: Shapes) -> bool:
    """Replace quotients of known sides by constants, as onnx does not follow them; whether any.

    PyTorch exports `x.shape[2] // 4` as such a quotient.
    """
    import onnx

    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: _number(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output and len(node.attribute) == 1:
            constants[node.output[0]] = _number(node.attribute[0].t)

    def side(name: str) -> int | None:
        """An axis of a tensor whose shape is known, or a constant."""
        node = makers.get(name)
        if node is None or node.op_type != "Gather" or len(node.input) != 2:
            return constants.get(name)
        measured, axis = makers.get(node.input[0]), constants.get(node.input[1])
        if measured is None or measured.op_type != "Shape" or measured.attribute or axis is None:
            return None
        shape = shapes.get(measured.input[0]) if measured.input else None
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    fixed = False
    for node in graph.node:
        if node.op_type != "Div" or len(node.input) != 2 or len(node.output) != 1:
            continue
        above, below, shape = side(node.input[0]), side(node.input[1]), shapes.get(node.output[0])
        if above is None or below is None or below <= 0 or shape is None or math.prod(shape) != 1:
            continue
        name, value = node.output[0], [above // below]
        node.CopyFrom(
            onnx.helper.make_node(
                "Constant",
                [],
                [name],
                value=onnx.helper.make_tensor(name, onnx.TensorProto.INT64, shape, value),
            )
        )
        fixed = True
    return fixed


def _number(tensor: Any) -> int | None:
    """The value of a constant of one whole number."""
    import onnx

    if tensor.data_type != onnx.TensorProto.INT64 or math.prod(tensor.dims) != 1:
        return None
    if len(tensor.int64_data) == 1:
        return int(tensor.int64_data[0])
    raw = tensor.raw_data
    return int.from_bytes(raw, "little", signed=True) if len(raw) == 8 else None


def _values_are_short(graph: Any) -> bool:
    """Whether shape inference can follow the values of shapes without making long lists of them.

    Lists grow by Concat alone, which a hostile file can use to double one many times. `Shape` makes
    one of a tensor's axes, whose number a list may have set before.
    """
    lengths: dict[str, int] = {}
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    ranks |= {value.name: len(value.type.tensor_type.shape.dim) for value in graph.input}
    longest = RANK
    for node in graph.node:
        taken = [lengths.get(name, RANK) for name in node.input]
        axes = [ranks.get(name, RANK) for name in node.input]
        if node.op_type == "Concat":
            length = sum(taken)
        elif node.op_type == "Shape":
            length = max(axes, default=RANK)
        elif node.op_type == "Constant":
            held = [math.prod(a.t.dims) for a in node.attribute if a.HasField("t")]
            length = max(held, default=longest)
        elif node.op_type == "Gather":
            length = max(taken[1:], default=RANK)
        else:
            length = max(taken, default=RANK) if node.op_type in FOLLOWED else RANK
        longest = max(longest, length)
        lengths |= dict.fromkeys(node.output, length)
        if node.op_type in ("Constant", "Shape"):
            rank = max((len(a.t.dims) for a in node.attribute), default=1)
        elif node.op_type in ("Reshape", "ConstantOfShape"):
            rank = max(taken[-1:], default=RANK)
        elif node.op_type == "Expand":
            rank = max(taken + axes, default=RANK)
        elif node.op_type == "Gather":
            rank = sum(axes)
        elif node.op_type == "Unsqueeze":
            rank = sum(axes[:1]) + max(taken[1:], default=RANK)
        elif _kind(node) in RANK_KEEPERS:
            rank = max(axes, default=RANK)
        else:
            rank = longest
        longest = max(longest, rank)
        ranks |= dict.fromkeys(node.output, rank)
    return longest <= LONGEST_SHAPE


def _fix_input(graph: Any, numbers: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Set the axes that the file leaves open: one image, of that size."""
    for value in graph.input:
        axes = value.type.tensor_type.shape.dim
        if value.name in numbers or len(axes) != 4:
            continue
        last = axes[3].dim_value == 3  # NHWC
        for axis, length in zip(axes, (1, *size, 3) if last else (1, 3, *size), strict=True):
            axis.dim_value = axis.dim_value or length


def _dims(value: Any) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    known = kind.HasField("shape") and all(axis.HasField("dim_value") for axis in kind.shape.dim)
    return tuple(axis.dim_value for axis in kind.shape.dim) if known else None


def _cost(node: Any, shapes: Shapes) -> float | None:
    """At least the multiplications of an operator, or the elements that it reads or writes.

    None if a shape that it follows from is open.
    """
    taken = [shapes.get(name) for name in node.input if name]
    made = [shapes.get(name) for name in node.output if name]
    if None in made or not made:
        return None
    sides = [1]
    if node.op_type in CONVOLUTIONS:
        weight = shapes.get(node.input[CONVOLUTIONS[node.op_type]])
        if weight is None:
            return None
        sides = list(weight[1:])
    elif node.op_type == "ConvTranspose":
        if taken[1] is None:
            return None
        sides = list(taken[1])
    elif node.op_type in PRODUCTS:
        if not taken[0]:
            return None
        sides = [max(taken[0][-2:])]
    elif node.op_type in POOLS:
        sides = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [1])
    read = sum(math.prod(shape) for shape in taken if shape)
    return float(read + math.prod(sides) * sum(math.prod(shape) for shape in made if shape))


# --- nested graphs and functions -----------------------------------------------------------------


def _kind(node: Any) -> tuple[str, str]:
    """Domain and name of an operator or function."""
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def _graphs(node: Any) -> Iterator[Any]:
    """The graphs in an operator's attributes: branches, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _levels(*levels: Any) -> Iterator[Any]:
    """Lists of operators, and those of all graphs in them; protobuf limits how deep they nest."""
    for nodes in levels:
        yield nodes
        for node in nodes:
            for graph in _graphs(node):
                yield from _levels(graph.node)


def _nested(nodes: Any) -> Iterator[Any]:
    for level in _levels(nodes):
        yield from level


def read_by(node: Any) -> set[str]:
    """The tensors that an operator reads, and those from outside that graphs in it read."""
    names = set(node.input)
    for graph in _graphs(node):
        inside = {name for each in graph.node for name in each.output}
        inside |= {value.name for value in graph.input}
        names |= set().union(*map(read_by, graph.node)) - inside
        names |= {value.name for value in graph.output} - inside
    return names


def _ordered(needs: Mapping[Any, Iterable[Any]]) -> Iterator[Any]:
    """The keys, each after those that it needs; None at the end if some need one another."""
    missing = {key: len(set(needed)) for key, needed in needs.items()}
    users: dict[Any, list[Any]] = {key: [] for key in needs}
    for key, needed in needs.items():
        for other in set(needed):
            users[other].append(key)
    ready = [key for key, count in missing.items() if not count]
    while ready:
        yield (key := ready.pop())
        del missing[key]
        for user in users[key]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if missing:
        yield None
