"""Convert foreign ONNX files to rtseg's form: uint8 NHWC RGB in, float32 NCHW scores out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from rtseg.errors import ModelError, first_line
from rtseg.nets.onnx_file import INPUT_NAME, OUTPUT_NAME, precision_of, read_facts
from rtseg.zoo import InputSpec, Model, ModelSpec

KINDS = ("float32", "float16", "uint8")
"""Types that an input may have."""

PREFIX = "rtseg/"

CONVERTIBLE_OPSET = 13
"""The first with per-channel scales and optional inputs of Resize."""


def write_foreign(
    model: Model,
    size: tuple[int, int],
    path: Path,
    *,
    dynamic_batch: bool = False,
    convertible: bool = False,
) -> None:
    """Write a foreign model with its preprocessing inside, for an input of `size`.

    Its input settings become operators before it: exact, padding included. Its last layer stays
    as it is: one channel becomes two, probabilities stay probabilities.

    Args:
        convertible: raise the opset if it is too old for conversion to fp16 or int8.

    Raises:
        ModelError: the file cannot be converted.
    """
    assert model.file is not None
    _check_usable(model, dynamic_batch)
    content = onnx.load(model.file)
    if convertible:
        content = _raise_opset(content, model.spec.name)
    batch: int | str = "batch" if dynamic_batch else 1
    _free_names(content.graph)
    _prepend_preprocessing(content.graph, model.spec.input, [batch, *size, 3])
    _append_scores(content.graph, model.spec, batch)
    content.ir_version = max(content.ir_version, 8)  # since 4, weights need not be inputs
    del content.graph.value_info[:]  # may be of other shapes
    try:
        whole = onnx.shape_inference.infer_shapes(content, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        found = str(error).strip().splitlines()[-1]
        raise ModelError(f"cannot export {model.spec.name} at {size}", found=found) from error
    onnx.save(whole, path)


def _raise_opset(content: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model in a newer opset, its Resize operators without unused inputs."""
    found = next(entry.version for entry in content.opset_import if entry.domain in ("", "ai.onnx"))
    try:
        if found < CONVERTIBLE_OPSET:
            content = version_converter.convert_version(content, CONVERTIBLE_OPSET)
    except RuntimeError as error:
        raise ModelError(
            f"cannot convert {name}",
            found=f"its opset {found} cannot be raised to {CONVERTIBLE_OPSET}: {first_line(error)}",
            do="Export it again from its framework in a newer opset",
        ) from error
    empty = {tensor.name for tensor in content.graph.initializer if 0 in tensor.dims}
    for node in content.graph.node:
        if node.op_type == "Resize":
            # two that share an empty input become invalid when converted to fp16
            node.input[1:] = ["" if name in empty else name for name in node.input[1:]]
    return content


def _check_usable(model: Model, dynamic_batch: bool) -> None:
    assert model.file is not None
    facts = read_facts(model.file)
    name = model.spec.output_name or next(iter(facts.outputs))
    asked = f"cannot export {model.spec.name}"
    if facts.kinds[name].startswith(("int", "uint")):
        raise ModelError(asked, found="it returns class indices, not scores")
    if facts.dtype not in KINDS:
        raise ModelError(asked, found=f"its input type is {facts.dtype}")
    if facts.dtype == "uint8" and not _is_plain(model.spec.input):
        raise ModelError(asked, found="its input is quantised")
    if (found := precision_of(model.file)) != "fp32":
        raise ModelError(asked, found=f"its file is in {found}", do="Start from the fp32 file")
    if dynamic_batch and facts.input[0] is not None:
        raise ModelError(
            f"--dynamic-batch for {model.spec.name}", found=f"its file takes {facts.input[0]}"
        )


def _is_plain(spec: InputSpec) -> bool:
    """Whether pixels are not normalised."""
    return spec.scale == 1 and set(spec.mean) == {0} and set(spec.std) == {1}


def _free_names(graph: Any) -> None:
    """Rename what has the names of our input and output, and name every operator."""
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = _freed(name)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = _freed(value.name)


def _freed(name: str) -> str:
    return f"{PREFIX}{name}" if name in (INPUT_NAME, OUTPUT_NAME) else name


def _prepend_preprocessing(graph: Any, spec: InputSpec, dims: list[int | str]) -> None:
    """Insert operators that convert uint8 RGB to the model's own input."""
    numbers = {tensor.name for tensor in graph.initializer}
    theirs = next(value for value in graph.input if value.name not in numbers)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, dims))
    nodes: list[Any] = []
    at = INPUT_NAME

    def then(operator: str, *inputs: str, **attributes: Any) -> None:
        nonlocal at
        name = f"{PREFIX}in/{len(nodes)}"
        nodes.append(helper.make_node(operator, [at, *inputs], [name], name=name, **attributes))
        at = name

    def number(name: str, values: Any, dtype: type) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), PREFIX + name))
        return PREFIX + name

    if spec.colour == "BGR":
        then("Gather", number("colours", [2, 1, 0], np.int64), axis=3)
    kind = theirs.type.tensor_type.elem_type
    if kind != TensorProto.UINT8 and not _is_plain(spec):
        std = np.array(spec.std, np.float64)
        then("Cast", to=TensorProto.FLOAT)
        then("Mul", number("factor", spec.scale / std, np.float32))
        then("Sub", number("shift", np.array(spec.mean) / std, np.float32))
    if kind != TensorProto.UINT8:
        then("Cast", to=kind)
    if spec.layout == "NCHW":
        then("Transpose", perm=[0, 3, 1, 2])
    nodes.append(helper.make_node("Identity", [at], [theirs.name], name=f"{PREFIX}in/last"))
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *after])


def _append_scores(graph: Any, spec: ModelSpec, batch: int | str) -> None:
    """Append operators that convert the model's output to float32 NCHW scores."""
    wanted = _freed(spec.output_name) if spec.output_name else graph.output[0].name
    theirs = next(value for value in graph.output if value.name == wanted)
    dims = theirs.type.tensor_type.shape.dim
    channels = dims[1 if spec.output_layout == "NCHW" else 3].dim_value
    at = theirs.name
    if spec.output_layout == "NHWC":
        graph.node.append(helper.make_node("Transpose", [at], [f"{PREFIX}out"], perm=[0, 3, 1, 2]))
        at = f"{PREFIX}out"
    if theirs.type.tensor_type.elem_type != TensorProto.FLOAT:
        node = helper.make_node("Cast", [at], [f"{PREFIX}float"], to=TensorProto.FLOAT)
        graph.node.append(node)
        at = f"{PREFIX}float"
    if channels == 1 and len(spec.labels) == 2:
        at = _two_channels(graph, at, spec.output == "probabilities")
    graph.node.append(helper.make_node("Identity", [at], [OUTPUT_NAME], name=f"{PREFIX}out/last"))
    del graph.output[:]
    open_dims = [batch, len(spec.labels), None, None]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, open_dims))


def _two_channels(graph: Any, at: str, probable: bool) -> str:
    """Turn one channel p into two: (1 - p, p), or for a logit (0, p)."""
    # the other channel is p * -1 + 1 or p * 0 + 0
    factor, rest = (-1, 1) if probable else (0, 0)
    for name, value in (("factor", factor), ("rest", rest)):
        tensor = numpy_helper.from_array(np.array(value, np.float32), f"{PREFIX}out/{name}")
        graph.initializer.append(tensor)
    product, other, both = (f"{PREFIX}out/{name}" for name in ("product", "other", "both"))
    graph.node.extend(
        [
            helper.make_node("Mul", [at, f"{PREFIX}out/factor"], [product]),
            helper.make_node("Add", [product, f"{PREFIX}out/rest"], [other]),
            helper.make_node("Concat", [other, at], [both], axis=1),
        ]
    )
    return both


def write_half(source: Path, target: Path) -> None:
    """Convert weights and arithmetic to half precision; input and output keep their types.

    By ONNX Runtime's converter, which leaves operators without a half-precision form as they are.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():  # about every weight that is truncated
        warnings.simplefilter("ignore", UserWarning)
        converted = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    ordered = ONNXModel(converted)  # it puts casts after their readers
    ordered.topological_sort()
    onnx.save(ordered.model, target)
